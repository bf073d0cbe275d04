"""database.py: o que quer que um modelo escreva, nada muda, nada vaza e nada trava."""

import hashlib
import json
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from comum.terminal import UserError

import pytest

from loja_sql import config
from loja_sql.sql import database
from loja_sql.sql.database import Database, QueryError, TrustedDatabase

TIME_LIMIT_S = 0.4
ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
# 99.000 letras "a", por substituições sucessivas: o maior texto que cabe no limite, ou quase.
LONG_TEXT = (
    "replace(replace(replace('aaaaaaaaaa', 'a', 'aaaaaaaaaa'), 'a', '"
    + "a" * 30
    + "'), 'a', '"
    + "a" * 33
    + "')"
)
LONG = f"WITH t AS MATERIALIZED (SELECT {LONG_TEXT} s), u AS MATERIALIZED (SELECT s || s s FROM t)"


def doubled(step: str, levels: int) -> str:
    """Uma CTE em que cada nível usa duas vezes o anterior: o trabalho é de prepará-la."""
    parts = [f"c{i} AS ({step.replace('#', f'c{i - 1}')})" for i in range(1, levels)]
    return f"WITH c0 AS (SELECT 1 a), {', '.join(parts)} SELECT COUNT(*) FROM c{levels - 1}"


ONLY_SELECT = "só consultas SELECT são permitidas"
TIMEOUT = "passou do limite de 0,4 s"
NO_MEMORY = "pede memória demais|derrubou o processo"
ENDED = f"{TIMEOUT}|{NO_MEMORY}"
TOO_BIG = "um valor grande demais"
INVALID = "SQL inválido"
ONE_AT_A_TIME = "só uma instrução por vez"
NOT_A_TABLE = "não faz parte do banco"

