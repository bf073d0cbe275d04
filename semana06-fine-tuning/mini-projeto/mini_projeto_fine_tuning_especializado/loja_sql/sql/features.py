"""O que se pode dizer de uma consulta só de olhar para ela: tipo, dificuldade, esqueleto."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import sqlglot
from sqlglot import exp

# Do mais específico ao mais geral: o que a árvore, ou a primeira coluna dela, precisa ter.
KINDS: dict[str, Callable[[exp.Expression, exp.Expression], object]] = {
    "primeiro de cada grupo": lambda tree, _: tree.find(exp.Window),
    "anti-junção": lambda tree, _: any(
        node.find(exp.In, exp.Exists) and node.find(exp.Select) for node in tree.find_all(exp.Not)
    ),
    "having": lambda tree, _: tree.find(exp.Having),
    "ranking": lambda tree, _: tree.args.get("limit"),
    "agrupamento": lambda tree, _: tree.args.get("group"),
    "percentual": lambda tree, _: any(x.name == "100.0" for x in tree.find_all(exp.Literal)),
    "razão": lambda _, first: isinstance(first, exp.Div | exp.Sub) and first.find(exp.AggFunc),
    "distintos": lambda tree, _: tree.find(exp.Distinct),
    "contagem": lambda _, first: isinstance(first, exp.Count),
    "agregado": lambda _, first: first.find(exp.AggFunc),
    "junção": lambda tree, _: tree.find(exp.Join),
    "subconsulta": lambda tree, _: len(list(tree.find_all(exp.Select))) > 1,
    "lista ordenada": lambda tree, _: tree.args.get("order"),
    "lista": lambda *_: True,
}


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
    kind = next(name for name, fits in KINDS.items() if fits(tree, first))
    blank = tree.copy()
    for literal in list(blank.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return Shape(blank.sql(dialect="sqlite", copy=False), tables(tree), kind, _difficulty(tree))


def tables(tree: exp.Expression) -> list[str]:
    """As tabelas citadas numa árvore, sem repetição, em ordem alfabética."""
    return sorted({table.name for table in tree.find_all(exp.Table)})


def _difficulty(tree: exp.Expression) -> str:
    """Pela soma de tabelas, condições e cláusulas além da primeira."""
    points = len(list(tree.find_all(exp.Join, exp.And, exp.Or)))
    points += sum(bool(tree.find(k)) for k in (exp.Group, exp.Having, exp.Limit, exp.Case))
    points += 2 * (len(list(tree.find_all(exp.Select))) - 1)
    return "fácil" if points <= 1 else "média" if points <= 4 else "difícil"
