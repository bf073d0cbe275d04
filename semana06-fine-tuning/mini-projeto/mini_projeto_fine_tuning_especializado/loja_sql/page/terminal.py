"""Uma resposta como se mostra no terminal: SQL, linhas numa tabela e tempo."""

from comum import tables
from comum.numbers import any_size, decimal

from loja_sql.model.assistant import Answer
from loja_sql.sql.database import Result

SHOWN_ROWS = 20
MAX_CELL_CHARS = 40


def format_answer(answer: Answer) -> str:
    """SQL, linhas numa tabela e tempo, para o terminal."""
    shown = [f"SQL: {printable(answer.sql)}"] if answer.sql else []
    if answer.result is None:
        shown.append(f"Não deu certo: {printable(answer.error)}.")
    else:
        shown.append(format_table(answer.result))
    return "\n".join([*shown, f"({decimal(answer.seconds, 1)} s)"])


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


def _cell(value: object) -> str:
    if isinstance(value, float):
        return any_size(value)
    text = "NULL" if value is None else printable(str(value)).replace("\n", "·")
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


def printable(text: str) -> str:
    """O texto sem os caracteres de controle, que podem mexer no terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
