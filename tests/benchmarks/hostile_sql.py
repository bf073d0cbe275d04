"""O que custa, no pior caso, um SQL escrito para fazer mal: segundos, memória e disco.

    python tests/benchmarks/hostile_sql.py [PASTA_COM_SQL]

Cada consulta roda como as do modelo (loja_sql/sql/database.py), sobre a loja da semente 11. Mede o
tempo de quem pediu, a memória que ela custa a esse e ao processo que a executa, e o que este
escreve em disco (só no Linux). No fim, quanto o processo à parte acrescenta a uma consulta comum.
"""

import contextlib
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from comum.numbers import decimal
from comum.tables import show

import psutil

PROJECT = Path(__file__).parents[2] / "semana06-fine-tuning/mini-projeto"
sys.path.insert(0, str(PROJECT / "mini_projeto_fine_tuning_especializado"))

from loja_sql.shop import create_shop  # noqa: E402
from loja_sql.sql import database  # noqa: E402

# 198.000 letras "a", por substituições sucessivas: o maior texto que cabe no limite, ou quase.
LETTERS = "'aaaaaaaaaa'"
for times in (10, 30, 66):
    LETTERS = f"replace({LETTERS}, 'a', '{times * 'a'}')"
LONG = f"WITH t AS MATERIALIZED (SELECT {LETTERS} s) "
ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
WIDE = ", ".join(["s"] * 1900)


def doubled(step: str, levels: int) -> str:
    """Uma CTE em que cada nível usa duas vezes o anterior."""
    parts = ["c0 AS (SELECT 1 a)"]
    parts += [f"c{i} AS ({step.replace('#', f'c{i - 1}')})" for i in range(1, levels)]
    return f"WITH {', '.join(parts)} SELECT COUNT(*) FROM c{levels - 1}"


