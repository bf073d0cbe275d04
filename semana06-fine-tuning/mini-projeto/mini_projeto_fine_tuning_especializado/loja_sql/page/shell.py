"""Uma resposta como se mostra no terminal: SQL, linhas numa tabela e tempo."""

from comum import tables
from comum.numbers import any_size, decimal

from loja_sql.model.assistant import Answer
from loja_sql.sql.database import Result

SHOWN_ROWS = 20
MAX_CELL_CHARS = 40


def format_answer(answer: Answer) -> str:
    """O que se entendeu, SQL, linhas numa tabela e tempo, para o terminal."""
    links = f"{printable(understood(answer))}\n" if answer.links else ""
    sql = f"SQL: {printable(answer.sql)}\n" if answer.sql else ""
    outcome = format_table(answer.result) if answer.result else printable(answer.failure)
    return f"{links}{sql}{outcome}\n({decimal(answer.seconds, 1)} s)"


def understood(answer: Answer) -> str:
    """Os valores do banco que se viram na pergunta: `entendi: clientes.cidade = Blumenau`."""
    links = (f"{table}.{column} = {value}" for table, column, value in answer.links)
    return f"entendi: {'; '.join(links)}"


def format_table(result: Result) -> str:
    """Tabela de texto com as primeiras linhas do resultado."""
    total = len(result.rows)
    if not total:
        return "Nenhuma linha."
    cells = [[_cell(value) for value in row] for row in result.rows[:SHOWN_ROWS]]
    count = "1 linha" if total == 1 else f"{total} linhas"
    if total > SHOWN_ROWS:
        count = f"… {SHOWN_ROWS} de {'mais de ' if result.truncated else ''}{count}"
    return f"{tables.text([_cell(name) for name in result.columns], cells)}\n{count}"


def readable(value: object) -> str:
    """Um valor como se lê: `407.617,52`. Inteiros ficam como vieram: podem ser um ano."""
    if isinstance(value, float):
        return any_size(value)
    return "NULL" if value is None else str(value)


def _cell(value: object) -> str:
    text = printable(readable(value)).replace("\n", "·")
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


def printable(text: str) -> str:
    """O texto sem os caracteres de controle, que podem mexer no terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
