"""Executa SQL de procedência duvidosa sem risco: só leitura, só as tabelas do banco, com limites.

Um modelo pode escrever qualquer coisa. Quatro barreiras independentes cuidam disso:

1. o arquivo é aberto em modo somente leitura (`mode=ro`) e com `PRAGMA query_only`;
2. um autorizador do SQLite recusa tudo que não seja SELECT sobre as tabelas do próprio banco e
   funções inofensivas (https://sqlite.org/c3ref/set_authorizer.html);
3. o tempo é limitado por um `progress_handler`, e o número de linhas, na leitura;
4. o tamanho de cada valor, o dos padrões de LIKE e o do resultado são limitados: uma só função
   sobre textos enormes passaria do relógio, lido entre instruções, ou esgotaria a memória.
"""

import re
import sqlite3
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from comum.terminal import UserError

TIME_LIMIT_S = 3.0
ROW_LIMIT = 10_000
MAX_SQL_CHARS = 5_000
MAX_VALUE_BYTES = 200_000
MAX_RESULT_BYTES = 20_000_000
MAX_LIKE_PATTERN_BYTES = 500
PROGRESS_STEP = 2_000  # instruções da máquina virtual do SQLite entre duas leituras do relógio
DENIED_FUNCTIONS = {
    *("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"),
    *("sqlite_compileoption_get", "sqlite_compileoption_used", "randomblob", "zeroblob"),
    *("printf", "format"),  # printf('%.*c', 900000000, 'x') ocupa o processador por 10 s
}
# Espaços e comentários, e então SELECT, WITH ou VALUES: o autorizador não vê o EXPLAIN.
_QUERY_START = re.compile(
    r"(?:[\s\ufeff]|--[^\n]*\n|(?>/\*.*?\*/))*+(?:select|with|values)\b", re.IGNORECASE | re.DOTALL
)


class QueryError(Exception):
    """A consulta não pôde ser executada; a mensagem, em português, diz por quê."""


@dataclass(frozen=True)
class Result:
    """Colunas e linhas de uma consulta; `truncated` diz se o limite de linhas cortou a leitura."""

    columns: list[str]
    rows: list[tuple]
    truncated: bool = False


class Database(AbstractContextManager):
    """Um banco SQLite aberto para leitura segura; fecha-se com `close` ou com `with`.

    Raises:
        UserError: o arquivo não existe ou não é um banco SQLite.
    """

    def __init__(self, path: Path | str, time_limit: float = TIME_LIMIT_S) -> None:
        self.path = Path(path)
        self.time_limit = time_limit
        if not self.path.is_file():
            raise UserError(
                f"banco de dados não encontrado: {self.path}. Gere-o com data_prep.py ou corrija "
                "`database.custom` na configuração."
            )
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        try:
            rows = self._connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view') "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            ).fetchall()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise UserError(f"{self.path} não é um banco SQLite legível: {error}.") from error
        self.tables = {name for name, _ in rows}
        self.schema = "\n".join(sql for _, sql in rows if sql)
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_LIKE_PATTERN_BYTES)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.set_authorizer(self._authorize)
        self._denied = ""
        self._deadline = 0.0
        self._connection.set_progress_handler(
            lambda: time.monotonic() > self._deadline, PROGRESS_STEP
        )

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        reason = "só consultas SELECT são permitidas"
        if action == sqlite3.SQLITE_READ:
            # Sem coluna (COUNT(*)), o nome vem como foi escrito, e pode ser o de uma CTE. Como
            # nenhuma outra tabela pode ser aberta (ATTACH e tabelas virtuais caem no fim desta
            # função), nesse caso basta barrar o catálogo interno.
            internal = (first or "").lower().startswith(("sqlite_", "pragma_"))
            if first in self.tables or not (second or internal):
                return sqlite3.SQLITE_OK
            reason = f"a tabela {first} não faz parte do banco"
        elif action == sqlite3.SQLITE_FUNCTION:
            if (second or "").lower() not in DENIED_FUNCTIONS:
                return sqlite3.SQLITE_OK
            reason = f"a função {second} não é permitida"
        self._denied = reason
        return sqlite3.SQLITE_DENY

    def run(self, sql: str, row_limit: int = ROW_LIMIT) -> Result:
        """Executa uma única consulta.

        Raises:
            QueryError: SQL vazio, longo demais, inválido, proibido, com mais de uma instrução
                ou mais lento que `time_limit` segundos.
        """
        sql = sql.strip()
        if not sql:
            raise QueryError("a consulta está vazia")
        if len(sql) > MAX_SQL_CHARS:
            raise QueryError(f"a consulta passa de {MAX_SQL_CHARS} caracteres")
        self._denied = ""
        self._deadline = time.monotonic() + self.time_limit
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            rows = _fetch(cursor, row_limit + 1)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError) as error:
            raise QueryError(self._explain(error)) from error
        finally:
            columns = [column[0] for column in cursor.description or []]
            cursor.close()
        if not columns or not _QUERY_START.match(sql):
            raise QueryError("só consultas SELECT são permitidas")
        return Result(columns, rows[:row_limit], truncated=len(rows) > row_limit)

    def _explain(self, error: Exception) -> str:
        text = str(error)
        if self._denied:
            return f"consulta recusada: {self._denied}"
        if "interrupted" in text:
            return f"a consulta passou do limite de {self.time_limit:g} s"
        if "one statement at a time" in text:
            return "consulta recusada: só uma instrução por vez"
        if "too big" in text:
            return "a consulta produz um valor grande demais"
        return f"SQL inválido: {text}"


def _fetch(cursor: sqlite3.Cursor, limit: int) -> list[tuple]:
    """Lê até `limit` linhas; para antes se o resultado não couber em MAX_RESULT_BYTES."""
    rows, size = [], 0
    for row in cursor:
        rows.append(row)
        size += sum(len(v) if isinstance(v, str | bytes) else 8 for v in row)
        if size > MAX_RESULT_BYTES:
            raise QueryError("a consulta produz um resultado grande demais")
        if len(rows) == limit:
            break
    return rows