HOSTILE = {  # nome: (SQL, parte da mensagem)
    # escrita
    "insert": ("INSERT INTO vendedores VALUES (99, 'x', 'Sul')", ONLY_SELECT),
    "insert de select": ("INSERT INTO vendedores SELECT * FROM vendedores", ONLY_SELECT),
    "update": ("UPDATE produtos SET preco = 0", ONLY_SELECT),
    "update com returning": ("UPDATE produtos SET preco = 0 RETURNING id", ONLY_SELECT),
    "delete": ("DELETE FROM avaliacoes", ONLY_SELECT),
    "delete com returning": ("DELETE FROM avaliacoes RETURNING id", ONLY_SELECT),
    "delete depois de cte": ("WITH t AS (SELECT 1) DELETE FROM avaliacoes", ONLY_SELECT),
    "replace": ("REPLACE INTO vendedores VALUES (1, 'x', 'Sul')", ONLY_SELECT),
    # esquema
    "drop": ("DROP TABLE clientes", ONLY_SELECT),
    "drop if exists": ("DROP TABLE IF EXISTS clientes", ONLY_SELECT),
    "create": ("CREATE TABLE t (a)", ONLY_SELECT),
    "create as": ("CREATE TABLE t AS SELECT * FROM clientes", ONLY_SELECT),
    "create temp": ("CREATE TEMP TABLE t (a)", ONLY_SELECT),
    "create view": ("CREATE TEMP VIEW t AS SELECT 1", ONLY_SELECT),
    "create index": ("CREATE INDEX t ON clientes (nome)", ONLY_SELECT),
    "create virtual": ("CREATE VIRTUAL TABLE t USING fts5(a)", ONLY_SELECT),
    "create trigger": ("CREATE TRIGGER t AFTER INSERT ON pedidos BEGIN SELECT 1; END", ONLY_SELECT),
    "alter": ("ALTER TABLE clientes ADD COLUMN senha TEXT", ONLY_SELECT),
    "alter rename": ("ALTER TABLE clientes RENAME TO c", ONLY_SELECT),
    # outros arquivos e a configuração do SQLite
    "attach memória": ("ATTACH ':memory:' AS x", ONLY_SELECT),
    "attach arquivo": ("ATTACH '{folder}/novo.sqlite' AS x", ONLY_SELECT),
    "detach": ("DETACH main", ONLY_SELECT),
    "vacuum": ("VACUUM", ONLY_SELECT),
    "vacuum into": ("VACUUM INTO '{folder}/novo.sqlite'", ONLY_SELECT),
    "pragma query_only": ("PRAGMA query_only = OFF", ONLY_SELECT),
    "pragma writable_schema": ("PRAGMA writable_schema = 1", ONLY_SELECT),
    "pragma table_info": ("PRAGMA table_info(clientes)", ONLY_SELECT),
    "pragma database_list": ("PRAGMA database_list", ONLY_SELECT),
    "pragma journal_mode": ("PRAGMA journal_mode = WAL", ONLY_SELECT),
    "pragma user_version": ("PRAGMA user_version = 3", ONLY_SELECT),
    "load_extension": ("SELECT load_extension('x')", "load_extension não é permitida"),
    "readfile": ("SELECT readfile('/etc/passwd')", "readfile"),
    "writefile": ("SELECT writefile('{folder}/novo.sqlite', 'a')", "writefile"),
    # transações e manutenção
    "begin": ("BEGIN", ONLY_SELECT),
    "begin exclusive": ("BEGIN EXCLUSIVE", ONLY_SELECT),
    "commit": ("COMMIT", ONLY_SELECT),
    "rollback": ("ROLLBACK", ONLY_SELECT),
    "savepoint": ("SAVEPOINT s", ONLY_SELECT),
    "reindex": ("REINDEX", ONLY_SELECT),
    "analyze": ("ANALYZE", ONLY_SELECT),
    "explain": ("EXPLAIN SELECT * FROM clientes", ONLY_SELECT),
    "explain query plan": ("EXPLAIN QUERY PLAN SELECT * FROM clientes", ONLY_SELECT),
    "explain disfarçado": ("/* a */EXPLAIN /* b */ SELECT 1", ONLY_SELECT),
    "explain com bom": ("\ufeffexplain select 1", ONLY_SELECT),
    # o catálogo
    "sqlite_master": ("SELECT sql FROM sqlite_master", NOT_A_TABLE),
    "sqlite_schema": ("SELECT sql FROM sqlite_schema", NOT_A_TABLE),
    "sqlite_master qualificado": ("SELECT * FROM main.sqlite_master", NOT_A_TABLE),
    "sqlite_master contado": ("SELECT COUNT(*) FROM SQLite_Master", NOT_A_TABLE),
    "sqlite_master com apelido": ("SELECT clientes.name FROM sqlite_master clientes", NOT_A_TABLE),
    "sqlite_master em cte": (
        "WITH clientes AS (SELECT name FROM sqlite_master) SELECT * FROM clientes",
        NOT_A_TABLE,
    ),
    "sqlite_master em subconsulta": (
        "SELECT (SELECT name FROM sqlite_master) FROM clientes",
        NOT_A_TABLE,
    ),
    "sqlite_temp_master": ("SELECT * FROM sqlite_temp_master", NOT_A_TABLE),
    "pragma como função": ("SELECT * FROM pragma_table_info('clientes')", "tabela virtual"),
    "pragma como função, contada": ("SELECT COUNT(*) FROM pragma_database_list", "tabela virtual"),
    "dbstat": ("SELECT name FROM dbstat", "consulta recusada|SQL inválido"),
    "dbstat contada": ("SELECT COUNT(*) FROM dbstat", "consulta recusada|SQL inválido"),
    # tempo
    "cte infinita": (ENDLESS + "SELECT COUNT(*) FROM r", TIMEOUT),
    "cte infinita somada": (ENDLESS + "SELECT SUM(n) FROM r", TIMEOUT),
    "produto cartesiano": (
        "SELECT COUNT(*) FROM itens_pedido a, itens_pedido b, itens_pedido c",
        TIMEOUT,
    ),
    "produto ordenado": (
        "SELECT a.id FROM itens_pedido a, itens_pedido b "
        "ORDER BY a.preco_unitario || b.preco_unitario",
        TIMEOUT,
    ),
    "texto que só cresce": (
        "SELECT group_concat(a.nome) FROM clientes a, pedidos b",
        f"{TOO_BIG}|{TIMEOUT}",
    ),
    "like quadrático": (
        f"SELECT {LONG_TEXT} LIKE '%' || substr({LONG_TEXT}, 1, 40000) || 'b'",
        "LIKE or GLOB pattern too complex",
    ),
    # memória
    "zeroblob": ("SELECT zeroblob(2000000000)", "zeroblob não é permitida"),
    "randomblob": ("SELECT randomblob(2000000000)", "randomblob não é permitida"),
    "printf": ("SELECT printf('%.*c', 900000000, 'x')", "printf não é permitida"),
    "format": ("SELECT format('%900000000d', 1)", "format não é permitida"),
    "replace que explode": (f"SELECT replace({LONG_TEXT}, 'a', 'aaaaaaaaaaaaaa')", TOO_BIG),
    "hex que explode": (f"SELECT hex(hex({LONG_TEXT}))", TOO_BIG),
    "concatenação que explode": (f"SELECT {LONG_TEXT} || {LONG_TEXT} || {LONG_TEXT}", TOO_BIG),
    "muitas linhas enormes": (
        f"WITH t AS MATERIALIZED (SELECT {LONG_TEXT} AS s) SELECT s || i.id FROM t, itens_pedido i",
        "um resultado grande demais",
    ),
    # o que não chega à próxima instrução do SQLite, onde se lê o relógio
    "cte que dobra: junção": (doubled("SELECT x.a FROM # x, # y", 30), ENDED),
    "cte que dobra: união": (doubled("SELECT a FROM # UNION ALL SELECT a FROM #", 22), ENDED),
    "cte que dobra: escalar": (doubled("SELECT (SELECT a FROM #)+(SELECT a FROM #) a", 30), ENDED),
    "instr quadrático": (
        f"{LONG} SELECT SUM(instr(s, (SELECT substr(s, 1, 99000) || 'b' FROM u))) FROM u, clientes",
        TIMEOUT,
    ),
    "replace quadrático": (
        f"{LONG} SELECT SUM(length(replace(s, substr(s, 1, 99000) || 'b', ''))) "
        "FROM u, itens_pedido",
        TIMEOUT,
    ),
    "trim quadrático": (
        f"{LONG} SELECT length(trim(replace(s, 'a', 'b'), substr(s, 1, 16000) || 'b')) FROM u",
        TIMEOUT,
    ),
    # o que iria para a memória ou para arquivos temporários
    "linha larga": (
        f"{LONG}, e AS MATERIALIZED (SELECT substr(s, 1, 190000) || char(128512) s FROM u) "
        f"SELECT {', '.join(['s'] * 1500)} FROM e",
        ENDED,
    ),
    "json_group_array": (
        f"{LONG} SELECT length(json_group_array(s)) FROM u, itens_pedido a, itens_pedido b",
        f"{TOO_BIG}|{ENDED}",
    ),
    "group_concat distinto": (
        f"{LONG} SELECT length(group_concat(DISTINCT s || i.id)) FROM t, itens_pedido i",
        f"{TOO_BIG}|{ENDED}",
    ),
    "materializar": (
        f"{LONG}, m AS MATERIALIZED (SELECT substr(s, 1, 190000) || i.id || j.id x FROM u, "
        "itens_pedido i, itens_pedido j) SELECT COUNT(*) FROM m",
        ENDED,
    ),
    "fila da recursão": (
        f"{LONG}, r(x, n) AS (SELECT s, 1 FROM u UNION ALL SELECT substr(x, 1, 190000) || n, n + 1 "
        "FROM r, vendedores) SELECT COUNT(*) FROM r",
        ENDED,
    ),
    "ordenar textos longos": (
        f"{LONG} SELECT length(x) FROM (SELECT s || i.id || j.id x FROM u, itens_pedido i, "
        "itens_pedido j ORDER BY x DESC)",
        f"{TOO_BIG}|{ENDED}",
    ),
    # mais de uma instrução
    "empilhada": ("SELECT 1; DROP TABLE clientes", ONE_AT_A_TIME),
    "empilhada com comentário": ("SELECT 1; -- nada\nDELETE FROM clientes", ONE_AT_A_TIME),
    "empilhada entre comentários": ("SELECT 1 /* a */; /* b */ DELETE FROM pedidos", ONE_AT_A_TIME),
    "duas consultas": ("SELECT 1; SELECT 2", ONE_AT_A_TIME),
    # texto quebrado
    "vazio": ("", "a consulta está vazia"),
    "espaços": (" \n\t ", "a consulta está vazia"),
    "só ponto e vírgula": (";", ONLY_SELECT),
    "só comentário": ("-- SELECT 1", ONLY_SELECT),
    "só bloco de comentário": ("/* SELECT 1 */", ONLY_SELECT),
    "comentário aberto": ("/* SELECT 1", ONLY_SELECT),
    "truncado": ("SELECT nome FROM", INVALID),
    "só select": ("SELECT", INVALID),
    "parêntese aberto": ("SELECT COUNT(", INVALID),
    "aspas abertas": ("SELECT 'abc", INVALID),
    "prosa": ("Claro! A consulta é: SELECT 1", INVALID),
    "cerca de markdown": ("```sql\nSELECT 1\n```", INVALID),
    "nul no meio": ("SELECT 1\0; DROP TABLE clientes", INVALID),
    "nul num texto": ("SELECT 'a\0b'", INVALID),
    "surrogate": ("SELECT '\ud800'", INVALID),
    "utf-8 inválido no resultado": ("SELECT CAST(x'ff' AS TEXT)", INVALID),
    "muito longo": ("SELECT 1" + " + 1" * 2000, "passa de 5000 caracteres"),
    "aninhado demais": ("SELECT " + "~" * 1500 + "1", INVALID),
    "parâmetro sem valor": ("SELECT nome FROM clientes WHERE id = ?", INVALID),
    "tabela que não há": ("SELECT * FROM senhas", INVALID),
    "coluna que não há": ("SELECT senha FROM clientes", INVALID),
    "função que não há": ("SELECT YEAR('2024-01-01')", INVALID),
    "estouro de inteiro": ("SELECT abs(-9223372036854775808)", INVALID),
}


