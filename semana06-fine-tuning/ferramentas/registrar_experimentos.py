"""Leva os resultados medidos ao caderno, experimentos.md, e às páginas com todos os números.

    python semana06-fine-tuning/ferramentas/registrar_experimentos.py           # escreve
    python semana06-fine-tuning/ferramentas/registrar_experimentos.py --check   # só confere

O primeiro é o mesmo que `make experimentos`. No caderno, cada dia tem um bloco entre duas marcas,
comentários HTML que o Markdown não mostra. Só o que está entre elas é reescrito: o resto, que é de
quem estuda, fica igual byte a byte. A marca de abertura guarda a soma do que foi escrito ali; se
alguém escreveu dentro do bloco, o programa para e diz onde, em vez de apagar. Antes de gravar fica
uma cópia do caderno em `experimentos.md.bak` (depois, `….bak1`, `….bak2`: nenhuma se perde).

O caderno recebe só os seus números, de `resultados/`. As páginas `resultados/README.md` (os seus) e
`referencia/README.md` (os nossos, que acompanham o repositório) são refeitas inteiras.
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from comum.files import write_json, write_text
from comum.paths import REFERENCE_DIR, RESULTS_DIR, WEEK_DIR
from comum.terminal import Parser, UserError, run_main

from measured_pages import FILES, Measured, block_lines, page

DAYS = [f"dia{number}" for number in range(1, 8)]
BOOK = WEEK_DIR / "experimentos.md"
OPENING = re.compile(r"<!-- medidas: (\w+)(?: soma: ([0-9a-f]{8}))? -->")
CLOSING = re.compile(r"<!-- /medidas: (\w+) -->")
LIKE_A_MARK = re.compile(r"(?i)medidas\s*:\s*\w|soma\s*:|/\s*dia\d|<!-*\s*dia\d\s*-*>")
UNCLOSED = (
    "o bloco `{0}` abre aqui e não fecha até a linha {1}; ponha `<!-- /medidas: {0} -->`, sozinha "
    "numa linha, onde ele termina"
)
UNOPENED = (
    "esta marca fecha `{0}`, que não está aberto aqui; ponha `<!-- medidas: {0} -->` antes do "
    "bloco, ou apague esta linha"
)
UNKNOWN = "não conheço o bloco `{0}`; os que existem: " + ", ".join(DAYS)
TWICE = "o bloco `{0}` já apareceu antes; apague um dos dois, com as suas marcas"
DAMAGED = (
    "esta linha parece uma marca estragada. As marcas ficam sozinhas na linha e são assim: "
    "`<!-- medidas: dia3 -->` e `<!-- /medidas: dia3 -->`"
)
MINE = (
    "Os meus resultados",
    "Escrita por `make experimentos` a cada vez, dos arquivos desta pasta: anote no caderno, "
    "[experimentos.md](../experimentos.md), e não aqui. "
    "Os nossos números estão em [referencia](../referencia/README.md).",
)
OURS = (
    "Os resultados de referência",
    "O que medimos, para conferir **depois** de medir: quem olha antes perde a previsão, que é "
    "metade da lição. Números seus um pouco diferentes são esperados (outro processador, outra "
    "soma de ponto flutuante); muito diferentes, não. Página escrita por `make experimentos`, dos "
    "arquivos desta pasta.",
)


@dataclass
class Block:
    """Um bloco no texto: a soma que a marca guarda e as linhas das marcas, a partir de 0."""

    name: str
    checksum: str | None
    opening: int
    closing: int = 0


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.save_reference:
        save_reference(args.results, args.reference)
        return 0
    mine, ours = Measured.read(args.results), Measured.read(args.reference)
    # Tudo é lido e conferido antes de o primeiro arquivo ser gravado.
    old, new, changed = plan(args.book, mine)
    pages = {args.reference / "README.md": page(*OURS, ours)}
    if any(vars(mine).values()):
        pages[args.results / "README.md"] = page(*MINE, mine)
    pages = {path: text for path, text in pages.items() if text != _text_of(path)}
    names = [*changed, *(f"{path.parent.name}/{path.name}" for path in pages)]
    verb = "mudaria" if args.check else "mudou"
    print(f"{verb}: {', '.join(names)}" if names else "tudo em dia")
    if args.check:
        return int(bool(names))
    if new != old:
        write(args.book, old, new)
    for path, text in pages.items():
        write_text(path, text)
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, place = parser.add_argument, {"type": Path, "metavar": "CAMINHO"}
    add("--book", **place, default=BOOK, help="o caderno (padrão: experimentos.md)")
    add("--results", **place, default=RESULTS_DIR, help="pasta dos seus resultados")
    add("--reference", **place, default=REFERENCE_DIR, help="pasta dos resultados de referência")
    add("--check", action="store_true", help="não grava; termina com 1 se algo mudaria")
    what = "manutenção: os resultados de agora viram referência"
    add("--save-reference", action="store_true", help=what)
    return parser.parse_args(argv)


def save_reference(results: Path, reference: Path) -> None:
    """Copia as rodadas inteiras, com os caminhos contados a partir da semana, e refaz a página."""
    local = json.dumps(f"{WEEK_DIR}{os.sep}", ensure_ascii=False)[1:-1]
    for shape, name, *_ in FILES.values():
        if (path := results / f"{name}.json").is_file():
            content = json.dumps(shape.load(path).model_dump(mode="json"), ensure_ascii=False)
            write_json(reference / path.name, json.loads(content.replace(local, "")))
            print(f"referência: {path.name}")
    write_text(reference / "README.md", page(*OURS, Measured.read(reference)))


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


# --- o caderno ------------------------------------------------------------------------------------
def plan(path: Path, found: Measured) -> tuple[str, str, list[str]]:
    """O que o caderno é, o que deve ser e os blocos que mudam.

    Raises:
        UserError: o arquivo não existe, não é UTF-8, tem marcas estragadas ou texto dentro delas.
    """
    old = read(path)
    lines = io.StringIO(old, newline="").readlines()
    changed, new, done = [], [], 0
    for block in find_blocks(path, lines):
        first, last = block.opening + 1, block.closing
        before = "".join(lines[first:last])
        if before.strip() and checksum(before) != block.checksum:
            raise UserError(
                f"{path}:{first + 1}: dentro do bloco `{block.name}` (linhas {first + 1} a "
                f"{last}) há texto que este programa não escreveu. Passe o que é seu para depois "
                "da marca de fim e apague o resto do que está entre as marcas: o bloco é refeito. "
                "Nada foi mudado."
            )
        content = block_lines(block.name, found)
        total = checksum("".join(content))
        if before.strip() and total == block.checksum:
            continue
        changed.append(block.name)
        opening = lines[block.opening]
        ending = opening[len(opening.rstrip("\r\n")) :]
        mark = f"<!-- medidas: {block.name} soma: {total} -->"
        body = (line + ending for line in ["", *content, ""])
        new += [*lines[done : block.opening], OPENING.sub(mark, opening), *body]
        done = last
    return old, "".join([*new, *lines[done:]]), changed


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
    """Os blocos do arquivo, na ordem.

    Raises:
        UserError: com todas as marcas estragadas, cada uma com a linha e o conserto.
    """
    blocks: list[Block] = []
    problems: list[str] = []
    seen: set[str] = set()
    current: Block | None = None  # o que está aberto

    def problem(line: int, text: str) -> None:
        problems.append(f"{path}:{line + 1}: {text}")

    for number, line in enumerate([*lines, ""]):
        text = line.strip().removeprefix("\ufeff")
        opening, closing = OPENING.fullmatch(text), CLOSING.fullmatch(text)
        if current and (opening or number == len(lines)):
            problem(current.opening, UNCLOSED.format(current.name, number))
        if opening:
            name, total = opening.groups()
            if name not in DAYS:
                problem(number, UNKNOWN.format(name))
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
        elif ("<!" in text or "-->" in text) and LIKE_A_MARK.search(text):
            problem(number, DAMAGED)
    if problems:
        raise UserError("há marcas estragadas, e nada foi mudado:\n  " + "\n  ".join(problems))
    return blocks


def checksum(content: str) -> str:
    """Soma do conteúdo sem espaços e com traços juntos: um formatador pode alinhar as colunas."""
    bare = re.sub(r"-{2,}", "-", re.sub(r"\s+", "", content))
    return hashlib.sha256(bare.encode()).hexdigest()[:8]


def write(path: Path, old: str, new: str) -> None:
    """Guarda a cópia e grava de uma vez só, se ninguém mexeu no arquivo enquanto isso."""
    path = path.resolve()  # um atalho continua atalho
    if path.read_bytes() != old.encode():
        raise UserError(f"{path} mudou enquanto eu trabalhava. Salve-o no editor e repita.")
    names = (f"{path.name}.bak{number or ''}" for number in count())
    backup = next(b for b in map(path.with_name, names) if not b.exists())
    write_text(backup, old)
    write_text(path, new)
    print(f"cópia do que havia: {backup}")


if __name__ == "__main__":
    sys.exit(run_main(main))
