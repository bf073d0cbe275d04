"""Quando duas consultas valem o mesmo: acurácia de execução.

A predição acerta se, em todos os bancos, devolve as mesmas linhas que a referência: mesmo número
de colunas na mesma ordem; linhas comparadas como multiconjunto, ou como lista quando a referência
tem ORDER BY externo; números com tolerância relativa de 1e-6; textos exatos.
"""

import math
from functools import cache

import sqlglot
from sqlglot import exp

from loja_sql.sql.database import Database, QueryError, Result

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
    if gold.truncated != predicted.truncated:
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
    except (sqlglot.errors.SqlglotError, RecursionError):
        return "SQL que o analisador não entende"
    if not isinstance(tree, exp.Query):
        return "não é uma consulta SELECT"
    for bank in databases:
        try:
            result = bank.run(sql)
            if not result.rows:
                return "resultado vazio"
            if result.truncated:
                return "resultado com linhas demais"
            if len(result.rows) == 1 and all(value is None for value in result.rows[0]):
                return "resultado é só NULL"
            if _limit_tie(tree, result, bank):
                return "depende de um empate no LIMIT"
        except QueryError as error:
            return str(error)
    return None


def _limit_tie(tree: exp.Query, result: Result, bank: Database) -> bool:
    """Verdadeiro se o corte do LIMIT (ou do OFFSET) separa duas linhas empatadas na ordenação.

    Repete a consulta sem o OFFSET, com uma linha a mais no limite e com as chaves de ordenação
    que ainda não são colunas do resultado acrescentadas no fim.
    """
    limit, order = tree.args.get("limit"), tree.args.get("order")
    if limit is None:
        return False
    if order is None:
        return True
    count = _number(limit, bank)
    if count < 0:  # LIMIT -1: sem limite
        return False
    skipped = max(0, _number(tree.args.get("offset"), bank))
    places, extra = _order_keys(order, result.columns)
    wider = tree.copy().limit(skipped + count + 1)
    wider.set("offset", None)
    if extra and not isinstance(wider, exp.Select):
        raise QueryError("não deu para conferir se há empate no LIMIT")
    rows = _with_columns(wider, extra, bank)
    keys = [tuple(row[place] for place in places) for row in rows]
    cuts = [cut for cut in (skipped, skipped + count) if 0 < cut < len(keys)]
    return any(keys[cut - 1] == keys[cut] for cut in cuts)


def _number(clause: exp.Expression | None, bank: Database) -> int:
    """O valor de um LIMIT ou OFFSET, que pode ser uma expressão; 0 se a cláusula não existe."""
    if clause is None:
        return 0
    return int(bank.run(f"SELECT {clause.expression.sql(dialect='sqlite')}").rows[0][0])


def _order_keys(order: exp.Order, columns: list[str]) -> tuple[list[int], list[exp.Expression]]:
    """Onde está cada chave: a posição no resultado ou, além dele, uma expressão a acrescentar."""
    names = [name.lower() for name in columns]
    places: list[int] = []
    extra: list[exp.Expression] = []
    for ordered in order.expressions:
        key = ordered.this
        if isinstance(key, exp.Literal) and not key.is_string:  # ORDER BY 2
            places.append(int(key.name) - 1)
        elif isinstance(key, exp.Column) and not key.table and key.name.lower() in names:
            places.append(names.index(key.name.lower()))
        else:
            places.append(len(columns) + len(extra))
            extra.append(key.copy())
    return places, extra


def _with_columns(tree: exp.Query, extra: list[exp.Expression], bank: Database) -> list[tuple]:
    """Executa a consulta com colunas a mais, trocando apelidos do SELECT pelo que significam."""
    wider = tree.copy()
    wider.set("expressions", [*tree.expressions, *extra])
    try:
        return bank.run(wider.sql(dialect="sqlite")).rows
    except QueryError:
        # ORDER BY aceita apelidos dentro de uma expressão; a lista do SELECT, não.
        meaning = {e.alias.lower(): e.unalias() for e in tree.expressions if e.alias}

        def expand(node: exp.Expression) -> exp.Expression:
            known = isinstance(node, exp.Column) and not node.table
            return exp.paren(meaning.get(node.name.lower(), node)) if known else node

        expanded = [key.transform(expand) for key in extra]
        wider.set("expressions", [*tree.expressions, *expanded])
        return bank.run(wider.sql(dialect="sqlite")).rows