@pytest.fixture(scope="module")
def bank(shop_11):
    """Um banco só para o arquivo inteiro: cada ataque encontra o que o anterior deixou."""
    return Database(shop_11, time_limit=TIME_LIMIT_S)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_or_broken_sql_is_refused_and_changes_nothing(bank, shop_11, name):
    """Erro em português, no prazo; o arquivo e a pasta ficam iguais e o banco segue respondendo."""
    sql, expected = HOSTILE[name]
    before, files = digest(shop_11), sorted(shop_11.parent.iterdir())
    start = time.monotonic()
    with pytest.raises(QueryError) as caught:
        bank.run(sql.replace("{folder}", str(shop_11.parent)))
    elapsed = time.monotonic() - start
    message = str(caught.value)
    assert any(part in message for part in expected.split("|")), message
    beginnings = ("consulta recusada: ", "só consultas", "a consulta ", "SQL inválido: ")
    assert message.startswith(beginnings), message
    assert elapsed < TIME_LIMIT_S + 3, "o limite de tempo não valeu"
    assert digest(shop_11) == before
    assert sorted(shop_11.parent.iterdir()) == files
    assert bank.run("SELECT COUNT(*) FROM clientes").rows == [(600,)]


# Num processo pequeno: o pico (ru_maxrss) de um filho começa pela memória de quem o criou.
MEASURE = """
import json, re, resource, sys
from loja_sql.sql import database

bank, failures = database.Database(sys.argv[1]), []
for sql in json.load(sys.stdin):
    try:
        bank.run(sql)
    except database.QueryError as error:
        failures.append(str(error))
    process = database._idle.get()
    if process:
        process.kill()
        process.wait()
    database._idle.put(None)
own = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([own + used.ru_maxrss, used.ru_oublock, failures]))
"""
GREEDY = ("cte que dobra", "linha larga", "json_group", "group_concat d", "material", "fila", "ord")


