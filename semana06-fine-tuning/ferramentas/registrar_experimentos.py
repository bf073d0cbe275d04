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
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from argumentos import Parser
from tabelas_experimentos import SHORT_RUNS, TABLES, Result, Table

WEEK_DIR = Path(__file__).resolve().parents[1]
DOCUMENTS = [WEEK_DIR / "experimentos.md", WEEK_DIR / "notas.md"]
MINE, REFERENCE = "Sua medida", "Medida de referência"
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
OPENING = re.compile(r"<!-- tabela: (\w+)(?: soma: ([0-9a-f]{8}))? -->")
CLOSING = re.compile(r"<!-- /tabela: (\w+) -->")
OPENING_FORM, CLOSING_FORM = "<!-- tabela: {} -->", "<!-- /tabela: {} -->"


class UserError(Exception):
    """Algo que quem usa pode corrigir; a mensagem diz o quê, onde e como."""


@dataclass(frozen=True)
class Block:
    """Uma tabela no texto: as linhas das marcas, a partir de 0, e a soma que a primeira guarda."""

    name: str
    opening: int
    closing: int
    checksum: str | None


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        if args.save_reference:
            save_reference(args.results, args.reference)
        sides = {} if args.save_reference else {MINE: Folder(args.results)}
        sides[REFERENCE] = Folder(args.reference)
        # Todos são lidos e conferidos antes de o primeiro ser gravado.
        plans = [(path, *plan(path, sides)) for path in args.documents]
        for path, old, new, changes in plans:
            report(path, changes, args.check)
            if new != old and not args.check:
                write(path, old, new)
    except UserError as error:
        print(f"Erro: {error}", file=sys.stderr)
        return 2
    return int(args.check and any(new != old for _, old, new, _ in plans))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("documents", nargs="*", type=Path, default=DOCUMENTS, metavar="ARQUIVO",
                        help="o que preencher (padrão: experimentos.md e notas.md)")  # fmt: skip
    parser.add_argument("--results", type=Path, default=WEEK_DIR / "resultados", metavar="PASTA",
                        help="pasta dos seus resultados")  # fmt: skip
    parser.add_argument("--reference", type=Path, default=WEEK_DIR / "referencia", metavar="PASTA",
                        help="pasta dos resultados de referência")  # fmt: skip
    parser.add_argument("--check", action="store_true",
                        help="não grava; termina com 1 se algo mudaria")  # fmt: skip
    parser.add_argument("--save-reference", action="store_true",
                        help="manutenção: os resultados de agora viram referência")  # fmt: skip
    return parser.parse_args(argv)


# --- resultados -----------------------------------------------------------------------------------


class Folder:
    """Uma pasta de resultados; cada JSON é lido uma vez."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: dict[str, dict | None] = {}

    def first(self, names: tuple[str, ...]) -> Result | None:
        """O primeiro resultado que existe, ou None."""
        for name in names:
            if name not in self.read:
                path = self.path / f"{name}.json"
                self.read[name] = read_result(path) if path.is_file() else None
            if self.read[name] is not None:
                return Result(name, self.read[name])
        return None


def read_result(path: Path) -> dict:
    """Lê um JSON de resultados, com os caminhos desta máquina encurtados.

    Raises:
        UserError: o arquivo está cortado ou não é um objeto JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("não é um objeto")
    except ValueError as error:
        raise UserError(
            f"{path} não é um resultado legível ({error}). Apague-o e rode de novo o comando que o "
            "produz; nenhum arquivo foi mudado."
        ) from error
    return without_local_paths(content)


