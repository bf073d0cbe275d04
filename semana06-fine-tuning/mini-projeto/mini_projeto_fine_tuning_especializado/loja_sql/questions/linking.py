"""Ligação de valores: o que a pergunta nomeia, como o banco escreve.

    clientes de BLUMENAL  →  clientes de BLUMENAL [clientes.cidade=Blumenau]

O índice guarda os valores distintos das colunas de texto, sem caixa, acentos nem pontuação. Cada
sequência de palavras da pergunta, da mais longa à mais curta, se procura nele: primeiro igual;
depois com um erro de digitação (em 5 a 7 letras) ou dois (em 8 ou mais), fora da primeira letra.
"""

import re
import sqlite3
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from comum.numbers import decimal
from comum.terminal import UserError
from comum.text import WORD, fold, words

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from loja_sql.config import Config
from loja_sql.prompt import Context, Link
from loja_sql.sql.database import Database

MAX_LINKS = 4
MAX_VALUE_CHARS, MAX_VALUE_WORDS = 60, 8  # mais que isto é texto corrido, e ninguém o digita
COLUMN_LIMIT, DATABASE_LIMIT = 200_000, 1_000_000  # valores distintos
TIME_LIMIT_S = 30.0  # lendo um banco inteiro
FEW = 64  # até tantos candidatos, compará-los sai mais barato que filtrá-los
_NOT_TEXT = re.compile(r"INT|REAL|FLOA|DOUB|\bDEC|\bNUM|DATE|TIME|BOOL|BLOB", re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}[-/]\d{1,2}([-/]\d{1,4})?\b")
_BREAKS_HINT = re.compile(r"[\[\];|<\ufffd]")  # o formato da dica, ou o template de chat
_COLUMNS = """
    SELECT t.name, c.name, c.type FROM pragma_table_list t, pragma_table_info(t.name) c
    WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    ORDER BY t.name, c.cid"""

Column = tuple[str, str]


def context(config: Config) -> Context:
    """O esquema do banco que responde e os valores dele; lê o banco já, e diz o que não coube.

    Raises:
        UserError: o banco não se abre, ou não tem uma coluna de `prompt.hint_exclude`.
    """
    path, prompt = config.databases[0], config.prompt
    schema = Database(path).schema
    if not prompt.value_hints:
        return Context(schema, lambda question: ())
    excluded = frozenset(name.lower() for name in prompt.hint_exclude)
    _index_now(path, excluded)
    return Context(schema, lambda question: _index_now(path, excluded).links(question))


def _index_now(path: Path, excluded: frozenset[str]) -> "ValueIndex":
    """O índice do arquivo como está agora: quem o muda faz o índice de novo."""
    try:
        facts = path.stat()
    except OSError as error:
        raise UserError(f"banco de dados não encontrado: {path}.") from error
    return _index(path, excluded, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1)
def _index(path: Path, excluded: frozenset[str], *version: int) -> "ValueIndex":
    return ValueIndex(column_values(path, excluded))


def column_values(path: Path, excluded: frozenset[str] = frozenset()) -> dict[Column, list[str]]:
    """Os valores distintos de cada coluna de texto do banco, fora as de `excluded`."""
    with closing(sqlite3.connect(Database(path).uri(), uri=True)) as bank:
        bank.text_factory = lambda raw: raw.decode("utf-8", "replace")
        bank.execute("PRAGMA trusted_schema = OFF")
        deadline = time.monotonic() + TIME_LIMIT_S
        bank.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        found, left = {}, DATABASE_LIMIT
        for column in _text_columns(bank, excluded):
            found[column] = _values(bank, column, min(COLUMN_LIMIT, left))
            left -= len(found[column])
    return found


def _text_columns(bank: sqlite3.Connection, excluded: frozenset[str]) -> list[Column]:
    found = bank.execute(_COLUMNS).fetchall()
    if unknown := excluded - {f"{table}.{column}".lower() for table, column, _ in found}:
        raise UserError(f"prompt.hint_exclude: o banco não tem {', '.join(sorted(unknown))}.")
    return [
        (table, column)
        for table, column, kind in found
        if f"{table}.{column}".lower() not in excluded
        and not _NOT_TEXT.search(kind)
        and not _BREAKS_HINT.search(table + column)
    ]


def _values(bank: sqlite3.Connection, column: Column, limit: int) -> list[str]:
    """Os valores distintos de uma coluna, até o limite; o que fica de fora sai em stderr."""
    table, name = (f'"{part.replace(chr(34), chr(34) * 2)}"' for part in column)
    where = f"typeof({name}) = 'text' AND length({name}) <= {MAX_VALUE_CHARS}"
    query = f"SELECT DISTINCT {name} FROM {table} WHERE {where} LIMIT {limit + 1}"
    found, problem = [], None
    try:
        for (value,) in bank.execute(query):
            found.append(value)
        if len(found) > limit:
            first = f"só os primeiros {decimal(limit)} valores distintos viram dica"
            problem = first if limit else "os valores não viram dica: os das outras já são demais"
    except sqlite3.Error as error:
        late = f"ler o banco passou de {TIME_LIMIT_S:g} s"
        reason = late if "interrupted" in str(error) else error
        problem = f"nem todos os valores viram dica ({reason})"
    if problem:
        print(f"{'.'.join(column)}: {problem}.", file=sys.stderr)
    return found[:limit]


