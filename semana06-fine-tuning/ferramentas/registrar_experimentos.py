"""Preenche as tabelas de experimentos.md e de notas.md com os resultados medidos.

    python semana06-fine-tuning/ferramentas/registrar_experimentos.py           # preenche
    python semana06-fine-tuning/ferramentas/registrar_experimentos.py --check   # só confere

O primeiro é o mesmo que `make experimentos`. Cada tabela mora entre duas marcas, comentários HTML
que o Markdown não mostra. Só o que está entre elas é reescrito: o resto do arquivo, que é de quem
estuda, fica igual byte a byte. A marca de abertura guarda a soma do que foi escrito ali; se alguém
escreveu dentro da tabela, o programa para e diz onde, em vez de apagar. Antes de gravar fica uma
cópia do arquivo em `….bak`.

Os números vêm de `resultados/` (os seus) e de `referencia/` (os nossos, que acompanham o
repositório). Quando há os dois, as duas tabelas aparecem, uma abaixo da outra.
"""

import argparse
import difflib
import hashlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from comum.files import write_json, write_text
from comum.numbers import MISSING
from comum.paths import REFERENCE_DIR, RESULTS_DIR, WEEK_DIR
from comum.results import Result
from comum.tables import markdown
from comum.terminal import Parser, UserError, run_main

from tabelas_experimentos import SOURCES, TABLES, Source, Table, rows_of

DOCUMENTS = [WEEK_DIR / "experimentos.md", WEEK_DIR / "notas.md"]
MINE, REFERENCE = "Sua medida", "Medida de referência"
OPENING = re.compile(r"<!-- tabela: (\w+)(?: soma: ([0-9a-f]{8}))? -->")
CLOSING = re.compile(r"<!-- /tabela: (\w+) -->")
UNCLOSED = (
    "a tabela `{0}` abre aqui e não fecha até a linha {1}; ponha `<!-- /tabela: {0} -->`, sozinha "
    "numa linha, onde ela termina"
)
UNOPENED = (
    "esta marca fecha `{0}`, que não está aberta aqui; ponha `<!-- tabela: {0} -->` antes da "
    "tabela, ou apague esta linha"
)
TWICE = "a tabela `{0}` já apareceu antes; apague uma das duas, com as suas marcas"
DAMAGED = (
    "esta linha parece uma marca estragada. As marcas ficam sozinhas na linha e são assim: "
    "`<!-- tabela: nome -->` e `<!-- /tabela: nome -->`"
)


@dataclass
class Block:
    """Uma tabela no texto: a soma que a marca guarda e as linhas das marcas, a partir de 0."""

    name: str
    checksum: str | None
    opening: int
    closing: int = 0


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.save_reference:
        save_reference(Folder(args.results), args.reference)
    sides = {} if args.save_reference else {MINE: Folder(args.results)}
    sides[REFERENCE] = Folder(args.reference)
    # Todos são lidos e conferidos antes de o primeiro ser gravado.
    plans = [(path, *plan(path, sides)) for path in args.documents]
    for path, old, new, changes in plans:
        report(path, changes, args.check)
        if new != old and not args.check:
            write(path, old, new)
    return int(args.check and any(new != old for _, old, new, _ in plans))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, folder = parser.add_argument, {"type": Path, "metavar": "PASTA"}
    what = "o que preencher (padrão: experimentos.md e notas.md)"
    add("documents", nargs="*", type=Path, default=DOCUMENTS, metavar="ARQUIVO", help=what)
    add("--results", **folder, default=RESULTS_DIR, help="pasta dos seus resultados")
    add("--reference", **folder, default=REFERENCE_DIR, help="pasta dos resultados de referência")
    add("--check", action="store_true", help="não grava; termina com 1 se algo mudaria")
    what = "manutenção: os resultados de agora viram referência"
    add("--save-reference", action="store_true", help=what)
    return parser.parse_args(argv)


