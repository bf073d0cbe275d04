"""Tabelas: alinhadas no terminal (rich) e em Markdown (tabulate)."""

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from tabulate import tabulate

PIPED_WIDTH = 200  # colunas de um arquivo ou de um cano, que não têm largura


def show(header: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Imprime uma tabela; a primeira coluna à esquerda, as outras à direita."""
    print(text(header, rows, title), flush=True)


def text(header: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> str:
    """A tabela de `show`, como texto."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    # Marcas de cor do rich entre colchetes seriam lidas nos intervalos: [7,90; 8,77].
    console = Console(width=width, color_system=None, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A tabela em Markdown; os números já vêm escritos, e nenhum é reformatado."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    align = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(cells, header, tablefmt="pipe", colalign=align, disable_numparse=True)
