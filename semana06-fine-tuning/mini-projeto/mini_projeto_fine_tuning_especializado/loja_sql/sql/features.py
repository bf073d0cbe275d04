"""O que se pode dizer de uma consulta só de olhar para ela: tipo, dificuldade, esqueleto."""

from collections.abc import Callable
from functools import cache, lru_cache

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


@lru_cache(4096)
def parse(sql: str) -> exp.Expression:
    """A árvore da consulta; quem a altera trabalha numa cópia.

    Raises:
        sqlglot.errors.SqlglotError: o texto não é SQL.
    """
    return sqlglot.parse_one(sql, read="sqlite")


def tables(sql: str) -> list[str]:
    """As tabelas citadas, sem repetição, em ordem alfabética."""
    return _shape(sql)[1]


@cache
def kind(sql: str) -> str:
    """O tipo da consulta: o primeiro de `KINDS` que se aplica."""
    tree = parse(sql)
    first = tree.expressions[0].unalias() if isinstance(tree, exp.Select) else tree
    return next(name for name, fits in KINDS.items() if fits(tree, first))


@cache
def difficulty(sql: str) -> str:
    """Fácil, média ou difícil, pela soma de tabelas, condições e cláusulas além da primeira."""
    tree = parse(sql)
    points = len(list(tree.find_all(exp.Join, exp.And, exp.Or)))
    points += sum(bool(tree.find(k)) for k in (exp.Group, exp.Having, exp.Limit, exp.Case))
    points += 2 * (len(list(tree.find_all(exp.Select))) - 1)
    return "fácil" if points <= 1 else "média" if points <= 4 else "difícil"


def skeleton(sql: str) -> str:
    """A consulta com todo literal trocado por `?`: duas que só diferem em valores são iguais."""
    return _shape(sql)[0]


@cache
def _shape(sql: str) -> tuple[str, list[str]]:
    """O esqueleto e as tabelas de uma vez: as árvores, `parse` só guarda as últimas."""
    tree = parse(sql).copy()
    names = sorted({table.name for table in tree.find_all(exp.Table)})
    for literal in list(tree.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return tree.sql(dialect="sqlite", copy=False), names
