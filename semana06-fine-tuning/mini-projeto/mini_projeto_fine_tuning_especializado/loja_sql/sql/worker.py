"""O processo à parte em que uma consulta roda: só leitura, só as tabelas do banco, com limites.

Um modelo pode escrever qualquer coisa. Barreiras independentes cuidam disso:

1. o arquivo é aberto em modo somente leitura (`mode=ro`) e com `PRAGMA query_only`;
2. um autorizador do SQLite recusa tudo que não seja SELECT sobre as tabelas do próprio banco e
   funções inofensivas (https://sqlite.org/c3ref/set_authorizer.html);
3. o relógio é lido entre instruções do SQLite; como preparar a consulta, ou uma só função, pode
   durar horas sem chegar à próxima, um vigia em C (`faulthandler`) acaba com o processo atrasado;
4. o SQLite tem um teto de memória e guarda nela o que iria para arquivos temporários, e o sistema
   limita a memória, o processador e os arquivos do processo. O Windows não tem esses últimos
   limites (`resource`), nem o macOS o de memória: lá ficam só o teto do SQLite e o vigia;
5. o tamanho de cada valor, o dos padrões de LIKE e o do resultado são limitados.

Só usa a biblioteca padrão, e o mínimo dela, para nascer em dezenas de milissegundos: `database.py`
o inicia pelo caminho, e os dois conversam por `send` e `receive`.
"""

import faulthandler
import functools
import marshal
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from typing import BinaryIO

try:
    import resource
except ImportError:  # Windows
    resource = None