def without_local_paths(value):
    """O mesmo valor, com os caminhos de dentro da semana contados a partir dela."""
    if isinstance(value, dict):
        return {key: without_local_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    return value.replace(f"{WEEK_DIR}{os.sep}", "") if isinstance(value, str) else value


def save_reference(results: Path, reference: Path) -> None:
    """Copia para `reference` os resultados completos que alguma tabela usa."""
    reference.mkdir(parents=True, exist_ok=True)
    names = {name for table in TABLES.values() for part in table.parts for name in part.names}
    for name in sorted(names - SHORT_RUNS):
        path = results / f"{name}.json"
        if path.is_file():
            text = json.dumps(read_result(path), ensure_ascii=False, indent=1) + "\n"
            write_atomic(reference / path.name, text.encode())
            print(f"referência: {name}.json")


# --- tabelas em Markdown --------------------------------------------------------------------------


def render(table: Table, sides: dict[str, Folder]) -> list[str]:
    """As linhas do bloco: uma tabela por lado que tem medidas, ou o que falta rodar."""
    found = {title: [folder.first(part.names) for part in table.parts]
             for title, folder in sides.items()}  # fmt: skip
    measured = {title: results for title, results in found.items() if any(results)}
    if len(measured) == 2 and _same(measured[MINE], measured[REFERENCE]):
        del measured[MINE]
    lines: list[str] = []
    for title, results in measured.items():
        origin = [f"**{title}**" + _origin(results) + ".", ""]
        lines += ["", *origin, *_grid(table, results)]
    return lines[1:] if measured else _grid(table, [None] * len(table.parts))


def _same(mine: list[Result | None], reference: list[Result | None]) -> bool:
    pairs = zip(mine, reference, strict=True)
    return all(ours is None or (theirs is not None and ours.data == theirs.data)
               for ours, theirs in pairs)  # fmt: skip


def _origin(results: list[Result | None]) -> str:
    """De onde veio a medida; com mais de um resultado, cada linha diz o seu comando."""
    if len(results) != 1:
        return ""
    return f": {results[0].origin()}"


def _grid(table: Table, results: list[Result | None]) -> list[str]:
    width = len(table.header)
    rows, notes = [], []
    for part, result in zip(table.parts, results, strict=True):
        if result is None:
            rows.append([f"*ainda não medido; rode* `{part.command}`"] + [""] * (width - 1))
            continue
        try:
            found = part.rows(result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{result.name}.json não tem a forma esperada ({type(error).__name__}: {error}). "
                f"Rode de novo `{part.command}`; nenhum arquivo foi mudado."
            ) from error
        empty = f"*esta corrida não mediu isto; rode* `{part.command}`"
        rows += found or [[empty] + [""] * (width - 1)]
        notes += [f"– : `{result.name}.json` não traz `{key}`." for key in result.absent]
    if any(len(row) != width for row in rows):
        raise AssertionError(f"tabela com linhas de larguras diferentes: {table.header}")
    lines = [_row(table.header), "|" + "---|" * width, *map(_row, rows)]
    return lines + [line for note in dict.fromkeys(notes) for line in ("", note)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(text) for text in cells) + " |"


def _cell(text: str) -> str:
    """Um texto qualquer numa célula: sem quebrar a coluna, a linha nem as marcas."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text.replace("<!", "&lt;!").replace("-->", "--&gt;")


# --- o arquivo ------------------------------------------------------------------------------------


def plan(path: Path, sides: dict[str, Folder]) -> tuple[bytes, bytes, dict[str, str]]:
    """O que o arquivo é, o que deve ser e o que muda em cada tabela.

    Raises:
        UserError: o arquivo não existe, não é UTF-8, tem marcas estragadas ou texto dentro delas.
    """
    if not path.is_file():
        raise UserError(f"o arquivo {path} não existe.")
    old = path.read_bytes()
    try:
        lines = LINE.findall(old.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = old[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: há um byte que não é UTF-8 (0x{old[error.start]:02x}). Salve o "
            "arquivo como UTF-8 no seu editor e repita; nada foi mudado."
        ) from error
    blocks = find_blocks(path, lines)
    check_contents(path, lines, blocks)
    changes = {}
    for block in reversed(blocks):  # de trás para a frente: os números das linhas seguem valendo
        content = render(TABLES[block.name], sides)
        before = "".join(lines[block.opening + 1 : block.closing])
        if same_content(before, "\n".join(content)) and block.checksum:
            changes[block.name] = "igual"
            continue
        changes[block.name] = "mudou" if before.strip() else "preenchida"
        opening = lines[block.opening]
        ending = opening[len(opening.rstrip("\r\n")) :]
        mark = f"<!-- tabela: {block.name} soma: {checksum(''.join(content))} -->"
        body = [line + ending for line in ["", *content, ""]]
        lines[block.opening : block.closing] = [OPENING.sub(mark, opening), *body]
    return old, "".join(lines).encode("utf-8"), dict(reversed(changes.items()))


def find_blocks(path: Path, lines: list[str]) -> list[Block]:
    """As tabelas do arquivo, na ordem.

    Raises:
        UserError: com todas as marcas estragadas, cada uma com a linha e o conserto.
    """
    blocks: list[Block] = []
    problems: list[str] = []
    current: tuple[str, int, str | None] | None = None

    def problem(line: int, text: str) -> None:
        problems.append(f"{path}:{line + 1}: {text}")

    for number, line in enumerate(lines):
        text = line.strip().removeprefix("\ufeff")
        opening, closing = OPENING.fullmatch(text), CLOSING.fullmatch(text)
        if opening:
            name = opening[1]
            if current is not None:
                problem(current[1], _unclosed(current[0], number))
            if name not in TABLES:
                problem(number, f"não conheço a tabela `{name}`{_hint(name)}")
            elif name in {b.name for b in blocks} or (current and current[0] == name):
                problem(number, f"a tabela `{name}` já apareceu antes; apague uma das duas, com "
                                "as suas marcas")  # fmt: skip
            current = (name, number, opening[2])
        elif closing:
            if current is None or current[0] != closing[1]:
                form = OPENING_FORM.format(closing[1])
                problem(number, f"esta marca fecha `{closing[1]}`, que não está aberta aqui; ponha "
                                f"`{form}` antes da tabela, ou apague esta linha")  # fmt: skip
                continue
            blocks.append(Block(current[0], current[1], number, current[2]))
            current = None
        elif _looks_like_a_mark(text):
            problem(number, "esta linha parece uma marca estragada. As marcas ficam sozinhas na "
                            f"linha e são assim: `{OPENING_FORM.format('nome')}` e "
                            f"`{CLOSING_FORM.format('nome')}`")  # fmt: skip
    if current is not None:
        problem(current[1], _unclosed(current[0], len(lines)))
    if problems:
        raise UserError("há marcas estragadas, e nada foi mudado:\n  " + "\n  ".join(problems))
    return blocks


def _unclosed(name: str, number: int) -> str:
    return (f"a tabela `{name}` abre aqui e não fecha até a linha {number}; ponha "
            f"`{CLOSING_FORM.format(name)}`, sozinha numa linha, onde ela termina")  # fmt: skip


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, TABLES, n=1)
    known = f"você quis dizer `{close[0]}`?" if close else f"as que existem: {', '.join(TABLES)}"
    return f"; {known}"


def _looks_like_a_mark(text: str) -> bool:
    comment = "<!" in text or "-->" in text
    named = re.search(r"tabela\s*:\s*\w", text, re.IGNORECASE) or any(
        re.search(rf"\b{name}\b", text) for name in TABLES
    )
    return bool(comment and named)


def check_contents(path: Path, lines: list[str], blocks: list[Block]) -> None:
    """Recusa a tabela em que alguém escreveu: reescrevê-la apagaria o que não é nosso."""
    for block in blocks:
        content = "".join(lines[block.opening + 1 : block.closing])
        if content.strip() and checksum(content) != block.checksum:
            raise UserError(
                f"{path}:{block.opening + 2}: dentro da tabela `{block.name}` (linhas "
                f"{block.opening + 2} a {block.closing}) há texto que este programa não escreveu. "
                "Passe o que é seu para depois da marca de fim e apague o resto do que está entre "
                "as marcas: a tabela é refeita. Nada foi mudado."
            )


def checksum(content: str) -> str:
    """Soma do conteúdo sem espaços e com traços juntos: um formatador pode alinhar as colunas."""
    return hashlib.sha256(_bare(content).encode()).hexdigest()[:8]


def same_content(left: str, right: str) -> bool:
    return _bare(left) == _bare(right)


def _bare(content: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"\s+", "", content))


def report(path: Path, changes: dict[str, str], check: bool) -> None:
    changed = [f"{name} ({how})" for name, how in changes.items() if how != "igual"]
    absent = [name for name in TABLES if name not in changes]
    verb = "mudaria" if check else "mudou"
    print(f"{path.name}: {verb}: {', '.join(changed)}" if changed else f"{path.name}: em dia")
    if path.name == DOCUMENTS[0].name and absent:
        marks = f"{OPENING_FORM.format(absent[0])} e {CLOSING_FORM.format(absent[0])}"
        print(f"{path.name}: sem lugar para {', '.join(absent)}. Para ter uma, ponha onde a quiser "
              f"as duas marcas dela: {marks}.")  # fmt: skip


def write(path: Path, old: bytes, new: bytes) -> None:
    """Guarda a cópia e grava de uma vez só, se ninguém mexeu no arquivo enquanto isso."""
    path = path.resolve()  # um atalho continua atalho
    if path.read_bytes() != old:
        raise UserError(f"{path} mudou enquanto eu trabalhava. Salve-o no editor e repita.")
    backup = path.with_name(f"{path.name}.bak")
    write_atomic(backup, old)
    write_atomic(path, new)
    print(f"cópia do que havia: {backup}")


def write_atomic(path: Path, content: bytes) -> None:
    """Grava de uma vez só, com as permissões que o arquivo tinha."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"não consegui gravar {path} ({error.strerror}).") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