@pytest.mark.skipif(sys.platform != "linux", reason="os outros não têm todos os limites")
def test_no_query_takes_more_memory_or_disk_than_the_limits(shop_11):
    """Com o prazo inteiro: 300 MB, nos dois processos juntos, e 64 MB em disco."""
    asked = [sql for name, (sql, _) in HOSTILE.items() if name.startswith(GREEDY)]
    command = [sys.executable, "-c", MEASURE, str(shop_11)]
    folder = str(Path(config.__file__).parents[1])
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    kilobytes, blocks, failures = json.loads(done.stdout)
    assert len(failures) == len(asked) == 9
    assert kilobytes * 1024 < 300e6 and blocks * 512 < 64e6


def test_error_is_about_the_last_query_only(bank):
    """O motivo de uma recusa não vaza para o erro da consulta seguinte."""
    with pytest.raises(QueryError, match="load_extension"):
        bank.run("SELECT load_extension('x')")
    with pytest.raises(QueryError, match="^SQL inválido: não há a tabela senhas"):
        bank.run("SELECT * FROM senhas")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nome FROM senhas", "não há a tabela senhas"),
        ("SELECT apelido FROM clientes", "não há a coluna apelido"),
        ("SELECT MEDIA(preco) FROM produtos", "não há a função MEDIA"),
        ("SELECT nome FROM clientes, produtos", "mais de uma tabela tem a coluna nome"),
        ("SELECT nome FROM clientes ORDEM BY nome", "erro de sintaxe perto de “BY”"),
        ("SELECT nome FROM clientes WHERE", "a consulta está incompleta"),
        ("SELECT 'abc", 'não se lê "\'abc"; falta fechar'),
        ("SELECT nome FROM clientes WHERE COUNT(*) > 1", "COUNT() não cabe ali"),
        ("SELECT SUM(preco, 2) FROM produtos", "SUM() não recebe esse número de argumentos"),
        ("SELECT (SELECT nome, uf FROM clientes)", "uma subconsulta devolve colunas demais"),
        ("SELECT nome FROM clientes UNION SELECT nome, uf FROM clientes", "as consultas unidas"),
        ("VALUES (1), (1, 2)", "as linhas do VALUES"),
        ("SELECT nome FROM clientes HAVING id > 1", "HAVING pede um GROUP BY"),
        ("SELECT COUNT(*) FROM clientes GROUP BY COUNT(*)", "agregados não vão no GROUP BY"),
        ("SELECT 1 ORDER BY 1 UNION SELECT 2", "o ORDER BY vem depois do UNION"),
        ("SELECT 1 LIMIT 1 UNION ALL SELECT 2", "o LIMIT vem depois do UNION ALL"),
        (
            "SELECT uf FROM clientes UNION SELECT 'x' ORDER BY nome",
            "o ORDER BY de consultas unidas",
        ),
        ("SELECT nome FROM clientes ORDER BY 3", "o ORDER BY cita pelo número"),
        ("SELECT nome FROM clientes GROUP BY 1, 3", "o GROUP BY cita pelo número"),
        ("SELECT *", "falta o FROM"),
        ("SELECT 1 FROM clientes JOIN pedidos USING (uf)", "USING(uf) pede"),
        ("SELECT 1 FROM clientes NATURAL JOIN pedidos ON 1", "NATURAL JOIN não leva"),
        ("SELECT COUNT(DISTINCT nome, uf) FROM clientes", "COUNT() não recebe esse número"),
        ("SELECT GROUP_CONCAT(DISTINCT uf, ';') FROM clientes", "DISTINCT pede um só argumento"),
        ("SELECT (1, 2) = 1", "uma lista entre parênteses não cabe"),
        ("SELECT nome FROM clientes LIMIT 'dez'", "um valor não é do tipo"),
        ("WITH x AS (SELECT * FROM x) SELECT * FROM x", "a consulta x se refere a si mesma"),
        ("SELECT SUM(id) OVER j FROM clientes", "não há a janela j"),
        ("SELECT nome FROM clientes ORDER BY nome COLLATE pt", "não há a ordem de comparação pt"),
        ("SELECT json_extract('{', '$')", "um texto não é JSON"),
        ("SELECT " + ",".join("1" * 2001), "há colunas demais"),
        ("SELECT " + "+".join("1" * 1100), "há uma expressão funda demais"),
        ("SELECT nome FROM clientes WHERE uf = ?", "há um parâmetro"),
    ],
)
def test_what_is_wrong_is_said_in_portuguese(bank, sql, said):
    """Os erros de SQL que mais se cometem, com o nome do que está errado."""
    with pytest.raises(QueryError) as caught:
        bank.run(sql)
    assert str(caught.value).startswith(f"SQL inválido: {said}")


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT 1", [(1,)]),
        ("  select 1 ;  ", [(1,)]),
        ("SELECT 1; -- fim", [(1,)]),
        ("-- um comentário antes\nSELECT 1", [(1,)]),
        ("/* SELECT 2 */ SELECT 1", [(1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT COUNT(*) FROM produtos", [(200,)]),
        ("select count(*) from Produtos", [(200,)]),
        ("SELECT COUNT(*) FROM main.produtos AS p", [(200,)]),
        ("SELECT COUNT(DISTINCT uf) FROM clientes", [(27,)]),
        ("WITH t AS (SELECT uf FROM clientes GROUP BY uf) SELECT COUNT(*) FROM t", [(27,)]),
        ("WITH t AS MATERIALIZED (SELECT 1 AS a) SELECT a FROM t", [(1,)]),
        ("WITH t AS (SELECT uf FROM clientes) SELECT 1 WHERE EXISTS (SELECT 1 FROM t)", [(1,)]),
        (
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) "
            "SELECT COUNT(*), SUM(n) FROM r",
            [(5, 15)],
        ),
        ("SELECT COUNT(*) FROM (SELECT uf FROM clientes GROUP BY uf) AS t", [(27,)]),
        (
            "SELECT COUNT(*) FROM itens_pedido WHERE pedido_id NOT IN (SELECT id FROM pedidos)",
            [(0,)],
        ),
        (
            "SELECT strftime('%Y', '2024-02-29'), date('2024-02-29', '+1 year'), "
            "julianday('2024-01-02') - julianday('2024-01-01')",
            [("2024", "2025-03-01", 1.0)],
        ),
        ("SELECT CASE WHEN 2 > 1 THEN 'sim' ELSE 'não' END", [("sim",)]),
        ("SELECT 1 UNION SELECT 2 UNION SELECT 1 ORDER BY 1", [(1,), (2,)]),
        ("SELECT 1 EXCEPT SELECT 1", []),
        (
            "SELECT id, SUM(id) OVER (ORDER BY id) FROM vendedores ORDER BY id LIMIT 3",
            [(1, 1), (2, 3), (3, 6)],
        ),
        (
            "SELECT id, ROW_NUMBER() OVER (PARTITION BY regiao ORDER BY id) FROM vendedores "
            "WHERE regiao = 'Norte' LIMIT 2",
            [(1, 1), (2, 2)],
        ),
        (
            "SELECT upper('ab') || lower('CD'), round(2.3, 0), coalesce(NULL, 'x'), length('ção')",
            [("ABcd", 2.0, "x", 3)],
        ),
        (
            "SELECT 'João' LIKE 'jo%', 'abc' GLOB 'a*', instr('abc', 'c'), substr('abc', 2)",
            [(1, 1, 3, "bc")],
        ),
        (
            "SELECT group_concat(id) FROM (SELECT id FROM clientes ORDER BY id LIMIT 3)",
            [("1,2,3",)],
        ),
        ("SELECT 'DROP TABLE clientes; --', 'it''s'", [("DROP TABLE clientes; --", "it's")]),
        ("SELECT replace(hex('a'), '6', 'x')", [("x1",)]),
    ],
)
def test_legitimate_queries_run(bank, sql, rows):
    """SELECT, CTE, subconsulta, datas, CASE, UNION e janelas funcionam como em qualquer SQLite."""
    result = bank.run(sql)
    assert result.rows == rows
    assert not result.truncated


