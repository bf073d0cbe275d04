"""Executa SQL de procedência duvidosa sem risco: cada consulta roda num processo à parte.

As barreiras estão em `worker.py`. Aqui ficam o processo, que espera vivo a próxima consulta e é
refeito quando morre, e as mensagens de quando ele não responde. O SQL que é nosso, e são dezenas
de milhares de consultas ao preparar os dados, dispensa o processo: `TrustedDatabase`.
"""

import queue
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from comum.terminal import UserError, reason

from loja_sql.sql import worker
from loja_sql.sql.worker import ONLY_SELECT, TABLES, QueryError, quoted, timed_out

TIME_LIMIT_S = 3.0
ROW_LIMIT = 10_000
MAX_SQL_CHARS = 5_000
NARROW = 8  # colunas: até tantas, um índice as guarda todas
AT_ONCE = 4  # consultas ao mesmo tempo, cada uma no seu processo; as outras esperam a vez
# Espaços e comentários, e então SELECT, WITH ou VALUES: o autorizador não vê o EXPLAIN.
_QUERY_START = re.compile(
    r"(?:[\s\ufeff]|--[^\n]*\n|(?>/\*.*?\*/))*+(?:select|with|values)\b", re.IGNORECASE | re.DOTALL
)
_idle: queue.LifoQueue[subprocess.Popen | None] = queue.LifoQueue()
for _ in range(AT_ONCE):
    _idle.put(None)


@dataclass(frozen=True)
class Result:
    """Colunas e linhas de uma consulta; `truncated` diz se o limite de linhas cortou a leitura."""

    columns: list[str]
    rows: list[tuple]
    truncated: bool = False


class Database:
    """Um banco SQLite que se consulta sem risco; `schema` são os CREATE das suas `tables`.

    Raises:
        UserError: o arquivo não existe, não é um banco SQLite ou não tem tabelas.
    """

    def __init__(self, path: Path | str, time_limit: float = TIME_LIMIT_S) -> None:
        self.path = Path(path)
        self.time_limit = time_limit
        if not self.path.is_file():
            raise UserError(
                f"banco de dados não encontrado: {self.path}. Corrija `database.custom` na "
                "configuração ou, se é o da loja, gere-o com data_prep.py."
            )
        try:
            with closing(sqlite3.connect(self.uri(), uri=True)) as connection:
                rows = connection.execute(TABLES).fetchall()
        except (OSError, sqlite3.DatabaseError) as error:
            raise UserError(
                f"{self.path} não é um banco SQLite legível ({reason(error)}): está cortado, é de "
                "outro formato, ou outro programa o tem preso?"
            ) from error
        if not rows:
            raise UserError(
                f"{self.path} não tem nenhuma tabela: está vazio ou cortado. Se é o da loja, "
                "apague-o e rode data_prep.py; senão, corrija `database.custom` na configuração."
            )
        self.tables = [name for name, *_ in rows]
        self.schema = "\n".join(sql for _, sql, _ in rows if sql)

    def uri(self) -> str:
        """Só leitura; um banco em modo WAL que ninguém tem aberto dispensa os arquivos ao lado."""
        path = self.path.resolve()
        with path.open("rb") as file:
            wal = file.read(19)[18:] == b"\x02"
        alone = wal and not path.with_name(f"{path.name}-wal").exists()
        return f"{path.as_uri()}?mode=ro{'&immutable=1' * alone}"

    def run(self, sql: str, row_limit: int = ROW_LIMIT) -> Result:
        """Executa uma única consulta.

        Raises:
            QueryError: SQL vazio, longo demais, inválido, proibido, com mais de uma instrução,
                mais lento que `time_limit` segundos ou que pede memória demais.
            UserError: o sistema não deu um processo em que a executar.
        """
        sql = sql.strip()
        if not sql:
            raise QueryError("a consulta está vazia")
        if len(sql) > MAX_SQL_CHARS:
            raise QueryError(f"a consulta passa de {MAX_SQL_CHARS} caracteres")
        columns, rows = self._answer(sql, row_limit + 1)
        if not columns or not _QUERY_START.match(sql):
            raise QueryError(ONLY_SELECT)
        return Result(columns, rows[:row_limit], truncated=len(rows) > row_limit)

    def _answer(self, sql: str, row_limit: int) -> tuple[list[str], list[tuple]]:
        stat = self.path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        started = time.monotonic()
        request = (self.uri(), stamp, sql, self.time_limit, row_limit)
        try:
            answer = _ask(request)
        except EOFError as error:
            late = time.monotonic() - started > self.time_limit
            died = "a consulta derrubou o processo que a executava"
            raise QueryError(timed_out(self.time_limit) if late else died) from error
        if isinstance(answer, str):
            raise QueryError(answer)
        return answer


