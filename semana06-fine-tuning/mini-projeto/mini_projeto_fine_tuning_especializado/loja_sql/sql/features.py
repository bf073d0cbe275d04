"""O que se pode dizer de uma consulta só de olhar para ela: tipo, dificuldade, esqueleto."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite

# Do mais específico ao mais geral: o que a consulta precisa ter, pelos tipos de nó da árvore dela
# (contados), pela árvore ou pela primeira coluna.
KINDS: dict[str, Callable[[Counter, exp.Expression, exp.Expression], object]] = {
    "primeiro de cada grupo": lambda have, *_: have[exp.Window],
    "anti-junção": lambda _, tree, __: any(
        node.find(exp.In, exp.Exists) and node.find(exp.Select) for node in tree.find_all(exp.Not)
    ),
    "having": lambda have, *_: have[exp.Having],
    "ranking": lambda _, tree, __: tree.args.get("limit"),
    "agrupamento": lambda _, tree, __: tree.args.get("group"),
    "percentual": lambda _, tree, __: any(x.name == "100.0" for x in tree.find_all(exp.Literal)),
    "razão": lambda _, __, first: isinstance(first, exp.Div | exp.Sub) and first.find(exp.AggFunc),
    "distintos": lambda have, *_: have[exp.Distinct],
    "contagem": lambda _, __, first: isinstance(first, exp.Count),
    "agregado": lambda _, __, first: first.find(exp.AggFunc),
    "junção": lambda have, *_: have[exp.Join],
    "subconsulta": lambda have, *_: have[exp.Select] > 1,
    "lista ordenada": lambda _, tree, __: tree.args.get("order"),
    "lista": lambda *_: True,
}


class _Skeleton(SQLite.Generator):
    """Escreve a consulta com um `?` no lugar de cada literal."""

    TRANSFORMS = SQLite.Generator.TRANSFORMS | {exp.Literal: lambda *_: "?"}


# Nomes entre aspas e comentários, que ficam; textos e inteiros, que não mudam o feitio da consulta.
_VALUES = re.compile(
    r"""("[^"]*"|`[^`]*`|\[[^]]*\]|--[^\n]*|/\*.*?\*/|'now'|'[^']*\$[^']*')"""
    r"""|'(?:[^']|'')*'|(?<![\w.])\d+(?![\w.])""",
    re.DOTALL | re.IGNORECASE,
)


class Shape(NamedTuple):
    """O que não depende dos valores de uma consulta."""

    skeleton: str  # com todo literal trocado por `?`: duas que só diferem em valores são iguais
    tables: list[str]
    kind: str  # o primeiro de `KINDS` que se aplica
    difficulty: str  # fácil, média ou difícil


_shapes: dict[str, Shape] = {}  # por `without_values`


@lru_cache(4096)
def parse(sql: str) -> exp.Expression:
    """A árvore da consulta; quem a altera trabalha numa cópia.

    Raises:
        sqlglot.errors.SqlglotError: o texto não é SQL.
    """
    return sqlglot.parse_one(sql, read="sqlite")


@cache
def without_values(sql: str) -> str:
    """A consulta com os mesmos valores de toda outra que só difere neles; é lida uma vez só.

    >>> without_values("SELECT nome FROM clientes WHERE uf = 'MG' LIMIT 5")
    "SELECT nome FROM clientes WHERE uf = 'x' LIMIT 1"
    """
    return _VALUES.sub(lambda found: found[1] or ("'x'" if found[0][0] == "'" else "1"), sql)


def shape(sql: str) -> Shape:
    """O feitio da consulta.

    Raises:
        sqlglot.errors.SqlglotError: o texto não é SQL.
    """
    blank = without_values(sql)
    if blank not in _shapes:
        _shapes[blank] = _shape(blank)
    return _shapes[blank]


def remember(sql: str, found: Shape) -> None:
    """Guarda o feitio que outro processo achou, para não ler a consulta de novo."""
    _shapes[without_values(sql)] = found


def _shape(sql: str) -> Shape:
    tree = parse(sql)
    first = tree.expressions[0].unalias() if isinstance(tree, exp.Select) else tree
    have = Counter(map(type, tree.walk()))
    kind = next(name for name, fits in KINDS.items() if fits(have, tree, first))
    skeleton = _Skeleton(dialect="sqlite").generate(tree, copy=False)
    return Shape(skeleton, tables(tree), kind, _difficulty(have))


def tables(tree: exp.Expression) -> list[str]:
    """As tabelas citadas numa árvore, sem repetição, em ordem alfabética."""
    return sorted({table.name for table in tree.find_all(exp.Table)})


def _difficulty(have: Counter) -> str:
    """Pela soma de tabelas, condições e cláusulas além da primeira."""
    points = have[exp.Join] + have[exp.And] + have[exp.Or]
    points += sum(have[clause] > 0 for clause in (exp.Group, exp.Having, exp.Limit, exp.Case))
    points += 2 * (have[exp.Select] - 1)
    return "fácil" if points <= 1 else "média" if points <= 4 else "difícil"