def test_result_carries_column_names_even_without_rows(bank):
    """Um resultado vazio ainda diz quais são as colunas."""
    result = bank.run("SELECT nome, preco AS valor FROM produtos WHERE id < 0")
    assert (result.columns, result.rows, result.truncated) == (["nome", "valor"], [], False)


@pytest.mark.parametrize(
    ("limit", "read", "truncated"), [(1, 1, True), (23, 23, True), (24, 24, False), (50, 24, False)]
)
def test_row_limit_marks_what_was_cut(bank, limit, read, truncated):
    """`truncated` é verdadeiro só quando sobrou alguma linha por ler."""
    result = bank.run("SELECT id FROM vendedores", row_limit=limit)
    assert (len(result.rows), result.truncated) == (read, truncated)


def test_endless_query_stops_at_the_row_limit(bank):
    """Uma consulta que não acaba, lida linha a linha, para no limite de linhas."""
    result = bank.run(ENDLESS + "SELECT n FROM r", row_limit=100)
    assert result.rows == [(n,) for n in range(1, 101)]
    assert result.truncated


def test_time_limit_starts_over_at_each_query(bank):
    """Depois de um estouro de tempo, a consulta seguinte tem o prazo inteiro."""
    for _ in range(2):
        with pytest.raises(QueryError, match="passou do limite"):
            bank.run(ENDLESS + "SELECT COUNT(*) FROM r")
        assert bank.run("SELECT COUNT(*) FROM itens_pedido").rows == [(10_000,)]


