"""comparison.py: quando duas consultas valem o mesmo, e quando uma não serve de referência."""

import sqlite3

from comum.terminal import UserError

import pytest

from loja_sql.sql.comparison import judge, reference_problem, same_rows
from loja_sql.sql.database import Database, Result
from loja_sql.sql.features import shape, without_values

PRODUCTS = [  # (nome, categoria, preço, nota): categorias com 3, 2, 2 e 1 produtos
    ("Bola", "esportes", 80.0, 5),
    ("Rede", "esportes", 120.0, None),
    ("Apito", "esportes", 15.0, 4),
    ("Mesa", "móveis", 900.0, 4),
    ("Banco", "móveis", 120.0, 3),
    ("Romance", "livros", 40.0, None),
    ("Atlas", "livros", 60.0, 5),
    ("Creme", "beleza", 35.0, 1),
]


def create_bank(path, products):
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE produtos (id INTEGER PRIMARY KEY, nome TEXT, "
            "categoria TEXT, preco REAL, nota INTEGER)"
        )
        connection.executemany(
            "INSERT INTO produtos (nome, categoria, preco, nota) VALUES (?, ?, ?, ?)", products
        )
    connection.close()
    return path


@pytest.fixture
def banks(tmp_path):
    """Dois bancos com as mesmas tabelas; no segundo, os preços são outros."""
    prices = {"Creme": 87.5, "Banco": 125.0}
    changed = [(n, c, prices.get(n, p + 1), g) for n, c, p, g in PRODUCTS]
    paths = [
        create_bank(tmp_path / "a.sqlite", PRODUCTS),
        create_bank(tmp_path / "b.sqlite", changed),
    ]
    return [Database(path) for path in paths]


def same(gold, predicted, ordered=False):
    """`ordered`: cada linha é um bloco, e a sequência conta."""
    names = [f"c{i}" for i in range(len(gold[0]) if gold else 1)]
    cuts = list(range(1, len(gold))) if ordered else []
    return same_rows(Result(names, gold), Result(names, predicted), cuts)


def test_a_reference_that_no_longer_runs_is_one_sentence_and_not_a_wrong_answer(banks):
    """As perguntas preparadas para um banco, julgadas noutro."""
    with pytest.raises(UserError, match="(?s)a.sqlite.*não há a tabela livros.*Prepare os dados"):
        judge("SELECT titulo FROM livros", "SELECT 1", banks)


# --- igualdade de resultados ---------------------------------------------------------------


def test_without_order_rows_are_a_multiset():
    """Fora de ordem, valem as mesmas linhas com as mesmas repetições."""
    gold = [("a", 1), ("b", 2), ("a", 1)]
    assert same(gold, [("a", 1), ("a", 1), ("b", 2)])
    assert not same(gold, [("a", 1), ("b", 2), ("b", 2)]), "a repetição é outra"
    assert not same(gold, [("a", 1), ("b", 2)]), "falta uma linha"


def test_with_order_rows_are_a_list():
    """Com ORDER BY na referência, a sequência conta."""
    gold = [("a",), ("b",)]
    assert same(gold, [("a",), ("b",)], ordered=True)
    assert not same(gold, [("b",), ("a",)], ordered=True)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT nome FROM produtos ORDER BY nome", True),
        ("WITH t AS (SELECT nome FROM produtos) SELECT nome FROM t ORDER BY 1", True),
        ("SELECT nome FROM produtos UNION SELECT categoria FROM produtos ORDER BY 1", True),
        ("SELECT nome FROM produtos", False),
        ("SELECT nome FROM (SELECT nome FROM produtos ORDER BY preco)", False),
        ("WITH t AS (SELECT nome FROM produtos ORDER BY preco) SELECT nome FROM t", False),
        ("SELECT nome, ROW_NUMBER() OVER (ORDER BY nome) FROM produtos", False),
    ],
)
def test_only_the_outermost_order_by_counts(banks, sql, expected):
    """ORDER BY em CTE, subconsulta ou janela não obriga a ordem do resultado."""
    backwards = f"SELECT * FROM ({sql}) ORDER BY 1 DESC"
    right, _ = judge(sql, backwards, banks)
    assert right is not expected


