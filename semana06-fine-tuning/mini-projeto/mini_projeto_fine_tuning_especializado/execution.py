"""Quando duas consultas valem o mesmo: acurácia de execução.

A predição acerta se, em todos os bancos, devolve as mesmas linhas que a referência: mesmo número
de colunas na mesma ordem; linhas comparadas como multiconjunto, ou como lista quando a referência
tem ORDER BY externo; números com tolerância relativa de 1e-6; textos exatos.
"""

import math
from functools import cache

import sqlglot
from sqlglot import exp

from database import Database, QueryError, Result

REL_TOL = 1e-6


@cache
def is_ordered(sql: str) -> bool:
    """Diz se a consulta tem ORDER BY no nível mais externo."""
    tree = sqlglot.parse_one(sql, read="sqlite")
    return tree.args.get("order") is not None


def _same_value(left: object, right: object) -> bool:
    numbers = (int, float)
    if isinstance(left, numbers) and isinstance(right, numbers):
        return math.isclose(left, right, rel_tol=REL_TOL, abs_tol=1e-9)
    return type(left) is type(right) and left == right


def _sort_key(row: tuple) -> tuple:
    # Números arredondados a 9 algarismos significativos: linhas "iguais" ficam lado a lado.
    return tuple(
        (1, float(f"{v:.9g}"), "") if isinstance(v, int | float)
        else (0, 0.0, "") if v is None
        else (2, 0.0, str(v))
        for v in row
    )  # fmt: skip


def same_rows(gold: Result, predicted: Result, ordered: bool) -> bool:
    """Compara dois resultados; `ordered` exige a mesma sequência de linhas."""
    if len(gold.columns) != len(predicted.columns) or len(gold.rows) != len(predicted.rows):
        return False
    left, right = gold.rows, predicted.rows
    if not ordered:
        left, right = sorted(left, key=_sort_key), sorted(right, key=_sort_key)
    return all(
        _same_value(a, b)
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def judge(gold_sql: str, predicted_sql: str, databases: list[Database]) -> tuple[bool, str | None]:
    """Executa as duas consultas em cada banco.

    Returns:
        (acertou, erro): `erro` é a mensagem do banco quando a predição nem sequer executou.
    """
    for bank in databases:
        gold = bank.run(gold_sql)
        try:
            predicted = bank.run(predicted_sql)
        except QueryError as error:
            return False, str(error)
        if not same_rows(gold, predicted, is_ordered(gold_sql)):
            return False, None
    return True, None


def reference_problem(sql: str, databases: list[Database]) -> str | None:
    """Diz por que uma consulta não serve de referência, ou None se ela serve.

    Não servem: SQL que erra, resultado vazio, um NULL sozinho, ou que depende de um empate no
    LIMIT (qualquer das linhas empatadas seria uma resposta igualmente certa).
    """
    try:
        tree = sqlglot.parse_one(sql, read="sqlite")
    except sqlglot.errors.SqlglotError:
        return "SQL que o analisador não entende"
    if not isinstance(tree, exp.Query):
        return "não é uma consulta SELECT"
    for bank in databases:
        try:
            result = bank.run(sql)
        except QueryError as error:
            return str(error)
        if not result.rows:
            return "resultado vazio"
        if result.truncated:
            return "resultado com linhas demais"
        if len(result.rows) == 1 and all(value is None for value in result.rows[0]):
            return "resultado é só NULL"
        if _limit_tie(tree, result, bank):
            return "depende de um empate no LIMIT"
    return None


def _limit_tie(tree: exp.Query, result: Result, bank: Database) -> bool:
    """Verdadeiro se a última linha mantida pelo LIMIT empata com a primeira cortada.

    Repete a consulta com a chave de ordenação como coluna e uma linha a mais no limite.
    """
    limit = tree.args.get("limit")
    if limit is None:
        return False
    order = tree.args.get("order")
    if order is None:
        return True
    keys = [ordered.this.copy() for ordered in order.expressions]
    wider = tree.copy()
    wider.set("expressions", [exp.alias_(key, f"k{i}") for i, key in enumerate(keys)])
    count = int(limit.expression.name)
    wider = wider.limit(count + 1)
    rows = bank.run(wider.sql(dialect="sqlite")).rows
    return len(rows) > count and rows[count] == rows[count - 1]
