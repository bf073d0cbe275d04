"""A consulta em palavras: títulos, unidades, a frase que a explica, as linhas em que se escreve."""

import json

import pytest

from loja_sql.page.explain import laid_out, one_line, sentence
from loja_sql.page.words import columns, written
from loja_sql.shop import DATA_DIR
from loja_sql.sql.database import Result

REVENUE = "SUM(i.quantidade * i.preco_unitario)"
ORDERS = "FROM itens_pedido i JOIN pedidos pe ON pe.id = i.pedido_id"


@pytest.mark.parametrize(
    ("expression", "value", "title", "shown"),
    [
        ("COUNT(*)", 4000, "quantidade de itens dos pedidos", "4.000"),
        ("COUNT(DISTINCT pe.id)", 4000, "quantidade de pedidos", "4.000"),
        (REVENUE, 407617.52, "valor total", "R$\xa0407.617,52"),
        ("SUM(i.quantidade)", 1200, "unidades", "1.200"),
        ("AVG(i.preco_unitario)", 10.5, "média de preço unitário", "R$\xa010,50"),
        (f"{REVENUE} / COUNT(DISTINCT pe.id)", 99.999, "ticket médio", "R$\xa0100,00"),
        (
            f"{REVENUE} / COUNT(DISTINCT pe.cliente_id)",
            9.5,
            "valor total por cliente",
            "R$\xa09,50",
        ),
        (f"{REVENUE} / {REVENUE}", 0.97, "valor total por valor total", "0,97"),
        ("COUNT()", 4000, "quantidade de itens dos pedidos", "4.000"),
        ("ROW_NUMBER() OVER (ORDER BY 1)", 2, "ROW_NUMBER() OVER (ORDER BY 1)", "2"),
        (
            "RANK() OVER (ORDER BY i.preco_unitario)",
            2,
            "RANK() OVER (ORDER BY i.preco_unitario)",
            "2",
        ),
        ("COUNT(pe.cliente_id)", 12, "quantidade de pedidos", "12"),
        ("COUNT(DISTINCT pe.cliente_id)", 12, "quantidade de valores diferentes de cliente", "12"),
        ("SUM(i.preco_unitario > 50)", 110, "total com condição", "110"),
        ("SUM(CASE WHEN i.preco_unitario > 50 THEN 1 END)", 9, "total com condição", "9"),
        ("COUNT(CASE WHEN i.preco_unitario > 50 THEN 1 END)", 9, "quantidade com condição", "9"),
        ("(strftime('%m', pe.data) + 2) / 3", 4, "trimestre", "4"),
        ("100 * i.preco_unitario", 50.0, "100 * i.preco_unitario", "R$\xa050,00"),
        ("100.0 * SUM(pe.status = 'pago') / COUNT(*)", 33.333, "percentual", "33,3%"),
        ("strftime('%Y-%m', pe.data)", "2024-03", "mês", "mar. 2024"),
        ("strftime('%m', pe.data)", "03", "mês", "março"),
        ("strftime('%w', pe.data)", "0", "dia da semana", "domingo"),
        ("SUBSTR(pe.data, 1, 4)", "2024", "ano", "2024"),
        ("MAX(pe.data)", "2024-12-25", "maior data", "25/12/2024"),
        ("pe.id", 1234, "número", "1234"),
        ("pe.status AS situacao_atual", "pago", "situacao atual", "pago"),
        ("MAX(pe.data, 1, 2)", "x", "MAX(pe.data, 1, 2)", "x"),
        ("pe.foto", b"\x00\xff", "foto", "x'00ff'"),
        ("MAX(i.preco_unitario)", float("inf"), "maior preço unitário", "inf"),
    ],
)
def test_a_column_is_named_and_its_values_written_as_people_do(expression, value, title, shown):
    [column] = columns(f"SELECT {expression} {ORDERS}", Result(["c"], [(value,)]))
    assert (column.title, written(value, column.unit)) == (title, shown)