def test_columns_are_compared_by_position_not_by_name():
    """Trocar a ordem das colunas erra; trocar só o nome delas não."""
    gold = Result(["uf", "total"], [("SP", 3), ("MG", 2)])
    assert same_rows(gold, Result(["estado", "n"], [("MG", 2), ("SP", 3)]))
    assert not same_rows(gold, Result(["total", "uf"], [(3, "SP"), (2, "MG")]))
    assert not same_rows(gold, Result(["uf"], [("SP",), ("MG",)]))


def test_empty_results_need_the_same_number_of_columns():
    """Dois resultados vazios só são iguais se têm o mesmo número de colunas."""
    assert same_rows(Result(["a"], []), Result(["b"], []))
    assert not same_rows(Result(["a"], []), Result(["a", "b"], []))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1_000_000.0, 1_000_000.9, True),
        (1_000_000.0, 1_000_002.0, False),
        (-250.0, -250.0001, True),
        (-250.0, 250.0, False),
        (0.1 + 0.2, 0.3, True),
        (3, 3.0, True),
        (1_000_000, 1_000_000.9, True),
        (0, 1e-12, True),
        (0, 1e-6, False),
        (12.34, 12.3, False),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_numbers_have_a_relative_tolerance(left, right, expected, ordered):
    """Um milionésimo de diferença relativa é arredondamento; mais que isso é erro."""
    assert same([(left,)], [(right,)], ordered) is expected


@pytest.mark.parametrize("ordered", [True, False])
def test_integers_are_exact(ordered):
    """A tolerância é dos reais: dois CPFs vizinhos são pessoas diferentes."""
    assert not same([(52998224725,)], [(52998224726,)], ordered)
    assert not same([(1_000_000,)], [(1_000_001,)], ordered)
    assert same([(52998224725,)], [(52998224725,)], ordered)
    neighbours = [(52998224725, "a"), (52998224726, "a")]
    assert same(neighbours, neighbours[::-1])
    assert not same(neighbours, [neighbours[0]] * 2)


def test_rounding_noise_does_not_misalign_the_multiset():
    """Duas linhas que só diferem no ruído do ponto flutuante se alinham pelo resto da linha."""
    assert same([(0.1 + 0.2, "b"), (0.3, "a")], [(0.3, "b"), (0.1 + 0.2, "a")])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("2024", 2024),
        ("3.0", 3.0),
        (None, 0),
        (None, ""),
        (None, "None"),
        ("SP", "sp"),
        ("São Paulo", "Sao Paulo"),
        ("SP", "SP "),
        (b"SP", "SP"),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_text_null_and_number_never_mix(left, right, ordered):
    """Texto é comparado exatamente, e nunca com número, NULL ou blob."""
    assert not same([(left,)], [(right,)], ordered)
    assert same([(left,)], [(left,)], ordered)


def test_null_equals_null_and_sorts_with_any_type():
    """NULL é igual a NULL, e uma coluna de tipos misturados não derruba a comparação."""
    gold = [(None, 1), ("x", 2), (3, None), (2.5, "y")]
    assert same(gold, [gold[2], gold[0], gold[3], gold[1]])
    assert not same(gold, [(None, 1), ("x", 2), (3, 0), (2.5, "y")])


def test_truncated_result_is_not_equal_to_a_complete_one():
    """Bater só na parte que o limite de linhas deixou ler não é acertar."""
    rows = [(1,), (2,)]
    assert not same_rows(Result(["a"], rows), Result(["a"], rows, truncated=True))


# --- julgamento em vários bancos -----------------------------------------------------------


def test_judge_accepts_another_way_of_saying_the_same(banks):
    """Outra redação do mesmo SQL acerta em todos os bancos."""
    gold = "SELECT nome FROM produtos WHERE nota IS NOT NULL"
    assert judge(gold, "SELECT nome FROM produtos WHERE nota > 0 ORDER BY nome", banks) == (
        True,
        None,
    )


def test_right_by_luck_in_one_bank_is_wrong(banks):
    """Citar os nomes que custavam menos de 36 só acerta enquanto os preços são aqueles."""
    gold = "SELECT nome FROM produtos WHERE preco < 36"
    lucky = "SELECT nome FROM produtos WHERE nome IN ('Apito', 'Creme')"
    assert judge(gold, lucky, banks[:1]) == (True, None)
    assert judge(gold, lucky, banks) == (False, None)
    assert judge(gold, lucky, banks[::-1]) == (False, None)


