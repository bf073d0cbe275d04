"""O que se pode dizer de uma consulta só de olhar para ela: tipo, dificuldade, esqueleto."""

from functools import cache

import sqlglot
from sqlglot import exp

KINDS = ["anti-junção", "having", "ranking", "agrupamento", "percentual", "razão", "distintos",
         "agregado", "contagem", "junção", "subconsulta", "lista ordenada", "lista"]  # fmt: skip


@cache
def _tree(sql: str) -> exp.Expression:
    return sqlglot.parse_one(sql, read="sqlite")


def tables(sql: str) -> list[str]:
    """As tabelas citadas, sem repetição, em ordem alfabética."""
    return sorted({table.name for table in _tree(sql).find_all(exp.Table)})


@cache
def kind(sql: str) -> str:
    """O tipo da consulta: o primeiro de `KINDS` que se aplica."""
    tree = _tree(sql)
    outer = tree.expressions[0].unalias() if isinstance(tree, exp.Select) else tree
    negated = any(n.find(exp.In, exp.Exists) and n.find(exp.Select) for n in tree.find_all(exp.Not))
    if negated:
        return "anti-junção"
    if tree.find(exp.Having):
        return "having"
    if tree.args.get("limit"):
        return "ranking"
    if tree.args.get("group"):
        return "agrupamento"
    if any(literal.name == "100.0" for literal in tree.find_all(exp.Literal)):
        return "percentual"
    if isinstance(outer, exp.Div | exp.Sub) and outer.find(exp.AggFunc):
        return "razão"
    if tree.find(exp.Distinct):
        return "distintos"
    if isinstance(outer, exp.Count):
        return "contagem"
    if outer.find(exp.AggFunc):
        return "agregado"
    if tree.find(exp.Join):
        return "junção"
    if len(list(tree.find_all(exp.Select))) > 1:
        return "subconsulta"
    return "lista ordenada" if tree.args.get("order") else "lista"


@cache
def difficulty(sql: str) -> str:
    """Fácil, média ou difícil, pela soma de tabelas, condições e cláusulas além da primeira."""
    tree = _tree(sql)
    points = len(list(tree.find_all(exp.Join)))
    points += sum(len(list(tree.find_all(k))) for k in (exp.And, exp.Or))
    points += sum(bool(tree.find(k)) for k in (exp.Group, exp.Having, exp.Limit, exp.Case))
    points += 2 * (len(list(tree.find_all(exp.Select))) - 1)
    return "fácil" if points <= 1 else "média" if points <= 4 else "difícil"


@cache
def skeleton(sql: str) -> str:
    """A consulta com todo literal trocado por `?`: duas que só diferem em valores são iguais."""
    tree = _tree(sql).copy()
    for literal in list(tree.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return tree.sql(dialect="sqlite")