class ValueIndex:
    """Os valores de um banco, ordenados por primeira letra, comprimento e texto.

    Assim os candidatos a um erro de digitação são vizinhos, e o índice é de listas e vetores.
    """

    def __init__(self, values: dict[Column, list[str]]) -> None:
        self._columns = list(values)
        keys, texts, places = [], [], array("i")
        for number, found in enumerate(values.values()):
            for text, folded in _searchable(found):
                keys.append(_ordered(folded))
                texts.append(text)
                places.append(number)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._keys, self._texts = [keys[i] for i in order], [texts[i] for i in order]
        self._places = array("i", (places[i] for i in order))
        self._letters = _letters([key[2:] for key in self._keys])
        self._widest = max((key.count(" ") + 1 for key in self._keys), default=0)

    def links(self, question: str) -> list[Link]:
        """Até `MAX_LINKS` valores que a pergunta nomeia, na ordem em que ela os diz."""
        tokens, typed = words(question), set(WORD.findall(question))
        free, found = [True] * len(tokens), {}
        for search in (self._same, self._close):
            for width in range(min(self._widest, len(tokens)), 0, -1):
                for start in range(len(tokens) - width + 1):
                    if not all(free[start : start + width]):
                        continue
                    if rows := search(" ".join(tokens[start : start + width]), typed):
                        free[start : start + width] = [False] * width
                        found |= {row: start for row in rows}
        kept = sorted(list(found)[:MAX_LINKS], key=found.get)
        return [Link(*self._columns[self._places[row]], self._texts[row]) for row in kept]

    def _same(self, run: str, typed: set[str]) -> list[int]:
        key, found = _ordered(run), []
        row = bisect_left(self._keys, key)
        while row < len(self._keys) and self._keys[row] == key:
            # "se" e "to" não são Sergipe e Tocantins: sigla é a que se digitou como no banco.
            if len(run) > 2 or self._texts[row] in typed:
                found.append(row)
            row += 1
        return found

    def _close(self, run: str, typed: set[str]) -> list[int]:
        """Os valores mais próximos de `run`, se algum está ao alcance de um erro de digitação."""
        if len(run) < 5 or any(map(str.isdigit, run)):
            return []
        edits = 1 if len(run) < 8 else 2
        first = bisect_left(self._keys, run[0] + chr(len(run) - edits))
        last = bisect_left(self._keys, run[0] + chr(len(run) + edits + 1), first)
        rows: Sequence[int] = range(first, last)
        if len(rows) > FEW:
            # Um erro muda no máximo dois bits de cada metade.
            changed = np.bitwise_count(self._letters[first:last] ^ _letters([run]))
            rows = first + np.flatnonzero(changed <= 4 * edits)
        keys = [self._keys[row][2:] for row in rows]
        near = process.extract(run, keys, scorer=OSA.distance, score_cutoff=edits, limit=None)
        return [int(rows[place]) for _, distance, place in near if distance == near[0][1]]


def _searchable(texts: list[str]) -> Iterator[tuple[str, str]]:
    """(como está no banco, como se procura) de cada texto que serve de dica."""
    kept = [t for t in texts if t.isprintable() and not _BREAKS_HINT.search(t)]
    # Uma só dobra para todos: texto a texto, levaria o triplo.
    for text, folded in zip(kept, fold("\n".join(kept)).split("\n"), strict=False):
        found = WORD.findall(folded)
        key = " ".join(found)
        # Uma letra, ou um número curto, está em qualquer pergunta.
        enough = len(key) >= (5 if key.isdigit() else 2) and len(found) <= MAX_VALUE_WORDS
        if enough and not _DATE.match(text):
            yield text, key


def _ordered(key: str) -> str:
    return key[0] + chr(len(key)) + key


def _letters(keys: list[str]) -> np.ndarray:
    """As letras de cada texto (nenhum vazio): uint64 [textos].

    Numa metade dos bits, as que ele tem; na outra, as que tem um número ímpar de vezes.
    """
    if not keys:
        return np.zeros(0, np.uint64)
    codes = np.frombuffer("".join(keys).encode("utf-32-le"), np.uint32)
    bits = np.uint64(1) << (codes % 32).astype(np.uint64)
    starts = np.cumsum([0, *map(len, keys[:-1])])
    odd = np.bitwise_xor.reduceat(bits, starts) << np.uint64(32)
    return np.bitwise_or.reduceat(bits, starts) | odd
