"""Quando duas consultas valem o mesmo: acurácia de execução.

A predição acerta se devolve, em todos os bancos, as linhas da referência, com as colunas na mesma
ordem; as linhas, só se a referência tem ORDER BY externo (empatadas, em qualquer ordem). Números
reais têm tolerância relativa de 1e-6; inteiros e textos são exatos.
"""

import math
from functools import cache, lru_cache
from itertools import pairwise

from comum.terminal import UserError

from sqlglot import exp
from sqlglot.errors import SqlglotError

from loja_sql.sql.database import Database, QueryError, Result
from loja_sql.sql.features import parse, shape, without_values

REL_TOL = 1e-6
CHANCE = (exp.Rand, exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp)
NOT_UNDERSTOOD = "SQL que o analisador não entende"
# Sem argumento, ou com 'now', são a data ou a hora em que se executa.
CLOCKS = {"date", "time", "datetime", "julianday", "unixepoch", "timediff"}


def same_rows(gold: Result, predicted: Result, cuts: list[int] = ()) -> bool:
    """Compara dois resultados; só a ordem entre os blocos que `cuts` separa conta.

    Args:
        cuts: posições das linhas que começam um bloco novo; nenhuma, e vale o multiconjunto.
    """
    shape, other = ((len(x.columns), len(x.rows), x.truncated) for x in (gold, predicted))
    blocks = pairwise([0, *cuts, len(gold.rows)])
    return shape == other and all(
        _same_block(gold.rows[start:end], predicted.rows[start:end]) for start, end in blocks
    )


def _same_block(gold: list[tuple], predicted: list[tuple]) -> bool:
    if len(gold) > 1:
        gold, predicted = sorted(gold, key=_sort_key), sorted(predicted, key=_sort_key)
    rows = zip(gold, predicted, strict=True)
    return all(_same_value(*values) for row in rows for values in zip(*row, strict=True))


def _same_value(left: object, right: object) -> bool:
    kinds = {type(left), type(right)}
    if kinds in ({float}, {int, float}):
        return math.isclose(left, right, rel_tol=REL_TOL, abs_tol=1e-9)
    return len(kinds) == 1 and left == right


def _sort_key(row: tuple) -> tuple[list, list]:
    """Linhas "iguais" ficam lado a lado; os inteiros, exatos, desempatam as que se parecem."""
    return [_rounded(value) for value in row], [v for v in row if isinstance(v, int)]


