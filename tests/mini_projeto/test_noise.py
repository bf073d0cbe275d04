"""noise.py, numerals.py e grafts.py: o que se acrescenta às perguntas de treino, e o que fica."""

import json
import random
import re

import pytest
from rapidfuzz.distance import OSA

from loja_sql.questions.grafts import graft
from loja_sql.questions.noise import TYPO, misspelt, noised, typo
from loja_sql.questions.numerals import spelled, ways
from loja_sql.questions.reading import Row
from loja_sql.shop import DATA_DIR
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import Database

LINES = (DATA_DIR / "perguntas_curadas.jsonl").read_text(encoding="utf-8").splitlines()
PAIRS = [json.loads(line) for line in LINES[:400]]
ROWS = [Row(f"w-{i}", pair["question"], pair["sql"], "written") for i, pair in enumerate(PAIRS)]


def test_a_third_of_the_training_has_typos_and_the_sql_stays():
    new = noised(ROWS, random.Random(1))
    assert [row.sql for row in new] == [row.sql for row in ROWS]
    rate = sum(row.wording == TYPO for row in new) / len(new)
    assert 0.22 < rate < 0.4
    assert len({row.wording for row in new}) >= 6
    assert new == noised(ROWS, random.Random(1))


def test_noise_leaves_digits_numerals_and_searched_words_alone():
    question = "não quero menos de vinte cabos, só cabos depois de 15/03/2024"
    row = Row("x", question, "SELECT nome FROM produtos WHERE nome LIKE '%cabos%'", "written")
    changed = set()
    for seed in range(300):
        (new,) = noised([row], random.Random(seed))
        if new.wording == TYPO:
            text = new.question.lower()
            assert all(kept in text for kept in ("15/03/2024", "cabos", "menos", "vinte"))
            assert re.search(r"\bn(ão|ao)?\b", text)
            changed.add(new.question)
    assert len(changed) > 20


def test_the_test_with_typos_has_one_wrong_letter_in_each_question():
    new = misspelt(ROWS)
    assert new == misspelt(ROWS)
    same = [
        old.question for old, row in zip(ROWS, new, strict=True) if old.question == row.question
    ]
    assert len(same) <= 0.02 * len(ROWS), same
    for old, row in zip(ROWS, new, strict=True):
        assert OSA.distance(old.question, row.question) <= 1
        assert row.sql == old.sql and row.id != old.id


@pytest.mark.parametrize("text", ["a", "SP 10", "E aí?", "não sem mais"])
def test_a_text_without_a_word_to_mistake_stays(text):
    assert typo(text, random.Random(0)) == text


def test_numbers_have_many_ways():
    assert spelled(999_999).startswith("novecentos e noventa e nove mil")
    assert "meio milhão de" in ways(500_000, "reais")
    assert {"1,5 mil", "1,5k", "1.500", "mil e quinhentos"} == set(ways(1500, "reais"))
    assert "meia dúzia de" in ways(6, "pedidos", counted=True)
    assert ways(2, "vezes") == ["duas"]


def difference(old: str, new: str) -> str:
    """O que o enxerto acrescentou."""
    if new.count("ORDER BY") > old.count("ORDER BY"):
        return "ordem"
    if ("COUNT(" in new) != ("COUNT(" in old):
        return "contagem"
    return "coluna" if new.partition(" FROM ")[0] != old.partition(" FROM ")[0] else "filtro"


def test_grafts_run_and_are_of_every_kind(shop_11):
    rng, kinds, made = random.Random(4), set(), 0
    bank = Database(shop_11)
    for pair in PAIRS:
        new = graft(pair["question"], pair["sql"], rng)
        if new is None or reference_problem(new[1], [bank]):
            continue
        made += 1
        question, sql = new
        assert question != pair["question"] and sql != pair["sql"]
        kinds.add(difference(pair["sql"], sql))
    assert made > 60 and kinds == {"ordem", "contagem", "coluna", "filtro"}


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("pedidos de 2024", "SELECT id FROM pedidos WHERE data LIKE '2024%' OR id IN (1, 2)"),
        ("quem comprou?", "SELECT nome FROM clientes WHERE id IN (SELECT cliente_id FROM pedidos)"),
        ("tudo", "SELECT 1 UNION SELECT 2"),
    ],
)
def test_in_doubt_nothing_is_grafted(question, sql):
    assert all(graft(question, sql, random.Random(seed)) is None for seed in range(20))
