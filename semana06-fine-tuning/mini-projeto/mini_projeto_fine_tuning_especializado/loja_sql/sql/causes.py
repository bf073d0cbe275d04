"""Por que uma consulta errou: a primeira diferença que explica o erro, comparando as árvores."""

from collections.abc import Callable

from sqlglot import exp
from sqlglot.errors import SqlglotError

from loja_sql.prompt import DECLINE, declines
from loja_sql.sql.features import parse, shape

AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)


def _clauses(*names: str) -> Callable[[exp.Expression], list[str]]:
    return lambda tree: [part.sql() if (part := tree.args.get(name)) else "" for name in names]


def _aggregates(tree: exp.Expression) -> list[str]:
    """As da resposta; as do HAVING e do ORDER BY contam nas cláusulas deles."""
    return sorted(node.sql() for part in tree.selects for node in part.find_all(*AGGREGATES))


# O que se compara quando as tabelas e o número de condições são os mesmos, nesta ordem.
PARTS = [
    ("agrupamento", _clauses("group", "having")),
    ("colunas da resposta", lambda tree: len(tree.selects)),
    ("função de agregação", _aggregates),
    ("ordem ou limite", _clauses("order", "limit", "offset")),
    ("colunas da resposta", lambda tree: [part.sql() for part in tree.selects]),
    ("outro filtro", _clauses("where")),
]
DECLINES = ["recusou sem motivo", "devia recusar"]
FIRST = [
    *DECLINES,
    "SQL inválido",
    "convenção esquecida",
    "tabela errada",
    "valor errado no filtro",
]
CAUSES = [*FIRST, "filtro a menos", "filtro a mais", *dict(PARTS), "outra"]


def cause(gold: str, predicted: str, error: str | None) -> str:
    """A causa de um erro: a primeira de `CAUSES` que se aplica.

    `gold` é a referência, um SQL ou `DECLINE`; `predicted`, o que o modelo respondeu; `error`, por
    que isso não executou.
    """
    if gold == DECLINE or declines(predicted):
        return DECLINES[gold == DECLINE]
    if error is not None:
        return "SQL inválido"
    try:
        wanted, found = parse(gold), parse(predicted)
        shapes = shape(gold), shape(predicted)
    except (SqlglotError, RecursionError):
        return "outra"  # o SQLite entendeu, o analisador não
    if _skips_cancelled(wanted) and found.find(exp.Sum) and not _skips_cancelled(found):
        return "convenção esquecida"
    if shapes[0].tables != shapes[1].tables:
        return "tabela errada"
    if shapes[0].skeleton == shapes[1].skeleton:
        return "valor errado no filtro"
    difference = _conditions(found) - _conditions(wanted)
    if difference:
        return "filtro a mais" if difference > 0 else "filtro a menos"
    return next((name for name, part in PARTS if part(wanted) != part(found)), "outra")


def _conditions(tree: exp.Expression) -> int:
    """Quantas condições há em todos os WHERE e HAVING."""
    clauses = tree.find_all(exp.Where, exp.Having)
    return sum(1 + len(list(clause.find_all(exp.And, exp.Or))) for clause in clauses)


def _skips_cancelled(tree: exp.Expression) -> bool:
    """A convenção da loja que mais se esquece: o que foi cancelado não conta como venda."""
    return any(
        node.left.name == "status" and node.right.name == "cancelado"
        for node in tree.find_all(exp.NEQ)
    )