def _rounded(value: object) -> tuple[int, float, str]:
    """NULL, depois os números, a 9 algarismos significativos, depois os textos."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(f"{value:.9g}"), ""
    return 2, 0.0, str(value)


def judge(gold_sql: str, predicted_sql: str, databases: list[Database]) -> tuple[bool, str | None]:
    """Executa as duas consultas em cada banco.

    Returns:
        (acertou, erro): `erro` é a mensagem do banco quando a predição nem sequer executou.

    Raises:
        UserError: a referência, que executava quando os dados se prepararam, não executa.
    """
    for bank in databases:
        try:
            gold = bank.run(gold_sql)
        except QueryError as error:
            raise UserError(
                f"em {bank.path} a consulta de referência não executa ({error}): {gold_sql}\nAs "
                "perguntas são de outro banco, ou ele mudou? Prepare os dados de novo: python "
                "data_prep.py --force (e os mesmos argumentos)."
            ) from error
        try:
            predicted = bank.run(predicted_sql)
        except QueryError as error:
            return False, str(error)
        if not same_rows(gold, predicted, _order_cuts(gold_sql, gold, bank)):
            return False, None
    return True, None


def _order_cuts(sql: str, result: Result, bank: Database) -> list[int]:
    """Onde as chaves do ORDER BY externo mudam; se não dá para saber, em toda linha."""
    # Sem a palavra não se lê a árvore: demora mais que executar.
    if "order" not in sql.lower() or parse(sql).args.get("order") is None:
        return []
    everywhere = list(range(1, len(result.rows)))
    try:
        keys = _order_keys(sql, result, bank)
    except QueryError:
        return everywhere
    # Um DISTINCT que as chaves a mais desfizeram.
    undone = len(keys) != len(result.rows)
    return [cut for cut in everywhere if undone or keys[cut - 1] != keys[cut]]


def reference_problem(sql: str, databases: list[Database], familiar: bool = False) -> str | None:
    """Diz por que uma consulta não serve de referência, ou None se ela serve.

    Não servem: SQL que erra, resultado vazio, um NULL sozinho, ou que depende do relógio, do acaso
    ou de um empate no LIMIT (qualquer das linhas empatadas seria uma resposta igualmente certa).

    Args:
        familiar: só difere nos valores de outra que serviu, e basta executá-la.
    """
    problem = None if familiar else _at_sight(without_values(sql))
    if problem is None:
        problems = (_problem_in(sql, bank) for bank in databases)
        problem = next(filter(None, problems), None)
    return problem


@cache
def _at_sight(sql: str) -> str | None:
    """O que a desqualifica sem que se execute nem se olhem os valores."""
    try:
        tree = parse(sql)
        shape(sql)  # o que não se escreve de volta também não serve
    except (SqlglotError, RecursionError):
        return NOT_UNDERSTOOD
    if not isinstance(tree, exp.Query):
        return "não é uma consulta SELECT"
    return "depende do relógio ou do acaso" if _changes_by_itself(tree) else None


def _problem_in(sql: str, bank: Database) -> str | None:
    """O que há de errado com a consulta num dos bancos."""
    try:
        result = bank.run(sql)
        if not result.rows:
            return "resultado vazio"
        if result.truncated:
            return "resultado com linhas demais"
        if len(result.rows) == 1 and all(value is None for value in result.rows[0]):
            return "resultado é só NULL"
        tied = "limit" in sql.lower() and _limit_tie(sql, result, bank)
        return "depende de um empate no LIMIT" if tied else None
    except QueryError as error:
        return str(error)
    except (SqlglotError, RecursionError):
        return NOT_UNDERSTOOD


def _changes_by_itself(tree: exp.Query) -> bool:
    for call in tree.find_all(*CHANCE, exp.Date, exp.TsOrDsToTimestamp, exp.Anonymous):
        if isinstance(call, exp.Anonymous) and call.name.lower() not in CLOCKS:
            continue
        arguments = list(call.iter_expressions())
        now = (a for a in arguments if isinstance(a, exp.Literal) and a.name.lower() == "now")
        if isinstance(call, CHANCE) or not arguments or any(now):
            return True
    return False


def _limit_tie(sql: str, result: Result, bank: Database) -> bool:
    """Verdadeiro se o corte do LIMIT (ou do OFFSET) separa duas linhas empatadas na ordenação.

    Repete a consulta sem o OFFSET e com uma linha a mais no limite.
    """
    tree = parse(sql)
    if tree.args.get("limit") is None:
        return False
    if tree.args.get("order") is None:
        return True
    count = _number(tree.args["limit"], bank)
    if count < 0:  # LIMIT -1: sem limite
        return False
    skipped = max(0, _number(tree.args.get("offset"), bank))
    keys = _order_keys(sql, result, bank, limit=skipped + count + 1)
    cuts = [cut for cut in (skipped, skipped + count) if 0 < cut < len(keys)]
    return any(keys[cut - 1] == keys[cut] for cut in cuts)


def _number(clause: exp.Expression | None, bank: Database) -> int:
    """O valor de um LIMIT ou OFFSET, que pode ser uma expressão; 0 se a cláusula não existe."""
    if clause is None:
        return 0
    value = clause.expression
    if isinstance(value, exp.Literal) and value.is_int:
        return int(value.name)
    return int(float(bank.run(f"SELECT {value.sql(dialect='sqlite')}").rows[0][0]))


def _order_keys(sql: str, result: Result, bank: Database, limit: int | None = None) -> list[tuple]:
    """As chaves do ORDER BY, linha a linha; as que não são colunas do resultado se acrescentam.

    Raises:
        QueryError: a consulta com as colunas a mais não executa.
    """
    names = tuple(name.lower() for name in result.columns)
    places, extra = _key_places(sql, names)
    rows = result.rows
    if extra or limit is not None:
        try:
            rows = bank.run(_wider(sql, names, limit)).rows
        except QueryError:
            rows = bank.run(_wider(sql, names, limit, expanded=True)).rows
    return [tuple(row[place] for place in places) for row in rows]


def _key_places(sql: str, names: tuple[str, ...]) -> tuple[list[int], list[exp.Expression]]:
    """A coluna de cada chave do ORDER BY, e as chaves que faltam, nas colunas depois de `names`."""
    tree = parse(sql)
    places, extra = [], []
    for ordered in tree.args["order"].expressions:
        key = ordered.this
        if isinstance(key, exp.Literal) and key.is_int:  # ORDER BY 2
            places.append(int(key.name) - 1)
        elif isinstance(key, exp.Column) and not key.table and key.name.lower() in names:
            places.append(names.index(key.name.lower()))
        else:
            places.append(len(names) + len(extra))
            extra.append(key)
    if extra and not isinstance(tree, exp.Select):
        raise QueryError("não deu para conferir se a ordenação tem empates")
    return places, extra


@lru_cache(64)  # escrevê-la demora quase o que executá-la, e os bancos a repetem
def _wider(sql: str, names: tuple[str, ...], limit: int | None, expanded: bool = False) -> str:
    """A consulta com as chaves que faltam a `names` e outro limite, a contar da primeira linha.

    Args:
        expanded: troca os apelidos nas chaves pelo que significam. O ORDER BY os aceita dentro de
            uma expressão; a lista do SELECT, não.
    """
    tree, extra = parse(sql), _key_places(sql, names)[1]
    if expanded:
        meaning = {e.alias.lower(): e.unalias() for e in tree.expressions if e.alias}

        def expand(node: exp.Expression) -> exp.Expression:
            known = isinstance(node, exp.Column) and not node.table
            return exp.paren(meaning.get(node.name.lower(), node)) if known else node

        extra = [key.transform(expand) for key in extra]
    wider = tree.copy()
    if limit is not None:
        wider = wider.limit(limit, copy=False)
        wider.set("offset", None)
    wider.set("expressions", [*wider.expressions, *(key.copy() for key in extra)])
    return wider.sql(dialect="sqlite", copy=False)