class TrustedDatabase(Database):
    """Um banco que só recebe consultas nossas: executa-as neste processo, numa cópia em memória.

    As barreiras da conexão são as mesmas, e os motivos de uma recusa também; o que ele não tem é o
    vigia nem o teto de memória, que são de um processo inteiro. O arquivo, ele o lê uma vez só.
    """

    def __init__(self, path: Path | str, time_limit: float = TIME_LIMIT_S) -> None:
        super().__init__(path, time_limit)
        connection = sqlite3.connect(":memory:")
        with closing(sqlite3.connect(self.uri(), uri=True)) as source:
            source.backup(connection)
        _index(connection, self.tables)
        self._bank = worker.Bank(connection)

    def _answer(self, sql: str, row_limit: int) -> tuple[list[str], list[tuple]]:
        return self._bank.run(sql, self.time_limit, row_limit)


def _index(connection: sqlite3.Connection, tables: list[str]) -> None:
    """Índices nas chaves estrangeiras, e as estatísticas com que o planejador os usa.

    As consultas devolvem as mesmas linhas, na metade do tempo; num banco em que não dê para os
    criar, não fazem falta.
    """
    keys = 'SELECT DISTINCT "from" FROM pragma_foreign_key_list(?)'
    names = "SELECT name FROM pragma_table_info(?) WHERE NOT pk"
    with suppress(sqlite3.Error):
        for table in tables:
            every = [name for (name,) in connection.execute(names, (table,))]
            for (key,) in connection.execute(keys, (table,)).fetchall():
                # Se as colunas são poucas, vão todas: a linha não se busca à parte.
                columns = dict.fromkeys([key, *every] if len(every) <= NARROW else [key])
                index, on = quoted(f"{table} {key}"), ", ".join(map(quoted, columns))
                connection.execute(f"CREATE INDEX {index} ON {quoted(table)} ({on})")
        connection.execute("ANALYZE")


def _ask(request: tuple) -> tuple[list[str], list[tuple]] | str:
    """A resposta de um processo que espera, ou de um novo.

    Raises:
        EOFError: ele morreu sem responder.
        UserError: era preciso um novo, e o sistema não o deu.
    """
    process = _idle.get()
    try:
        if process is None or process.poll() is not None:
            process = _started()
        worker.send(process.stdin, request)
        return worker.receive(process.stdout)
    except BaseException as error:  # também o Ctrl-C, que deixa uma resposta pela metade
        _end(process)
        process = None
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise EOFError from error
        raise
    finally:
        _idle.put(process)


def _started() -> subprocess.Popen:
    """Um processo novo, que já disse que está pronto."""
    command = [sys.executable, "-I", "-S", worker.__file__]
    pipe, nowhere, process = subprocess.PIPE, subprocess.DEVNULL, None
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)
        worker.receive(process.stdout)
    except BaseException as error:
        _end(process)
        if not isinstance(error, OSError | EOFError):
            raise
        raise UserError(
            "o sistema não iniciou o processo em que as consultas rodam: falta memória, ou há "
            "processos demais. Feche outros programas e repita."
        ) from error
    return process


def _end(process: subprocess.Popen | None) -> None:
    if process is not None:
        process.kill()
        with suppress(OSError), process:  # fecha os canos e espera o fim
            pass
