"""YAML como todo o repositório o lê: chave repetida é erro, e os erros saem em português."""

import re
from pathlib import Path

from comum.files import read_text
from comum.terminal import UserError

import yaml


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """O da libyaml, dez vezes mais rápido, onde há.

    Só números, true, false e null não são texto. O YAML 1.1 leria 2024-01-01 como data, 1:30 como
    90, 010 como 8, `no` como false e 2e-4 como texto.
    """

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or name in names:
                wrong = f"a chave `{name}` aparece mais de uma vez" if name else "falta um nome"
                raise UserError(f"{_where(key.start_mark)}: {wrong}")
            names.add(name)
        return super().construct_mapping(node, deep)


for _tag, _pattern in {
    "merge": r"<<\Z",
    "null": r"(~|null|)\Z",
    "bool": r"(true|false)\Z",
    "int": r"[-+]?(0|[1-9]\d*)\Z",
    "float": r"[-+]?((\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?|\.inf|\.nan)\Z",
}.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern, re.I), None)


def parse_yaml(text: str) -> object:
    """O valor escrito em `text`.

    Raises:
        UserError: não é YAML; diz a linha e a coluna.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506  (herda do SafeLoader)
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError) as error:
        marks = [getattr(error, f"{kind}_mark", None) for kind in ("problem", "context")]
        # O que não se fecha só se nota no fim do texto: mostra-se onde se abriu.
        lines = text.rstrip().split("\n")
        mark = next((m for m in marks if m and m.line < len(lines)), None)
        if mark is None:
            cut = "o texto acaba antes de se fechar o que abriu (aspas, colchetes ou chaves)"
            wrong = "há um caractere inválido, ou colchetes demais"
            raise UserError(cut if any(marks) else wrong) from error
        shown = lines[mark.line].strip()[:60]
        raise UserError(
            f"{_where(mark)}: não entendi `{shown}`; confira aspas, colchetes, dois-pontos e o "
            "recuo, que é de espaços"
        ) from error


def read_yaml(path: Path) -> dict:
    """Um arquivo que é um mapa, ou vazio.

    Raises:
        UserError: não se lê, não é YAML, ou não é um mapa.
    """
    text = read_text(path)
    try:
        values = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path} não é um YAML válido: {error}.") from error
    if isinstance(values, dict | None):
        return values or {}
    raise UserError(f"{path} tem de ser um mapa: chaves, dois-pontos e valores.")


def _where(mark: yaml.Mark) -> str:
    return f"linha {mark.line + 1}, coluna {mark.column + 1}"
