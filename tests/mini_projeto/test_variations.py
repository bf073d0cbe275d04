"""variations.py: os valores trocados mudam juntos na pergunta e no SQL, e o resto não muda."""

import random

import pytest

from loja_sql.questions.slots import UFS, mask
from loja_sql.questions.variations import aligned_fold, vary
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import Database


def varied(question, sql, seed=0):
    """Uma variação em que algum valor mudou."""
    tries = (vary(question, sql, random.Random(number)) for number in range(seed, seed + 50))
    return next(pair for pair in tries if pair[1] != sql)


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("Quem mora em Curitiba?", "SELECT COUNT(*) FROM clientes WHERE cidade = 'Curitiba'"),
        ("Pedidos no pix", "SELECT id FROM pedidos WHERE pagamento = 'pix'"),
        ("vendedores do Sul", "SELECT nome FROM vendedores WHERE regiao = 'Sul'"),
    ],
)
def test_the_literal_in_the_sql_is_the_one_in_the_question(question, sql):
    new, new_sql = varied(question, sql)
    literal = new_sql.split("'")[1]
    assert literal in new and literal not in question
    assert mask(new) == mask(question)


def test_state_names_bring_their_own_preposition():
    new, sql = varied("clientes de Minas Gerais", "SELECT nome FROM clientes WHERE uf = 'MG'")
    name, preposition = UFS[sql.split("'")[1]][:2]
    assert new == f"clientes {preposition} {name}"


def test_demonyms_keep_gender_and_number():
    new, sql = varied("as mineiras", "SELECT nome FROM clientes WHERE uf = 'MG'")
    people = UFS[sql.split("'")[1]][3]
    assert new.removeprefix("as ") in {people, people.removesuffix("os") + "as"}


def test_years_move_together_and_stay_inside_the_shop():
    sql = "SELECT COUNT(*) FROM pedidos WHERE data BETWEEN '2022-03-01' AND '2024-06-30'"
    question = "pedidos de março de 2022 a junho de 2024"
    found = {vary(question, sql, random.Random(seed))[1][-27:] for seed in range(30)}
    assert found == {"'2022-03-01' AND '2024-06-30'"[-27:], "'2023-03-01' AND '2025-06-30'"[-27:]}


def test_month_changes_in_both():
    sql = "SELECT COUNT(*) FROM pedidos WHERE strftime('%m', data) = '06'"
    new, new_sql = varied("pedidos em junho, de qualquer ano", sql)
    assert "junho" not in new and "'06'" not in new_sql and "'%m'" in new_sql


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        # O número da frase não é o do SQL, ou aparece duas vezes, ou é o divisor.
        ("notas ruins, 1 ou 2", "SELECT SUM(nota <= 2) FROM avaliacoes"),
        ("média mensal (total dividido por 12)", "SELECT SUM(quantidade) / 12 FROM itens_pedido"),
        ("mais de 2 mil reais", "SELECT nome FROM produtos WHERE preco > 2000"),
        # Fim de fevereiro muda de dia conforme o ano.
        ("até fevereiro de 2024", "SELECT COUNT(*) FROM pedidos WHERE data <= '2024-02-29'"),
        # Convenção: a cidade não foi nomeada.
        ("clientes paulistanos", "SELECT nome FROM clientes WHERE cidade = 'São Paulo'"),
    ],
)
def test_in_doubt_the_values_stay(question, sql):
    for seed in range(20):
        assert vary(question, sql, random.Random(seed))[1] == sql


def test_a_value_with_an_apostrophe_stays_in_both_while_the_number_changes():
    question = "mais de 50 pedidos em Santa Bárbara d'Oeste"
    sql = "SELECT COUNT(*) FROM c WHERE cidade = 'Santa Bárbara d''Oeste' AND n > 50"
    values = {("c", "cidade"): ["Santa Bárbara d'Oeste", "Campinas"]}
    pairs = [vary(question, sql, random.Random(seed), values) for seed in range(20)]
    assert any(new != sql for _, new in pairs)
    assert all("d'Oeste" in asked and "d''Oeste'" in new for asked, new in pairs)


def test_grades_stay_between_one_and_five():
    sql = "SELECT COUNT(*) FROM avaliacoes WHERE nota = 4"
    for seed in range(30):
        assert vary("avaliações com nota 4", sql, random.Random(seed))[1][-1] in "2345"


def test_same_seed_same_variation():
    args = ("quantos pedidos em 2024?", "SELECT COUNT(*) FROM pedidos WHERE data LIKE '2024%'")
    assert vary(*args, random.Random(5)) == vary(*args, random.Random(5))


def test_varied_sql_still_runs(shop_11):
    sql = "SELECT nome FROM produtos WHERE categoria = 'livros' AND preco <= 900"
    for seed in range(10):
        new = vary("livros até 900 reais", sql, random.Random(seed))[1]
        assert reference_problem(new, [Database(shop_11)]) in (None, "resultado vazio")


@pytest.mark.parametrize("question", ["Mais de 50 pedidos", "Mais de 50 pedidos à vista"])
def test_a_comparison_and_its_operator_change_together(question):
    meanings = {"mais de": ">", "menos de": "<", "até": "<=", "no mínimo": ">="}
    meanings |= {"pelo menos": ">=", "no máximo": "<="}
    seen = set()
    for seed in range(80):
        new, sql = vary(question, "SELECT uf FROM t HAVING COUNT(*) > 50", random.Random(seed))
        (said,) = (phrase for phrase in meanings if new.lower().startswith(phrase))
        assert f"COUNT(*) {meanings[said]} " in sql, (new, sql)
        seen.add(said)
    assert len(seen) >= 5


def test_folding_keeps_every_position():
    text = "São Luís – ÁÇÕ 1º ﬁm…"
    assert len(aligned_fold(text)) == len(text) and aligned_fold(text).startswith("sao luis")


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("pix, boleto ou cartão", "SELECT 1 FROM t WHERE a IN ('pix', 'boleto', 'cartão')"),
        (
            "pendente, pago, enviado, entregue e cancelado",
            "SELECT status = 'pendente', status = 'pago', status = 'enviado', "
            "status = 'entregue', status = 'cancelado' FROM pedidos",
        ),
    ],
)
def test_a_question_that_names_every_value_stays_as_it_is(question, sql):
    """Sem outro nome que pôr no lugar, não há o que variar."""
    assert vary(question, sql, random.Random(1)) == (question, sql)