# --- resultados -----------------------------------------------------------------------------------
class Folder:
    """Uma pasta de resultados; cada um é lido uma vez."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Result] = {}

    def first(self, source: Source) -> tuple[str, Result] | None:
        """O primeiro resultado da fonte que existe, com o nome dele."""
        found = ((name, self.read(name, source)) for name in source.names)
        return next((pair for pair in found if pair[1]), None)

    def read(self, name: str, source: Source) -> Result | None:
        """O resultado, com os caminhos de dentro da semana contados a partir dela.

        Raises:
            UserError: o arquivo não se lê, ou é de outra forma.
        """
        path = self.path / f"{name}.json"
        if name not in self.results and path.is_file():
            try:
                content = json.dumps(source.shape.load(path).model_dump(), ensure_ascii=False)
            except UserError as error:
                again = f"O comando é `{source.command}`; nenhum arquivo foi mudado."
                raise UserError(f"{error} {again}") from error
            local = json.dumps(f"{WEEK_DIR}{os.sep}", ensure_ascii=False)[1:-1]
            self.results[name] = source.shape.model_validate(json.loads(content.replace(local, "")))
        return self.results.get(name)


def save_reference(results: Folder, reference: Path) -> None:
    """Copia para `reference` os resultados que alguma tabela usa, menos os dos comandos curtos."""
    for name, source in {source.names[0]: source for source in SOURCES.values()}.items():
        if (found := results.read(name, source)) is not None:
            write_json(reference / f"{name}.json", found.model_dump(mode="json"))
            print(f"referência: {name}.json")


# --- tabelas em Markdown --------------------------------------------------------------------------
def render(table: Table, sides: dict[str, Folder]) -> list[str]:
    """As linhas do bloco: uma tabela por lado que tem medidas, ou o que falta rodar."""
    found = {title: [folder.first(s) for s in table.sources] for title, folder in sides.items()}
    measured = {title: results for title, results in found.items() if any(results)}
    if len(measured) == 2:
        pairs = zip(measured[MINE], measured[REFERENCE], strict=True)
        if all(mine in (None, reference) for mine, reference in pairs):
            del measured[MINE]
    lines: list[str] = []
    for title, results in measured.items():
        # Com mais de um resultado, cada linha diz o seu comando.
        origin = f": {_cell(_origin(results[0][1]))}" if len(results) == 1 else ""
        lines += ["", f"**{title}**{origin}.", "", *_grid(table, results)]
    return lines[1:] if measured else _grid(table, [None] * len(table.sources))


def _origin(result: Result) -> str:
    """Comando, data, máquina e versões, numa frase."""
    machine, versions = result.machine, result.versions
    parts = [
        f"`{result.command}`",
        datetime.fromisoformat(result.when).strftime("%d/%m/%Y") if result.when else "sem data",
        machine.processor if machine else "máquina desconhecida",
        f"{machine.threads} threads" if machine and machine.threads else "",
        (machine.gpu or "sem GPU") if machine else "",
        *(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions),
        f"código `{result.commit}`" if result.commit else "",
    ]
    return ", ".join(part for part in parts if part)


def _grid(table: Table, results: list[tuple[str, Result] | None]) -> list[str]:
    width = len(table.header)
    rows, notes = [], []
    for source, found in zip(table.sources, results, strict=True):
        if found is None:
            rows.append([f"*ainda não medido; rode* `{source.command}`", *[""] * (width - 1)])
            continue
        file, result = found
        try:
            measured = rows_of(table, result)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(
                f"{file}.json não tem a forma esperada ({type(error).__name__}: {error}). Rode de "
                f"novo `{source.command}`; nenhum arquivo foi mudado."
            ) from error
        empty = f"*esta corrida não mediu isto; rode* `{source.command}`"
        rows += measured or [[empty, *[""] * (width - 1)]]
        if any(MISSING in row for row in measured):
            notes += ["", f"{MISSING} : `{file}.json` não traz esta medida."]
    return [*markdown(table.header, [map(_cell, row) for row in rows]).split("\n"), *notes]


def _cell(text: str) -> str:
    """Um texto qualquer numa célula, sem quebrar a linha nem as marcas."""
    return " ".join(text.split()).replace("<!", "&lt;!").replace("-->", "--&gt;")


# --- o arquivo ------------------------------------------------------------------------------------
def plan(path: Path, sides: dict[str, Folder]) -> tuple[str, str, dict[str, str]]:
    """O que o arquivo é, o que deve ser e o que muda em cada tabela.

    Raises:
        UserError: o arquivo não existe, não é UTF-8, tem marcas estragadas ou texto dentro delas.
    """
    old = read(path)
    lines = io.StringIO(old, newline="").readlines()
    changes, new, done = {}, [], 0
    for block in find_blocks(path, lines):
        first, last = block.opening + 1, block.closing
        before = "".join(lines[first:last])
        if before.strip() and checksum(before) != block.checksum:
            raise UserError(
                f"{path}:{first + 1}: dentro da tabela `{block.name}` (linhas {first + 1} a "
                f"{last}) há texto que este programa não escreveu. Passe o que é seu para depois "
                "da marca de fim e apague o resto do que está entre as marcas: a tabela é refeita. "
                "Nada foi mudado."
            )
        content = render(TABLES[block.name], sides)
        total = checksum("".join(content))
        if before.strip() and total == block.checksum:
            changes[block.name] = "igual"
            continue
        changes[block.name] = "mudou" if before.strip() else "preenchida"
        opening = lines[block.opening]
        ending = opening[len(opening.rstrip("\r\n")) :]
        mark = f"<!-- tabela: {block.name} soma: {total} -->"
        body = (line + ending for line in ["", *content, ""])
        new += [*lines[done : block.opening], OPENING.sub(mark, opening), *body]
        done = last
    return old, "".join([*new, *lines[done:]]), changes


def read(path: Path) -> str:
    """O texto do arquivo, com os finais de linha que tem."""
    if not path.is_file():
        raise UserError(f"o arquivo {path} não existe.")
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        repair = "Salve o arquivo como UTF-8 no seu editor e repita; nada foi mudado."
        what = f"há um byte que não é UTF-8 (0x{byte:02x}). {repair}"
        raise UserError(f"{path}:{line}: {what}") from error


def find_blocks(path: Path, lines: list[str]) -> list[Block]:
    """As tabelas do arquivo, na ordem.

    Raises:
        UserError: com todas as marcas estragadas, cada uma com a linha e o conserto.
    """
    blocks: list[Block] = []
    problems: list[str] = []
    seen: set[str] = set()
    current: Block | None = None  # a que está aberta

    def problem(line: int, text: str) -> None:
        problems.append(f"{path}:{line + 1}: {text}")

    for number, line in enumerate([*lines, ""]):
        text = line.strip().removeprefix("\ufeff")
        opening, closing = OPENING.fullmatch(text), CLOSING.fullmatch(text)
        if current and (opening or number == len(lines)):
            problem(current.opening, UNCLOSED.format(current.name, number))
        if opening:
            name, total = opening.groups()
            if name not in TABLES:
                problem(number, f"não conheço a tabela `{name}`; {_hint(name)}")
            elif name in seen:
                problem(number, TWICE.format(name))
            seen.add(name)
            current = Block(name, total, number)
        elif closing and current and current.name == closing[1]:
            current.closing = number
            blocks.append(current)
            current = None
        elif closing:
            problem(number, UNOPENED.format(closing[1]))
        elif _looks_like_a_mark(text):
            problem(number, DAMAGED)
    if problems:
        raise UserError("há marcas estragadas, e nada foi mudado:\n  " + "\n  ".join(problems))
    return blocks


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, TABLES, n=1)
    return f"você quis dizer `{close[0]}`?" if close else f"as que existem: {', '.join(TABLES)}"


def _looks_like_a_mark(text: str) -> bool:
    comment = "<!" in text or "-->" in text
    names = "|".join(TABLES)
    return comment and bool(re.search(rf"(?i:tabela\s*:\s*\w)|\b(?:{names})\b", text))


def checksum(content: str) -> str:
    """Soma do conteúdo sem espaços e com traços juntos: um formatador pode alinhar as colunas."""
    bare = re.sub(r"-{2,}", "-", re.sub(r"\s+", "", content))
    return hashlib.sha256(bare.encode()).hexdigest()[:8]


def report(path: Path, changes: dict[str, str], check: bool) -> None:
    changed = [f"{name} ({how})" for name, how in changes.items() if how != "igual"]
    absent = [name for name in TABLES if name not in changes]
    verb = "mudaria" if check else "mudou"
    print(f"{path.name}: {verb}: {', '.join(changed)}" if changed else f"{path.name}: em dia")
    if path.name == DOCUMENTS[0].name and absent:
        marks = f"<!-- tabela: {absent[0]} --> e <!-- /tabela: {absent[0]} -->"
        where = f"Para ter uma, ponha onde a quiser as duas marcas dela: {marks}."
        print(f"{path.name}: sem lugar para {', '.join(absent)}. {where}")


def write(path: Path, old: str, new: str) -> None:
    """Guarda a cópia e grava de uma vez só, se ninguém mexeu no arquivo enquanto isso."""
    path = path.resolve()  # um atalho continua atalho
    if path.read_bytes() != old.encode():
        raise UserError(f"{path} mudou enquanto eu trabalhava. Salve-o no editor e repita.")
    backup = path.with_name(f"{path.name}.bak")
    try:
        write_text(backup, old)
        write_text(path, new)
    except OSError as error:
        raise UserError(f"não consegui gravar {path} ({error.strerror}).") from error
    print(f"cópia do que havia: {backup}")


if __name__ == "__main__":
    sys.exit(run_main(main))
