"""prompt.py: a consulta que se tira do que o modelo escreveu."""

import pytest

from loja_sql.prompt import DECLINE, declines, extract_sql

PLAIN = "SELECT nome FROM p"
JOINED = "SELECT group_concat(nome, '; ') FROM p"
FENCE = "SELECT nome FROM p WHERE nome <> '```'"


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        (PLAIN, PLAIN),
        (f"  {PLAIN};\n", PLAIN),
        (f"{PLAIN}; DROP TABLE p", PLAIN),
        (f"{PLAIN}\n```\nExplicação", PLAIN),
        (f"```sql\n{PLAIN};\n```", PLAIN),
        (f"```SQL\n{PLAIN}\n```", PLAIN),
        (f"```sqlite\n{PLAIN}\n```\nIt's done.", PLAIN),
        (f"Here's the query:\n```\n{PLAIN}\n```\nOutra: ```SELECT 2```", PLAIN),
        (f"```sql\n{PLAIN}", PLAIN),
        # O que está num texto, num nome entre aspas ou num comentário não encerra a consulta.
        (f"{JOINED};", JOINED),
        (f"```sql\n{JOINED};\n```", JOINED),
        (f"{FENCE}; fim", FENCE),
        (f"```sql\n{FENCE}\n```", FENCE),
        ("SELECT 'it''s; ok', 1; x", "SELECT 'it''s; ok', 1"),
        ('SELECT "a;b" FROM p; x', 'SELECT "a;b" FROM p'),
        ("SELECT 1 -- um; d'água\n, 2; x", "SELECT 1 -- um; d'água\n, 2"),
        ("SELECT 1 /* ; ' */, 2; x", "SELECT 1 /* ; ' */, 2"),
        ("SELECT 'aberto; x", "SELECT 'aberto; x"),
        ("", ""),
        ("não sei", "não sei"),
    ],
)
def test_the_query_in_an_answer(answer, sql):
    assert extract_sql(answer) == sql


@pytest.mark.parametrize("answer", [DECLINE, "não sei", "NAO SEI.", " Não sei!\n"])
def test_a_decline_in_any_case_or_accent(answer):
    assert declines(answer) and declines(extract_sql(answer))


@pytest.mark.parametrize("answer", ["", "SELECT 'NÃO SEI'", "não sei dizer", "NÃO", "NÃO SEI 2"])
def test_what_is_not_a_decline(answer):
    assert not declines(answer)