def scripted(path: Path, script: str) -> Database:
    """Um banco novo, feito por um roteiro de SQL."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return Database(path)


def test_views_of_the_user_database_can_be_read(tmp_path):
    """Uma view do banco do usuário é lida; uma que espia o catálogo, não."""
    bank = scripted(
        tmp_path / "meu banco #1?.sqlite",
        "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2); CREATE INDEX i ON t (a);"
        "CREATE VIEW v AS SELECT a * 10 AS b FROM t;"
        "CREATE VIEW espia AS SELECT name FROM sqlite_master;",
    )
    assert bank.run("SELECT SUM(b) FROM v").rows == [(30,)]
    assert bank.run("SELECT COUNT(*) FROM V").rows == [(2,)]
    with pytest.raises(QueryError, match="sqlite_master"):
        bank.run("SELECT * FROM espia")
    with pytest.raises(QueryError, match=ONLY_SELECT):
        bank.run("REINDEX")
    assert "CREATE TABLE t" in bank.schema
    assert "CREATE VIEW v" in bank.schema


def test_virtual_tables_and_json_are_read_and_a_broken_view_says_so(tmp_path):
    """FTS5 e json_each servem; uma view sobre o que já não existe não é "SQL inválido"."""
    bank = scripted(
        tmp_path / "textos.sqlite",
        "CREATE VIRTUAL TABLE notas USING fts5(texto);"
        "INSERT INTO notas VALUES ('entrega atrasada'), ('tudo certo');"
        "CREATE TABLE velha (a); CREATE VIEW sobra AS SELECT a FROM velha; DROP TABLE velha;",
    )
    found = bank.run("SELECT texto FROM notas WHERE notas MATCH 'atrasada'")
    assert found.rows == [("entrega atrasada",)]
    assert bank.run("SELECT SUM(value) FROM json_each('[1, 2]')").rows == [(3,)]
    with pytest.raises(QueryError, match="a view usa uma tabela que não existe: main.velha"):
        bank.run("SELECT * FROM sobra")
    with pytest.raises(QueryError, match="a única tabela virtual permitida"):
        bank.run("SELECT * FROM pragma_table_list")


def test_missing_file_is_explained(tmp_path):
    """Arquivo ausente: o erro diz qual e o que fazer, e nenhum arquivo é criado."""
    path = tmp_path / "nada.sqlite"
    with pytest.raises(UserError, match="não encontrado.*nada.sqlite.*database"):
        Database(path)
    assert not path.exists()
    with pytest.raises(UserError, match="não encontrado"):
        Database(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,nome\n1,Ana\n" * 100, r"não é um banco SQLite legível \(file is not a database\)"),
        (b"", "planilha.sqlite não tem nenhuma tabela"),
        (b"S", "planilha.sqlite não tem nenhuma tabela"),
    ],
)
def test_file_that_is_not_a_database_is_explained(tmp_path, content, words):
    """Um CSV, ou só o começo de um banco, sai com uma frase, não com um traceback do sqlite3."""
    path = tmp_path / "planilha.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        Database(path)


def test_a_closed_wal_bank_is_read_without_writing_beside_it(tmp_path):
    """Numa pasta sem permissão de escrita, o SQLite não criaria os arquivos do modo WAL."""
    path = tmp_path / "wal.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE livros (id)")
        connection.execute("INSERT INTO livros VALUES (7)")
        connection.commit()
    tmp_path.chmod(0o500)
    bank = Database(path)
    assert bank.tables == ["livros"] and bank.run("SELECT id FROM livros").rows == [(7,)]
    assert [file.name for file in tmp_path.iterdir()] == ["wal.sqlite"]


OURS = [  # consultas e tropeços que também acontecem nas perguntas que escrevemos
    "SELECT uf, COUNT(*) AS n FROM clientes GROUP BY uf ORDER BY n DESC LIMIT 5",
    "SELECT nome FROM produtos WHERE estoque = 0",
    "SELECT nome, cidade FROM clientes",
    *(HOSTILE[name][0] for name in ("vazio", "muito longo", "truncado", "coluna que não há")),
    *(HOSTILE[name][0] for name in ("delete", "explain", "sqlite_master", "duas consultas")),
    *(HOSTILE[name][0] for name in ("cte infinita", "surrogate", "zeroblob")),
]


@pytest.mark.parametrize("sql", OURS)
def test_our_own_queries_get_the_same_answer_without_a_process(bank, ours, shop_11, sql):
    """As linhas, na mesma ordem, ou o mesmo motivo de recusa; e o arquivo fica como estava."""
    before = digest(shop_11)
    assert outcome(ours, sql) == outcome(bank, sql)
    assert digest(shop_11) == before


@pytest.fixture(scope="module")
def ours(shop_11):
    return TrustedDatabase(shop_11, time_limit=TIME_LIMIT_S)


def outcome(chosen, sql):
    try:
        return chosen.run(sql)
    except QueryError as error:
        return str(error)


def test_a_column_that_is_two_foreign_keys_does_not_cost_the_other_indexes(tmp_path):
    path = tmp_path / "dupla.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY);"
            "CREATE TABLE c (y REFERENCES a (id), x REFERENCES a (id) REFERENCES b (id));"
        )
    plan = "EXPLAIN QUERY PLAN SELECT x FROM c WHERE y = 1"
    with closing(sqlite3.connect(path)) as connection:
        database._index(connection, ["a", "b", "c"])
        assert "COVERING INDEX c y" in connection.execute(plan).fetchone()[3]


@pytest.fixture
def nobody_waits(monkeypatch):
    """Nenhum processo à espera: a próxima consulta precisa de um novo."""
    idle = queue.LifoQueue()
    idle.put(None)
    monkeypatch.setattr(database, "_idle", idle)


@pytest.mark.parametrize("program", ["/nao/existe", shutil.which("false") or "/nao/existe"])
def test_a_process_that_cannot_start_is_not_the_fault_of_the_query(
    bank, nobody_waits, monkeypatch, program
):
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", program)
        with pytest.raises(UserError, match="não iniciou o processo.*Feche outros programas"):
            bank.run("SELECT 1")
    assert bank.run("SELECT 1").rows == [(1,)]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="o Windows não tem este sinal")
def test_an_interruption_is_not_the_fault_of_the_query_either(bank, nobody_waits):
    """Ctrl-C no meio de uma consulta interrompe o programa, e não recusa a consulta."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S / 4)
    try:
        with pytest.raises(KeyboardInterrupt):
            bank.run(ENDLESS + "SELECT COUNT(*) FROM r")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert bank.run("SELECT 1").rows == [(1,)]
