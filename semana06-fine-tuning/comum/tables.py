"""Tabelas: alinhadas no terminal (rich) e em Markdown (tabulate)."""

import re
import sys
from collections.abc import Iterable, Sequence

from comum.labels import SCORES
from comum.numbers import interval
from comum.results import Score

from rich import box
from rich.console import Console
from rich.table import Table
from tabulate import tabulate

PIPED_WIDTH = 200  # colunas de um arquivo ou de um cano, que não têm largura
WIDEST = 10_000


def show(header: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Imprime uma tabela; a primeira coluna à esquerda, as outras à direita."""
    print(text(header, rows, title), flush=True)


def scores(columns: dict[str, dict[str, Score]], keys: Iterable[str]) -> None:
    """Imprime as notas pedidas, uma coluna por modelo, com os intervalos de 95%."""
    rows = []
    for key in keys:
        label, places, scale = SCORES[key]
        rows.append([label, *(interval(found[key], places, scale) for found in columns.values())])
    show(["(intervalos de 95%)", *columns], rows)


def text(header: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> str:
    """A tabela de `show`, como texto."""
    rows = list(rows)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    # Marcas de cor do rich entre colchetes seriam lidas nos intervalos: [7,90; 8,77].
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False)
    wide = console.options.update(max_width=WIDEST)
    if len(header) > 2 and console.measure(table, options=wide).minimum > console.width:
        # Nem com uma palavra por linha: duas tabelas, uma sob a outra.
        half = len(header) // 2 + 1
        parts = range(half), (0, *range(half, len(header)))
        some = ([[line[i] for i in part] for line in (header, *rows)] for part in parts)
        return "\n".join(text(first, others, title) for first, *others in some)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A tabela em Markdown, com as colunas de números à direita.

    Os números já vêm escritos, e nenhum é reformatado.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    columns = zip(*cells, strict=True) if cells else [[]] * len(header)
    align = ["right" if _numeric(column) else "left" for column in columns]
    lines = tabulate(cells, header, "pipe", colalign=align, disable_numparse=True)
    # Sem encher de espaços: mudar uma célula comprida mudaria todas as linhas da tabela.
    first, rule, *others = re.sub(" {2,}", " ", lines).split("\n")
    return "\n".join([first, re.sub("-{3,}", "---", rule), *others])


def _numeric(column: Sequence[str]) -> bool:
    """Diz se toda célula preenchida começa como número."""
    filled = [cell for cell in column if cell]
    return bool(filled) and all(re.match(r"[<≈+−–-]? ?\d|–$", cell) for cell in filled)