HOSTILE = {
    "CTE que dobra: junção": doubled("SELECT x.a FROM # x, # y", 26),
    "CTE que dobra: junção à esquerda": doubled("SELECT x.a FROM # x LEFT JOIN # y", 28),
    "CTE que dobra: UNION": doubled("SELECT a FROM # UNION SELECT a + 1 FROM #", 24),
    "CTE que dobra: UNION ALL": doubled("SELECT a FROM # UNION ALL SELECT a FROM #", 24),
    "CTE que dobra: escalar": doubled("SELECT (SELECT a FROM #) + (SELECT a FROM #) a", 26),
    "CTE que dobra: EXISTS": doubled(
        "SELECT 1 a WHERE EXISTS (SELECT 1 FROM #) AND EXISTS (SELECT 2 FROM #)", 26
    ),
    "CTE que dobra: INTERSECT": doubled("SELECT a FROM # INTERSECT SELECT a FROM #", 22),
    "CTE que dobra: IN": doubled("SELECT a FROM # WHERE a IN (SELECT a FROM #)", 26),
    "CTE que dobra: CASE": doubled(
        "SELECT CASE WHEN (SELECT a FROM #) THEN (SELECT a FROM #) END a", 26
    ),
    "CTE que dobra: janela": doubled("SELECT SUM(x.a) OVER () a FROM # x, # y", 24),
    "recursão sem fim, contada": ENDLESS + "SELECT COUNT(*) FROM r",
    "recursão sem fim, ordenada": ENDLESS + "SELECT n FROM r ORDER BY -n",
    "recursão sem fim, distinta": ENDLESS + "SELECT COUNT(DISTINCT n % 100000000) FROM r",
    "recursão que cresce": "WITH RECURSIVE r(s) AS (SELECT 'ab' UNION ALL SELECT s || s FROM r) "
    "SELECT MAX(length(s)) FROM r",
    "recursão em fila larga": "WITH RECURSIVE r(n, s) AS (SELECT 1, hex('abcdefgh') UNION ALL "
    "SELECT n + 1, s || n FROM r, vendedores) SELECT COUNT(*) FROM r",
    "produto cartesiano, contado": "SELECT COUNT(*) FROM itens_pedido a, itens_pedido b, clientes",
    "produto cartesiano, ordenado": "SELECT a.id FROM itens_pedido a, itens_pedido b, clientes "
    "ORDER BY a.id * b.id",
    "produto cartesiano, distinto": "SELECT DISTINCT a.id * b.id, a.id FROM itens_pedido a, "
    "itens_pedido b",
    "produto cartesiano, agrupado": "SELECT a.id || '-' || b.id, COUNT(*) FROM itens_pedido a, "
    "itens_pedido b GROUP BY 1",
    "group_concat de tudo": "SELECT length(group_concat(a.id || b.id)) FROM itens_pedido a, "
    "itens_pedido b",
    "group_concat distinto": "SELECT length(group_concat(DISTINCT a.id * b.id)) FROM itens_pedido a"
    ", itens_pedido b",
    "json_group_array": "SELECT length(json_group_array(a.id)) FROM itens_pedido a, itens_pedido b",
    "json_group_object": "SELECT length(json_group_object(a.id, b.id)) FROM itens_pedido a, "
    "itens_pedido b",
    "json_each encadeado": "SELECT COUNT(*) FROM json_each(json_array(1,2,3,4,5,6,7,8,9)) a, "
    "json_each(json_array(1,2,3,4,5,6,7,8,9)) b, itens_pedido c, itens_pedido d",
    "janela larga": "SELECT SUM(b.id) OVER (ORDER BY a.id * b.id ROWS BETWEEN 9999 PRECEDING AND "
    "9999 FOLLOWING) FROM itens_pedido a, itens_pedido b",
    "LIKE que retrocede": LONG + f"SELECT s LIKE '{'%a' * 200}%b' FROM t",
    "GLOB que retrocede": LONG + f"SELECT s GLOB '{'*a' * 200}*b' FROM t",
    "GLOB de classes": LONG + f"SELECT s GLOB '{'*[a-y]' * 80}z' FROM t",
    "instr quadrático": LONG + "SELECT SUM(instr(s, substr(s, 1, 99000) || id)) FROM t, clientes",
    "replace quadrático": LONG + "SELECT SUM(length(replace(s, substr(s, 1, 99000) || id, ''))) "
    "FROM t, itens_pedido",
    "trim quadrático": LONG + "SELECT length(trim(s, replace(substr(s, 1, 60000), 'a', 'bc')||'a'))"
    " FROM t, clientes",
    "replace que cresce": LONG + "SELECT length(replace(s, 'a', s)) FROM t",
    "hex de hex": "SELECT length(hex(hex(hex(hex(hex(hex(hex(hex('abcdefgh"
    + "abcdefgh" * 60
    + "')))))))))",
    "quote em cadeia": "SELECT length(quote(quote(quote(quote(group_concat('''')))))) FROM "
    "itens_pedido a, itens_pedido b",
    "linha de 1900 colunas largas": LONG + f"SELECT {WIDE[:4000].rpartition(',')[0]} FROM t",
    "muitas linhas largas": LONG + "SELECT s, id FROM t, itens_pedido",
    "materializar": LONG + ", m AS MATERIALIZED (SELECT s || i.id || j.id x FROM t, itens_pedido i,"
    " itens_pedido j) SELECT COUNT(*) FROM m",
    "ordenar textos longos": LONG + "SELECT length(x) FROM (SELECT s || i.id x FROM t, "
    "itens_pedido i, itens_pedido j ORDER BY x DESC)",
    "índice automático": "SELECT COUNT(*) FROM (SELECT a.id * b.id k FROM itens_pedido a, "
    "itens_pedido b) x JOIN (SELECT c.id * d.id k FROM itens_pedido c, itens_pedido d) y USING (k)",
    "subconsulta correlata": "SELECT SUM((SELECT COUNT(*) FROM itens_pedido b, itens_pedido c WHERE"
    " b.id < a.id)) FROM itens_pedido a",
    "NOT IN correlato": "SELECT COUNT(*) FROM itens_pedido a WHERE a.id NOT IN (SELECT b.id * c.id "
    "FROM itens_pedido b, itens_pedido c WHERE b.id <> a.id)",
    "EXCEPT de produtos": "SELECT a.id * b.id FROM itens_pedido a, itens_pedido b EXCEPT "
    "SELECT c.id + d.id FROM itens_pedido c, itens_pedido d",
    "expressão funda": "SELECT " + "(" * 900 + "1" + ")" * 900,
    "IN com mil valores": f"SELECT COUNT(*) FROM itens_pedido a, itens_pedido b, clientes c WHERE "
    f"a.id * b.id IN ({','.join(map(str, range(900)))})",
}