def test_judge_requires_order_only_when_the_reference_has_it(banks):
    """A lista fora de ordem erra quando a referência ordena, e só então."""
    ordered = "SELECT nome FROM produtos ORDER BY nome"
    backwards = "SELECT nome FROM produtos ORDER BY nome DESC"
    assert judge(ordered, backwards, banks) == (False, None)
    assert judge("SELECT nome FROM produtos", backwards, banks) == (True, None)


CUT = "limite no fim de um empate"
TIES = {  # uma ordem com empates, e como pedir os empatados ao contrário
    "coluna do resultado": ("SELECT nome, categoria FROM produtos ORDER BY categoria", "nome DESC"),
    "posição": ("SELECT nome, categoria FROM produtos ORDER BY 2", "nome DESC"),
    "coluna fora do resultado": ("SELECT nome FROM produtos ORDER BY categoria", "nome DESC"),
    "expressão": ("SELECT nome FROM produtos ORDER BY preco > 50", "nome DESC"),
    "nulos": ("SELECT nome FROM produtos ORDER BY nota DESC", "nome DESC"),
    "agregado": (
        "SELECT categoria FROM produtos GROUP BY categoria ORDER BY COUNT(*)",
        "categoria DESC",
    ),
    "apelido numa conta": (
        "SELECT categoria, COUNT(*) AS n FROM produtos GROUP BY categoria ORDER BY n * 10",
        "categoria DESC",
    ),
    "duas chaves": ("SELECT nome FROM produtos ORDER BY categoria, nota > 3 DESC", "nome"),
    CUT: ("SELECT nome FROM produtos ORDER BY categoria LIMIT 4", "nome DESC"),
    "constante": ("SELECT nome FROM produtos ORDER BY 1.5", "nome DESC"),
}


@pytest.mark.parametrize("form", TIES)
def test_tied_rows_may_come_in_any_order(banks, form):
    """Só conta a ordem que a chave fixa: empatadas se trocam, as outras não."""
    gold, reverse = TIES[form]
    start, limit, number = gold.partition(" LIMIT ")
    other = f"{start}, {reverse}{limit}{number}"
    assert banks[0].run(gold).rows != banks[0].run(other).rows, "o teste precisa de uma troca"
    assert judge(gold, other, banks) == (True, None)
    assert judge(other, gold, banks) == (False, None), "com o desempate, a ordem é uma só"


@pytest.mark.parametrize("form", [x for x in TIES if x not in ("constante", CUT)])
def test_the_order_between_ties_still_counts(banks, form):
    """Quem ordena só pelo desempate erra, ainda que as linhas sejam as mesmas."""
    gold, reverse = TIES[form]
    other = f"{gold.partition(' ORDER BY ')[0]} ORDER BY {reverse}"
    assert judge(gold, other, banks) == (False, None)


def test_an_order_that_cannot_be_checked_is_strict(banks):
    """O DISTINCT que as chaves desfazem: sem saber os empates, vale a sequência da referência."""
    gold = "SELECT DISTINCT categoria FROM produtos ORDER BY preco"
    assert judge(gold, gold, banks) == (True, None)
    assert judge(gold, "SELECT DISTINCT categoria FROM produtos", banks) == (False, None)


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ("SELECT nome FROM", "SQL inválido"),
        ("SELECT nome FROM pessoas", "não há a tabela pessoas"),
        ("DELETE FROM produtos", "só consultas SELECT"),
        ("não sei", "SQL inválido"),
        ("", "vazia"),
    ],
)
def test_judge_reports_what_did_not_run(banks, predicted, message):
    """Uma predição que não executa erra, e o erro do banco volta para quem pediu."""
    correct, error = judge("SELECT nome FROM produtos", predicted, banks)
    assert correct is False
    assert message in error


def test_extra_rows_beyond_the_row_limit_are_wrong(tmp_path):
    """Com a referência exatamente no limite de linhas, uma linha a mais ainda é erro."""
    many = [(f"p{i}", "livros", 1.0, 1) for i in range(10_000)]
    bank = Database(create_bank(tmp_path / "grande.sqlite", many))
    gold = "SELECT preco FROM produtos"
    assert judge(gold, gold, [bank]) == (True, None)
    assert judge(gold, f"{gold} UNION ALL SELECT 1.0", [bank]) == (False, None)


# --- referências que nada provam -----------------------------------------------------------