def test_the_letters_of_a_subquery_get_the_names_of_what_they_stand_for():
    ranked = "SELECT categoria AS g, nome AS n, preco AS t, RANK() OVER (ORDER BY preco) AS r"
    sql = f"SELECT g, n, t FROM ({ranked} FROM produtos) WHERE r = 1"
    found = columns(sql, Result(["g", "n", "t"], [("livros", "Atlas", 99.9)]))
    assert [(c.title, c.unit) for c in found] == [
        ("categoria", ""),
        ("nome", ""),
        ("preço", "money"),
    ]


def test_what_is_summed_up_from_a_subquery_is_named_and_in_its_unit():
    inner = f"SELECT {REVENUE} AS t {ORDERS} WHERE pe.status <> 'cancelado' GROUP BY pe.cliente_id"
    [column] = columns(f"SELECT AVG(t) FROM ({inner})", Result(["AVG(t)"], [(16567.72,)]))
    assert column == ("média de faturamento", "money")
    [column] = columns(f"SELECT {REVENUE} {ORDERS} WHERE pe.status <> 'pago'", Result(["x"], []))
    assert column.title == "valor total", "só sem os cancelados é faturamento"
    either = f"{ORDERS} WHERE pe.status <> 'cancelado' OR i.quantidade > 3"
    [column] = columns(f"SELECT {REVENUE} {either}", Result(["x"], []))
    assert column.title == "valor total"
    source = "(SELECT preco AS t, id FROM produtos) x JOIN clientes c ON c.id = x.id"
    found = columns(f"SELECT t - 1, c.t FROM {source}", Result(["a", "b"], []))
    assert found == [("preço menos 1", "money"), ("t", "")], "só as colunas da subconsulta"


@pytest.mark.parametrize("deep", ["+".join("1" * 2400), "-".join(["preco"] * 800)])
def test_what_is_too_deep_to_explain_is_not(deep):
    [column] = columns(f"SELECT {deep} FROM produtos", Result(["preco"], [(1,)]))
    assert column == ("preço", "money") and sentence(f"SELECT {deep} FROM produtos") == ""