def watch(done: threading.Event, peaks: dict[str, int]) -> None:
    """Anota, a cada 5 ms, o pico de memória e o que já escreveu o processo que executa."""
    while not done.wait(0.005):
        for child in psutil.Process().children():
            with contextlib.suppress(OSError, psutil.Error):
                peaks["memory"] = max(peaks["memory"], peak_bytes(child.pid))
                peaks["disk"] = max(peaks["disk"], child.io_counters().write_bytes)


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(x.split()[1]) for x in lines if x.startswith("VmHWM")), 0)


def measure(bank: database.Database, sql: str) -> tuple[float, float, float, str]:
    """Segundos, MB de memória (os picos dos dois processos, somados), MB escritos e a resposta."""
    for child in psutil.Process().children():  # os picos são só desta consulta
        child.kill()
        child.wait()
    Path("/proc/self/clear_refs").write_text("5")  # o pico deste processo recomeça
    own, done = psutil.Process().memory_info().rss, threading.Event()
    peaks = {"memory": 0, "disk": 0}
    watcher = threading.Thread(target=watch, args=(done, peaks))
    watcher.start()
    started = time.perf_counter()
    try:
        found = f"{len(bank.run(sql).rows)} linhas"
    except database.QueryError as error:
        found = str(error)
    seconds = time.perf_counter() - started
    time.sleep(0.02)
    done.set()
    watcher.join()
    memory = peaks["memory"] + peak_bytes(os.getpid()) - own
    return seconds, memory / 1e6, peaks["disk"] / 1e6, found


def overhead(bank: database.Database, path: Path) -> tuple[float, float]:
    """Milissegundos (mediana de 200) de uma consulta comum, no processo à parte e direto."""
    sql = "SELECT uf, COUNT(*) FROM clientes GROUP BY uf"
    with sqlite3.connect(path) as direct:
        runs = (lambda: bank.run(sql), lambda: direct.execute(sql).fetchall())
        times = [[], []]
        for _ in range(200):
            for run, found in zip(runs, times, strict=True):
                started = time.perf_counter()
                run()
                found.append(1000 * (time.perf_counter() - started))
    return tuple(map(statistics.median, times))


def main() -> None:
    given = {
        path.name: path.read_text()
        for folder in sys.argv[1:]
        for path in Path(folder).glob("*.sql")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = create_shop(Path(folder) / "loja.sqlite", 11)
        bank = database.Database(path)
        rows = []
        for label, sql in (HOSTILE | given).items():
            seconds, memory, disk, found = measure(bank, sql)
            rows.append((label, decimal(seconds, 2), decimal(memory), decimal(disk, 1), found[:60]))
        show(("consulta", "s", "MB", "MB em disco", "resposta"), rows)
        apart, direct = overhead(bank, path)
        times = f"{decimal(apart, 2)} ms no processo à parte, {decimal(direct, 2)} ms direto"
        print(f"Uma consulta comum: {times}.")


if __name__ == "__main__":
    main()