TIE = "depende de um empate no LIMIT"
GROUPED = "FROM produtos GROUP BY categoria"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT nome FROM produtos WHERE preco > 5000", "resultado vazio"),
        ("SELECT MAX(preco) FROM produtos WHERE preco > 5000", "resultado é só NULL"),
        ("SELECT MAX(preco), MIN(nota) FROM produtos WHERE id < 0", "resultado é só NULL"),
        ("SELECT nome FROM", "SQL que o analisador não entende"),
        ("DELETE FROM produtos", "não é uma consulta SELECT"),
        ("SELECT apelido FROM produtos", "SQL inválido: não há a coluna apelido"),
        (
            "SELECT a.id FROM produtos a, produtos b, produtos c, produtos d, produtos e",
            "resultado com linhas demais",
        ),
        # Sem ORDER BY, qualquer linha serviria; dois NULL na chave empatam.
        ("SELECT nome FROM produtos LIMIT 1", TIE),
        ("SELECT nome FROM produtos ORDER BY nota LIMIT 1", TIE),
        # Ordena o apelido, que empata, e não a coluna de mesmo nome, que não.
        ("SELECT preco > 50 AS preco, nome FROM produtos ORDER BY preco LIMIT 1", TIE),
        # Só o NULL sozinho nada prova, e um desempate na ordenação torna a resposta única.
        ("SELECT nota FROM produtos", None),
        ("SELECT nome, nota FROM produtos WHERE nome = 'Rede'", None),
        (f"SELECT categoria {GROUPED} ORDER BY COUNT(*) DESC, categoria LIMIT 2", None),
    ],
)
def test_useless_references_are_named(banks, sql, reason):
    """Cada tipo de referência inútil sai com o seu motivo, e só ela."""
    assert reference_problem(sql, banks) == reason


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random()",
        "SELECT nome FROM produtos ORDER BY random()",
        "SELECT nome FROM produtos WHERE id > abs(random()) % 2",
        "SELECT date('now')",
        "SELECT date('NOW', '-1 day')",
        "SELECT date(), COUNT(*) FROM produtos",
        "SELECT datetime('now', '-1 month')",
        "SELECT strftime('%Y', 'now') - 2020",
        "SELECT strftime('%Y')",
        "SELECT julianday('now') - julianday('2024-01-01')",
        "SELECT time(), unixepoch()",
        "SELECT CURRENT_DATE",
        "SELECT nome, current_timestamp FROM produtos",
        "SELECT (SELECT CURRENT_TIME), nome FROM produtos",
    ],
)
def test_a_reference_may_not_depend_on_the_clock_or_on_chance(banks, sql):
    """A resposta certa de hoje estaria errada amanhã."""
    assert reference_problem(sql, banks) == "depende do relógio ou do acaso"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT date('2024-02-29', '+1 year'), strftime('%Y', '2024-01-01')",
        "SELECT nome FROM produtos WHERE nome <> 'now' ORDER BY id",
        "SELECT nome FROM produtos WHERE lower(nome) NOT IN ('now', 'random()')",
    ],
)
def test_fixed_dates_and_the_word_now_are_fine(banks, sql):
    assert reference_problem(sql, banks) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nome FROM produtos ORDER BY 1.5 LIMIT 2",
        "SELECT nome FROM produtos ORDER BY 'x' LIMIT 2",
        "SELECT nome FROM produtos ORDER BY nome LIMIT '2.0'",
        "SELECT nome FROM produtos ORDER BY nome LIMIT 9223372036854775807",
        "SELECT upper(nome) FROM produtos UNION SELECT 'x' ORDER BY upper(nome) LIMIT 2",
        "SELECT " + "(" * 900 + "1" + ")" * 900,
        "SELECT nome FROM produtos ORDER BY " + "-" * 400 + "1 LIMIT 1",
    ],
)
def test_odd_references_get_an_answer_not_a_traceback(banks, sql):
    """O que se escreve na página volta pelo mesmo crivo: uma frase, ou nada."""
    assert reference_problem(sql, banks) is None or reference_problem(sql, banks).strip()


def test_reference_must_work_in_every_bank(banks):
    """Um resultado vazio num só dos bancos basta para recusar a referência."""
    sql = "SELECT nome FROM produtos WHERE preco = 900"
    assert reference_problem(sql, banks[:1]) is None
    assert reference_problem(sql, banks) == "resultado vazio"


