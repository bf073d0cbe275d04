"""Uma resposta como se mostra no terminal: SQL, linhas numa tabela e tempo."""

from comum import tables
from comum.numbers import decimal

from loja_sql.model.assistant import Answer
from loja_sql.page.words import columns, written
from loja_sql.sql.database import Result

SHOWN_ROWS = 20
MAX_CELL_CHARS = 40


def format_answer(answer: Answer) -> str:
    """O que se entendeu, SQL, linhas numa tabela e tempo, para o terminal."""
    links = f"{printable(understood(answer))}\n" if answer.used_links else ""
    sql = f"SQL: {printable(answer.sql)}\n" if answer.sql else ""
    result = answer.result
    outcome = format_table(answer.sql, result) if result else printable(answer.failure)
    return f"{links}{sql}{outcome}\n({decimal(answer.seconds, 1)} s)"


def understood(answer: Answer) -> str:
    """O que se entendeu da pergunta: `entendi: clientes.cidade = Blumenau`."""
    links = (f"{table}.{column} = {value}" for table, column, value in answer.used_links)
    return f"entendi: {'; '.join(links)}"


def format_table(sql: str, result: Result) -> str:
    """Tabela de texto com as primeiras linhas do resultado, com os títulos e valores da página."""
    total = len(result.rows)
    if not total:
        return "Nenhuma linha."
    named = columns(sql, result)
    units = [column.unit for column in named]
    cells = [list(map(_cell, row, units)) for row in result.rows[:SHOWN_ROWS]]
    count = "1 linha" if total == 1 else f"{decimal(total)} linhas"
    if total > SHOWN_ROWS:
        count = f"… {SHOWN_ROWS} de {'mais de ' if result.truncated else ''}{count}"
    return f"{tables.text([_cell(column.title) for column in named], cells)}\n{count}"


def _cell(value: object, unit: str = "") -> str:
    text = printable(written(value, unit)).replace("\n", "·")
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


def printable(text: str) -> str:
    """O texto sem os caracteres de controle, que podem mexer no terminal."""
    return "".join(c if c.isprintable() or c in "\n\xa0" else "·" for c in text)
