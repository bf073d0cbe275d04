"""Por que uma consulta errou: a primeira diferença que explica o erro, comparando as árvores."""

import sqlglot
from sqlglot import exp

from sql_features import skeleton, tables

CAUSES = ["SQL inválido", "tabela errada", "valor errado no filtro", "filtro a menos",
          "filtro a mais", "agrupamento", "função de agregação", "ordem ou limite",
          "colunas da resposta", "outra"]  # fmt: skip
AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)


def cause(gold: str, predicted: str, error: str | None) -> str:
    """A causa de um erro de execução: a primeira de `CAUSES` que se aplica.

    Args:
        gold: o SQL de referência; predicted: o do modelo; error: por que ele não executou, ou None.
    """
    if error is not None:
        return "SQL inválido"
    try:
        wanted, found = (sqlglot.parse_one(s, read="sqlite") for s in (gold, predicted))
        same_tables = tables(gold) == tables(predicted)
        same_skeleton = skeleton(gold) == skeleton(predicted)
    except (sqlglot.errors.SqlglotError, RecursionError):
        return "outra"  # o SQLite entendeu, o analisador não
    if not same_tables:
        return "tabela errada"
    if same_skeleton:
        return "valor errado no filtro"
    difference = _conditions(found) - _conditions(wanted)
    if difference:
        return "filtro a mais" if difference > 0 else "filtro a menos"
    for name, part in (
        ("agrupamento", _clauses("group", "having")),
        ("função de agregação", _aggregates),
        ("ordem ou limite", _clauses("order", "limit", "offset")),
        ("colunas da resposta", lambda tree: [e.sql() for e in tree.selects]),
    ):
        if part(wanted) != part(found):
            return name
    return "outra"


def _conditions(tree: exp.Expression) -> int:
    """Quantas condições há em todos os WHERE e HAVING."""
    total = 0
    for clause in tree.find_all(exp.Where, exp.Having):
        total += 1 + len(list(clause.find_all(exp.And, exp.Or)))
    return total


def _clauses(*names: str):
    def read(tree: exp.Expression) -> list[str]:
        return [part.sql() if (part := tree.args.get(name)) else "" for name in names]

    return read


def _aggregates(tree: exp.Expression) -> list[str]:
    return sorted(node.sql() for node in tree.find_all(*AGGREGATES))