def test_what_the_tree_does_not_explain_keeps_the_banks_names():
    result = Result(["id", "preco"], [(1, 2.5)])
    assert [c.title for c in columns("SELECT * FROM produtos", result)] == ["número", "preço"]
    assert [c.title for c in columns("isto não é SQL (", result)] == ["número", "preço"]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            f"SELECT pe.pagamento, {REVENUE} {ORDERS} WHERE pe.status <> 'cancelado' "
            "AND pe.data LIKE '2024%' GROUP BY pe.pagamento",
            "Calcula faturamento por forma de pagamento, juntando itens dos pedidos e pedidos; só "
            "onde data é de 2024; pedidos cancelados não contam.",
        ),
        (
            "SELECT nome FROM produtos WHERE preco >= 100 AND categoria IN ('livros', 'roupas') "
            "ORDER BY preco DESC LIMIT 3",
            "Mostra nome, da tabela produtos; só onde preço é no mínimo R$\xa0100 e categoria é "
            "livros ou roupas; em ordem de preço (do maior ao menor); só as 3 primeiras linhas.",
        ),
        (
            "SELECT COUNT(*) FROM clientes WHERE id NOT IN (SELECT cliente_id FROM pedidos)",
            "Calcula quantidade de clientes, da tabela clientes; só onde não há registro em "
            "pedidos.",
        ),
        (
            "SELECT c.nome FROM pedidos pe JOIN clientes c ON c.id = pe.cliente_id "
            "WHERE pe.data >= '2024-02-01' GROUP BY c.id HAVING COUNT(*) > 10",
            "Mostra nome, juntando pedidos e clientes; só onde data é a partir de 01/02/2024; só "
            "os grupos em que quantidade de pedidos é maior que 10.",
        ),
        (
            "SELECT nome FROM vinhos WHERE ano = 2019 AND estoque > 1.5",
            "Mostra nome, da tabela vinhos; só onde ano é 2019 e estoque é maior que 1,50.",
        ),
        ("SELECT nome FROM produtos ORDER BY preco DESC LIMIT 1 OFFSET 1", ""),
        ("SELECT nome FROM produtos WHERE 1", "Mostra nome, da tabela produtos; só onde 1."),
        (
            "SELECT id FROM pedidos WHERE data NOT LIKE '2024%' AND status NOT LIKE 'p%'",
            "Mostra número, da tabela pedidos; só onde data não é de 2024 e status não começa com "
            "“p”.",
        ),
        (
            "SELECT nome FROM clientes WHERE nome LIKE '%a' AND uf LIKE 'SP' AND nome LIKE '%b%'",
            "Mostra nome, da tabela clientes; só onde nome termina com “a” e UF é “SP” e nome "
            "contém “b”.",
        ),
        (
            "SELECT nome FROM clientes WHERE data_cadastro LIKE '____-12-%'",
            "Mostra nome, da tabela clientes; só onde data_cadastro LIKE '____-12-%'.",
        ),
        (
            "SELECT nome FROM clientes WHERE uf NOT IN ('SP', 'RJ') AND (nome = 'a' OR nome = 'b') "
            "ORDER BY data_cadastro DESC",
            "Mostra nome, da tabela clientes; só onde UF não é SP nem RJ e (nome é a ou nome é b); "
            "em ordem de data de cadastro (do mais recente ao mais antigo).",
        ),
        (
            "SELECT nome FROM clientes WHERE id NOT IN (SELECT cliente_id FROM pedidos "
            "WHERE data > '2023-12-31')",
            "Mostra nome, da tabela clientes; só onde não há registro em pedidos (só onde data é "
            "depois de 31/12/2023).",
        ),
        ("SELECT COUNT(*) FROM (SELECT uf FROM clientes GROUP BY uf HAVING COUNT(*) > 3)", ""),
        ("SELECT nome FROM produtos p WHERE preco > (SELECT AVG(preco) FROM produtos WHERE 1)", ""),
        *[
            (f"SELECT nome FROM clientes {rest}", "")
            for rest in (
                "c JOIN pedidos p ON p.status = 'pago'",
                "c JOIN (SELECT DISTINCT cliente_id FROM pedidos) p ON p.cliente_id = c.id",
                "WHERE id IN (SELECT MAX(cliente_id) FROM pedidos)",
                "WHERE cidade IN (SELECT nome FROM produtos)",
                "WHERE EXISTS (VALUES (1))",
                "WHERE id IN (SELECT 1)",
                "LIMIT 2 + 3",
                "LIMIT -1",
            )
        ],
        (
            "SELECT * FROM clientes WHERE nome > 'M' AND id NOT BETWEEN 1 AND 2 ORDER BY 2",
            "Mostra todas as colunas, da tabela clientes; só onde nome é maior que M e número fica "
            "fora de 1 a 2; em ordem de 2.",
        ),
        (
            "SELECT id FROM pedidos WHERE status <> 'cancelado' OR pagamento = 'pix'",
            "Mostra número, da tabela pedidos; só onde status não é cancelado ou forma de "
            "pagamento é pix.",
        ),
        ("SELECT COUNT(CASE WHEN preco > 9 THEN 1 END) FROM produtos", ""),
        ("SELECT COUNT(pe.id) FROM clientes c LEFT JOIN pedidos pe ON pe.cliente_id = c.id", ""),
        ("SELECT 1 FROM pedidos pe JOIN clientes c ON c.id = pe.cliente_id AND c.uf = 'SP'", ""),
        (
            "SELECT nome FROM notas WHERE json_valid(nome)",
            "Mostra nome, da tabela notas; só onde JSON_VALID(nome).",
        ),
        ("SELECT 1", ""),
        ("WITH x AS (SELECT 1 AS a) SELECT a FROM x", ""),
        ("SELECT RANK() OVER (ORDER BY preco) FROM produtos", ""),
        ("não é SQL (", ""),
    ],
)
def test_the_sentence_says_what_the_query_does_or_nothing(sql, told):
    assert sentence(sql) == told


def test_laying_out_changes_only_the_blanks_between_words():
    text = (DATA_DIR / "perguntas_curadas.jsonl").read_text(encoding="utf-8")
    queries = {json.loads(line)["sql"] for line in text.splitlines()}
    for sql in queries:
        assert one_line(laid_out(sql)) == sql
    odd = "SELECT 'dois  espaços\n FROM x' FROM produtos WHERE nome = 'a' OR nome = 'b' -- fim"
    assert laid_out(odd) == odd, "com comentário, fica como veio"
    assert laid_out("SELECT 'sem fim") == "SELECT 'sem fim"