CASES = {
    # Esportes tem 3 produtos; móveis e livros empatam com 2; beleza tem 1.
    "contagem": "SELECT categoria {g} ORDER BY COUNT(*) DESC LIMIT {n}",
    "apelido": "SELECT categoria, COUNT(*) AS n {g} ORDER BY n DESC LIMIT {n}",
    "apelido em maiúsculas": "SELECT categoria, COUNT(*) AS n {g} ORDER BY N DESC LIMIT {n}",
    "posição": "SELECT categoria, COUNT(*) {g} ORDER BY 2 DESC LIMIT {n}",
    "conta com apelido": "SELECT categoria, COUNT(*) AS n {g} ORDER BY n * 10 DESC LIMIT {n}",
    "apelido no GROUP BY": "SELECT upper(categoria) AS c, COUNT(*) AS n FROM produtos GROUP BY c "
    "HAVING n > 0 ORDER BY n DESC LIMIT {n}",
    "posição no GROUP BY": "SELECT categoria, COUNT(*) FROM produtos GROUP BY 1 "
    "ORDER BY COUNT(*) DESC LIMIT {n}",
    "CTE": "WITH t AS (SELECT categoria, COUNT(*) AS n {g}) "
    "SELECT categoria FROM t ORDER BY n DESC LIMIT {n}",
    "DISTINCT": "SELECT DISTINCT categoria, COUNT(*) OVER (PARTITION BY categoria) AS n "
    "FROM produtos ORDER BY n DESC LIMIT {n}",
    "UNION": "SELECT categoria, COUNT(*) AS n {g} UNION SELECT categoria, COUNT(*) {g} "
    "ORDER BY n DESC LIMIT {n}",
    "asterisco": "SELECT * FROM (SELECT categoria, COUNT(*) AS n {g}) ORDER BY n DESC LIMIT {n}",
    "limite calculado": "SELECT categoria {g} ORDER BY COUNT(*) DESC LIMIT {n} + 0",
}


@pytest.mark.parametrize("form", CASES)
@pytest.mark.parametrize(("limit", "tied"), [(1, False), (2, True), (3, False), (4, False)])
def test_tie_at_the_limit(banks, form, limit, tied):
    """O corte só é problema quando separa duas linhas empatadas, como quer que se ordene."""
    sql = CASES[form].format(g=GROUPED, n=limit)
    assert reference_problem(sql, banks) == (TIE if tied else None)


@pytest.mark.parametrize(
    ("limit", "tied"),
    [
        ("LIMIT 1 OFFSET 0", False),
        ("LIMIT 1 OFFSET 1", True),  # móveis ou livros?
        ("LIMIT 1 OFFSET 2", True),
        ("LIMIT 2 OFFSET 1", False),  # os dois empatados, juntos
        ("LIMIT 1, 2", False),
        ("LIMIT 2, 1", True),
        ("LIMIT 1 OFFSET 3", False),
        ("LIMIT -1", False),
    ],
)
def test_tie_at_the_offset(banks, limit, tied):
    """O OFFSET também corta: "o segundo maior" não existe se o segundo empata com o terceiro."""
    sql = f"SELECT categoria {GROUPED} ORDER BY COUNT(*) DESC {limit}"
    assert (reference_problem(sql, banks) is not None) is tied


def test_tie_in_one_bank_is_enough(banks):
    """Rede e Banco custam o mesmo só no primeiro banco: a referência já não serve."""
    sql = "SELECT nome FROM produtos WHERE nome <> 'Mesa' ORDER BY preco DESC LIMIT 1"
    assert reference_problem(sql, banks[1:]) is None
    assert reference_problem(sql, banks) == TIE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT nome FROM c WHERE uf = 'MG'", "SELECT nome FROM c WHERE uf = 'D''Oeste'"),
        ("SELECT a FROM t LIMIT 5", "SELECT a FROM t LIMIT 100"),
        ("SELECT \"d'água\" FROM t WHERE a = 'x'", "SELECT \"d'água\" FROM t WHERE a = 'y z'"),
    ],
)
def test_queries_that_differ_in_values_only_have_one_shape(one, other):
    assert without_values(one) == without_values(other) and shape(one) == shape(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('SELECT "1" FROM t', 'SELECT "2" FROM t'),
        ("SELECT date('now')", "SELECT date('2024-01-01')"),
        ("SELECT 100.0 * a FROM t", "SELECT 100 * a FROM t"),
        ("SELECT a1 FROM t", "SELECT a2 FROM t"),
        ("SELECT a -> '$.b' FROM t", "SELECT a -> '$.c' FROM t"),
    ],
)
def test_what_is_not_a_mere_value_stays(one, other):
    assert without_values(one) == one and without_values(other) != without_values(one)