PROCESS_BYTES = 224 << 20  # com a cópia do resultado em quem pediu, menos de 300 MB
SQLITE_BYTES = 160 << 20
FILE_BYTES = 16 << 20  # só o índice (-shm) de um banco em modo WAL é escrito
GRACE_S = 0.2  # do prazo do SQLite, que poupa o processo, ao do vigia
MAX_VALUE_BYTES = 200_000
MAX_RESULT_BYTES = 32_000_000
MAX_LIKE_PATTERN_BYTES = 500
PROGRESS_STEP = 2_000  # instruções da máquina virtual do SQLite entre duas leituras do relógio
BANKS_OPEN = 8
DENIED_FUNCTIONS = {
    *("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"),
    *("sqlite_compileoption_get", "sqlite_compileoption_used", "randomblob", "zeroblob"),
    *("printf", "format"),  # printf('%.*c', 900000000, 'x') ocupa o processador por 10 s
}
JSON_TABLES = ("json_each", "json_tree")
# Como o SQLite diz o que mais se erra, antes e depois do nome, e como nós o dizemos.
MESSAGES = {
    ("no such table: ", ""): "não há a tabela {}",
    ("no such column: ", ""): "não há a coluna {}",
    ("no such function: ", ""): "não há a função {}",
    ("ambiguous column name: ", ""): "mais de uma tabela tem a coluna {}; diga de qual é",
    ('near "', '": syntax error'): "erro de sintaxe perto de “{}”",
    ("incomplete input", ""): "a consulta está incompleta",
    ("unrecognized token: ", ""): "não se lê {}; falta fechar alguma aspa?",
    ("misuse of aggregate: ", ""): "{} não cabe ali; agregados não vão no WHERE",
    ("misuse of aggregate function ", ""): "{} não cabe ali; agregados não vão no WHERE",
    ("misuse of window function ", ""): "{} não cabe ali; funções de janela não vão no WHERE",
    ("wrong number of arguments to function ", ""): "{} não recebe esse número de argumentos",
    ("sub-select returns ", ""): "uma subconsulta devolve colunas demais",
    ("SELECTs to the left and right of ", ""): "as consultas unidas têm colunas a mais ou a menos",
    ("all VALUES must have", ""): "as linhas do VALUES têm números de colunas diferentes",
    ("HAVING clause on a non-aggregate", ""): "HAVING pede um GROUP BY ou um agregado",
    ("aggregate functions are not allowed in the GROUP BY", ""): "agregados não vão no GROUP BY",
    ("ORDER BY clause should come after ", " not before"): "o ORDER BY vem depois do {}",
    ("LIMIT clause should come after ", " not before"): "o LIMIT vem depois do {}",
    ("ORDER BY term does not match", ""): (
        "o ORDER BY de consultas unidas só aceita colunas do resultado"
    ),
    ("ORDER BY term out of range", ""): "o ORDER BY cita pelo número uma coluna que não há",
    ("GROUP BY term out of range", ""): "o GROUP BY cita pelo número uma coluna que não há",
    ("no tables specified", ""): "falta o FROM de que o * tiraria as colunas",
    ("cannot join using column ", " - column not present in both tables"): (
        "USING({}) pede uma coluna que as duas tabelas tenham"
    ),
    ("a NATURAL join may not have", ""): "NATURAL JOIN não leva ON nem USING",
    ("DISTINCT aggregates must have exactly one argument", ""): "DISTINCT pede um só argumento",
    ("row value misused", ""): "uma lista entre parênteses não cabe ali",
    ("datatype mismatch", ""): "um valor não é do tipo que se pede ali (o LIMIT é um número?)",
    ("circular reference: ", ""): "a consulta {} se refere a si mesma; falta RECURSIVE?",
    ("no such window: ", ""): "não há a janela {}",
    ("no such collation sequence: ", ""): "não há a ordem de comparação {}",
    ("malformed JSON", ""): "um texto não é JSON",
    ("too many columns in result set", ""): "há colunas demais no resultado",
    ("Expression tree is too large", ""): "há uma expressão funda demais",
    ("Incorrect number of bindings", ""): "há um parâmetro (? ou :nome) no lugar de um valor",
}
ONLY_SELECT = "só consultas SELECT são permitidas"
TABLES = (
    "SELECT name, sql, type FROM sqlite_master WHERE type IN ('table', 'view') "
    "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)


class QueryError(Exception):
    """A consulta não pôde ser executada; a mensagem, em português, diz por quê."""


def timed_out(limit: float) -> str:
    """A mensagem de quem passou do prazo, em segundos."""
    return f"a consulta passou do limite de {limit:g} s".replace(".", ",")


def quoted(name: str) -> str:
    """Um nome de tabela, coluna ou índice como o SQL o escreve, seja qual for."""
    return '"{}"'.format(name.replace('"', '""'))


def send(stream: BinaryIO, message: object) -> None:
    """Escreve um valor simples (textos, números, tuplas, listas) num cano."""
    data = marshal.dumps(message)
    stream.write(len(data).to_bytes(8, "big"))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> object:
    """Lê o que `send` escreveu; EOFError se o outro lado se foi, mesmo no meio."""
    return marshal.loads(stream.read(int.from_bytes(stream.read(8), "big")))


class Bank:
    """Um banco com as barreiras que são da conexão; `run` executa uma consulta de cada vez."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        tables = connection.execute(TABLES).fetchall()
        self._readable = {*JSON_TABLES, *(name for name, *_ in tables)}
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_LIKE_PATTERN_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # A primeira leitura de uma tabela virtual escreve no catálogo da conexão.
        for name in (*JSON_TABLES, *(name for name, _, kind in tables if kind == "table")):
            try:
                connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 0")
            except sqlite3.Error:  # quem a consultar saberá
                continue
        connection.set_authorizer(self._authorize)
        self._denied = ""
        self._deadline = 0.0
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, PROGRESS_STEP)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        reason = ONLY_SELECT
        if action == sqlite3.SQLITE_READ:
            # Sem coluna (COUNT(*)), o nome vem como foi escrito, e pode ser o de uma CTE. Como
            # nenhuma outra tabela pode ser aberta (ATTACH e as demais tabelas virtuais são
            # recusados), nesse caso basta barrar o catálogo interno.
            internal = (first or "").lower().startswith(("sqlite_", "pragma_"))
            if first in self._readable or not (second or internal):
                return sqlite3.SQLITE_OK
            reason = f"a tabela {first} não faz parte do banco"
        elif action == sqlite3.SQLITE_FUNCTION:
            if (second or "").lower() not in DENIED_FUNCTIONS:
                return sqlite3.SQLITE_OK
            reason = f"a função {second} não é permitida"
        elif action == sqlite3.SQLITE_PRAGMA and (first, second) == ("data_version", None):
            return sqlite3.SQLITE_OK  # o FTS5 o lê a cada consulta
        elif action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
            reason = "a única tabela virtual permitida, além das do banco, é a de JSON (json_each)"
        self._denied = reason
        return sqlite3.SQLITE_DENY

    def run(self, sql: str, time_limit: float, row_limit: int) -> tuple[list[str], list[tuple]]:
        """As colunas e até `row_limit` linhas.

        Raises:
            QueryError: SQL inválido, proibido, com mais de uma instrução, mais lento que
                `time_limit` segundos ou que pede memória demais.
        """
        self._denied = ""
        self._deadline = time.monotonic() + time_limit
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            return [column[0] for column in cursor.description or []], _fetch(cursor, row_limit)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError) as error:
            raise QueryError(self._explain(str(error), time_limit)) from error
        finally:
            cursor.close()

    def _explain(self, text: str, time_limit: float) -> str:
        if self._denied:
            return f"consulta recusada: {self._denied}"
        if "interrupted" in text:
            return timed_out(time_limit)
        if "one statement at a time" in text:
            return "consulta recusada: só uma instrução por vez"
        if "out of memory" in text:
            return "a consulta pede memória demais"
        if "too big" in text:
            return "a consulta produz um valor grande demais"
        if text.startswith("no such table: main."):
            return f"a view usa uma tabela que não existe: {text.removeprefix('no such table: ')}"
        return f"SQL inválido: {_translated(text)}"


def _translated(text: str) -> str:
    """A mensagem do SQLite em português; as raras, como ele as diz."""
    ordinal, _, rest = text.partition(" ")
    text = rest if ordinal[:1].isdigit() else text  # 2nd ORDER BY term …
    for (start, end), ours in MESSAGES.items():
        if text.startswith(start) and text.endswith(end):
            return ours.format(text[len(start) : len(text) - len(end)])
    return text


def _fetch(cursor: sqlite3.Cursor, limit: int) -> list[tuple]:
    rows, size = [], 0
    for row in cursor:
        rows.append(row)
        size += sys.getsizeof(row) + sum(map(sys.getsizeof, row))
        if size > MAX_RESULT_BYTES:
            raise QueryError("a consulta produz um resultado grande demais")
        if len(rows) == limit:
            break
    return rows


@functools.lru_cache(BANKS_OPEN)
def _bank(uri: str, stamp: tuple) -> Bank:
    """O banco, reaberto quando `stamp` (o que identifica o arquivo) muda."""
    # Uma consulta preparada guarda memória: nenhuma fica para a próxima.
    connection = sqlite3.connect(uri, uri=True, cached_statements=0)
    connection.execute(f"PRAGMA hard_heap_limit = {SQLITE_BYTES}")  # do processo inteiro
    return Bank(connection)


def _answer(
    uri: str, stamp: tuple, sql: str, time_limit: float, row_limit: int
) -> tuple[list[str], list[tuple]] | str:
    """Colunas e linhas, ou a mensagem de erro."""
    try:
        return _bank(uri, stamp).run(sql, time_limit, row_limit)
    except QueryError as error:
        return str(error)
    except sqlite3.Error as error:
        return f"o banco não abre: {error}"
    except MemoryError:
        return "a consulta pede memória demais"


def _limit(kind: str, amount: int) -> None:
    """Um limite do sistema; o que ele não tem, ou já limita a menos, fica como está."""
    if resource is not None:
        which = getattr(resource, kind)
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (amount, resource.getrlimit(which)[1]))


def main() -> None:
    """Responde, um a um, os pedidos que chegam pela entrada, até ela se fechar."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # o Ctrl-C é de quem pediu
    _limit("RLIMIT_AS", PROCESS_BYTES)
    _limit("RLIMIT_FSIZE", FILE_BYTES)
    send(sys.stdout.buffer, "pronto")  # o que falhar daqui em diante é culpa da consulta
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        deadline = request[3] + GRACE_S
        faulthandler.dump_traceback_later(deadline, exit=True)
        _limit("RLIMIT_CPU", int(time.process_time() + deadline) + 2)
        answer = _answer(*request)
        faulthandler.cancel_dump_traceback_later()
        send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    main()
