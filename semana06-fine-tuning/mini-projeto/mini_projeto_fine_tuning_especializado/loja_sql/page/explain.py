"""A consulta explicada: as linhas em que se escreve e uma frase sobre o que ela faz."""

import re

import sqlglot
from babel.lists import format_list
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from loja_sql.page.words import (
    drops_cancelled,
    heading,
    operands,
    owned,
    phrase,
    tables_by_alias,
    unit,
    written,
)
from loja_sql.sql.features import parse, tables
from loja_sql.sql.names import name_words

SHORT = 64  # até tantos caracteres, uma linha só
MAX_CONDITION = 80
JOINS = {TokenType.LEFT, TokenType.INNER, TokenType.CROSS, TokenType.FULL, TokenType.RIGHT}
CLAUSES = {
    *(TokenType.FROM, TokenType.JOIN, TokenType.WHERE, TokenType.GROUP_BY, TokenType.HAVING),
    *(TokenType.ORDER_BY, TokenType.LIMIT, TokenType.UNION, TokenType.EXCEPT, *JOINS),
    TokenType.INTERSECT,
}
COMPARED = {
    exp.EQ: "é",
    exp.NEQ: "não é",
    exp.GT: "é maior que",
    exp.GTE: "é no mínimo",
    exp.LT: "é menor que",
    exp.LTE: "é no máximo",
}
SINCE = {  # de um dia, mês ou ano, que no banco são textos
    exp.GTE: "é a partir de",
    exp.LTE: "é até",
    exp.GT: "é depois de",
    exp.LT: "é antes de",
}
# O que um LIKE procura, conforme haja um % no começo e no fim do padrão.
LIKE = {
    (True, True): "contém",
    (True, False): "termina com",
    (False, True): "começa com",
    (False, False): "é",
}
PERIOD = re.compile(r"(\d{4})(-\d\d)?(-)?%")
CANCELLED = "pedidos cancelados não contam"


def laid_out(sql: str) -> str:
    """A mesma consulta, uma cláusula por linha; o que ela diz não muda, nem um espaço de texto.

    >>> print(laid_out("SELECT nome, cidade FROM clientes WHERE uf = 'MG' ORDER BY data_cadastro"))
    SELECT nome, cidade
    FROM clientes
    WHERE uf = 'MG'
    ORDER BY data_cadastro
    """
    pieces, depth, before = [], 0, None
    for token, gap, text in _tokens(one_line(sql)):
        starts = token in CLAUSES and not (token == TokenType.JOIN and before in JOINS)
        pieces += ["\n" if starts and gap and not depth else gap, text]
        depth += (token == TokenType.L_PAREN) - (token == TokenType.R_PAREN)
        before = token
    long = len(sql) > SHORT
    return "".join(pieces) if long and pieces else one_line(sql)


def one_line(sql: str) -> str:
    """A consulta numa linha, como no treino; o que não se separa em palavras fica como veio."""
    pieces = _tokens(sql)
    spaced = (" " if gap.isspace() else gap for _, gap, _ in pieces)
    texts = (text for _, _, text in pieces)
    return "".join(g + t for g, t in zip(spaced, texts, strict=True)).strip() or sql.strip()


def _tokens(sql: str) -> list[tuple[TokenType, str, str]]:
    """(tipo, o que há antes, texto) de cada palavra; nada, se alguma não fecha ou vem comentada."""
    try:
        found = sqlglot.tokenize(sql, read="sqlite")
    except SqlglotError:
        return []
    ends = [0, *(token.end + 1 for token in found)]
    pieces = [
        (token.token_type, sql[end : token.start], sql[token.start : token.end + 1])
        for end, token in zip(ends, found, strict=False)
    ]
    plain = all(gap.isspace() or not gap for _, gap, _ in pieces) and not sql[ends[-1] :].strip()
    return pieces if plain else []


def sentence(sql: str) -> str:
    """O que a consulta faz, numa frase; nada, se ela tem partes que a frase não contaria."""
    try:
        tree = parse(sql)
        if not isinstance(tree, exp.Select) or not tree.args.get("from_") or _has_untold(tree):
            return ""
        parts = [_measured(tree) + _sources(tree), *_filters(tree), *_ending(tree)]
    except (SqlglotError, RecursionError):
        return ""
    return "; ".join(parts) + "."


def _has_untold(tree: exp.Select) -> bool:
    """Diz se há na consulta o que a frase não contaria, e sem o que ela seria falsa."""
    untold = (exp.Window, exp.With, exp.SetOperation, exp.Offset, exp.Case, exp.Exists, exp.Values)
    limit = tree.args.get("limit")
    counted = limit is None or isinstance(limit.expression, exp.Literal)
    selects = list(tree.find_all(exp.Select))
    return bool(tree.find(*untold)) or not counted or not all(map(_plain, selects))


def _plain(select: exp.Select) -> bool:
    """Lê só tabelas, juntadas por uma igualdade; se é uma subconsulta, nada mais, ou IN e WHERE."""
    source, joins = select.args.get("from_"), select.args.get("joins") or []
    places = [source and source.this, *(join.this for join in joins)]
    if not all(isinstance(place, exp.Table) and place.name for place in places):
        return False
    if not all(map(_by_equality, joins)):
        return False
    clauses = {name for name in ("where", "group", "having", "limit") if select.args.get(name)}
    if select.parent is None:
        return True
    if isinstance(select.parent.parent, exp.In):
        keys = (isinstance(one, exp.Column) and one.name.endswith("id") for one in select.selects)
        return clauses <= {"where"} and all(keys)
    return not (clauses or joins)


def _by_equality(join: exp.Join) -> bool:
    on = join.args.get("on")
    on = on and on.unnest()
    sides = (on.this, on.expression) if isinstance(on, exp.EQ) else (None,)
    equal = join.args.get("using") or all(isinstance(side, exp.Column) for side in sides)
    return bool(equal) and not join.side


def _measured(tree: exp.Select) -> str:
    group = tree.args.get("group")
    keys = [phrase(key, tree) for key in group.expressions if key.name != "id"] if group else []
    named = ["todas as colunas" if n.is_star else heading(n, tree) for n in tree.selects]
    alone = " (sem repetir)" if tree.args.get("distinct") else ""
    measures = [name for name in named if name not in keys]
    # Agrupar pelo número é só falar de cada cliente, produto ou pedido.
    if measures and set(keys) <= set(named):
        all_keys = group is None or keys
        calculates = all_keys and any(node.find(exp.AggFunc) for node in tree.selects)
        verb = "Calcula" if calculates else "Mostra"
        return f"{verb} {_and(measures)}{alone}{f' por {_and(keys)}' if keys else ''}"
    return f"Mostra {_and(named)}{alone}"


def _sources(tree: exp.Select) -> str:
    names = tables_by_alias(tree).values()
    shown = _and([name_words(name) for name in dict.fromkeys(names)])
    return f", juntando {shown}" if len(set(names)) > 1 else f", da tabela {shown}" * bool(names)


def _filters(tree: exp.Select) -> list[str]:
    found = []
    for clause, lead in (("where", "só onde"), ("having", "só os grupos em que")):
        if node := tree.args.get(clause):
            parts = operands(node.this, exp.And)
            rest = [part for part in parts if not drops_cancelled(part, tree)]
            told = [condition(part, tree, inside=len(rest) > 1) for part in rest]
            found += [f"{lead} {' e '.join(told)}"] * bool(told)
            found += [CANCELLED] * (len(rest) < len(parts))
    return found


def _ending(tree: exp.Select) -> list[str]:
    found = []
    if order := tree.args.get("order"):
        found.append(f"em ordem de {_and([_ordered(key, tree) for key in order.expressions])}")
    if limit := tree.args.get("limit"):
        count = limit.expression.name
        found.append("só a primeira linha" if count == "1" else f"só as {count} primeiras linhas")
    return found


def _ordered(key: exp.Ordered, tree: exp.Select) -> str:
    node, columns = key.this, tree.selects
    numbered = isinstance(node, exp.Literal) and node.is_int and not any(c.is_star for c in columns)
    if numbered and 0 < int(node.name) <= len(columns):
        node = columns[int(node.name) - 1]  # ORDER BY 2
    dated = isinstance(node, exp.Column) and re.match(r"data(_|$)", node.name)
    way = "mais recente ao mais antigo" if dated else "maior ao menor"
    return phrase(node, tree) + (f" (do {way})" if key.args.get("desc") else "")


def condition(node: exp.Expression, tree: exp.Expression, inside: bool = False) -> str:
    """Uma condição em palavras; a que não se reconhece, como o SQL a escreve.

    Args:
        inside: é parte de outra, e o que nela se soma vai entre parênteses.
    """
    node = node.unnest()
    for kind, word in ((exp.Or, " ou "), (exp.And, " e ")):
        if isinstance(node, kind):
            told = word.join(condition(part, tree, True) for part in operands(node, kind))
            return f"({told})" if inside else told
    inner = node.this.unnest() if isinstance(node, exp.Not) else node
    # x NOT LIKE y é, na árvore, um LIKE que se nega a si mesmo.
    negated = isinstance(node, exp.Not) != bool(inner.args.get("negate"))
    told = _told(inner, tree, " não" if negated else "")
    return told or node.sql(dialect="sqlite")[:MAX_CONDITION]


def _told(node: exp.Expression, tree: exp.Expression, no: str) -> str:
    # De WHERE 1 e de uma função sem conta, o que há dentro é um texto, e não uma expressão.
    name = owned(node.this, tree) if isinstance(node.this, exp.Expression) else ""
    if isinstance(node, exp.In) and node.args.get("query"):
        where = _and([name_words(table) for table in tables(node)])
        only = "; ".join(_filters(node.find(exp.Select)))
        return f"{'não há' if no else 'há'} registro em {where}" + (f" ({only})" if only else "")
    if isinstance(node, exp.In):
        values = [_value(v, node.this, tree) for v in node.expressions]
        return f"{name}{no} é {' nem '.join(values) if no else _or(values)}"
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        return f"{name} {'tem' if no else 'não tem'} valor"
    if isinstance(node, exp.Between):
        low, high = (_value(node.args[key], node.this, tree) for key in ("low", "high"))
        return f"{name} {'fica fora' if no else 'vai'} de {low} a {high}"
    if isinstance(node, exp.Like) and isinstance(node.expression, exp.Literal):
        told = _like(node.expression.name)
        return told and f"{name}{no} {told}"
    if type(node) in COMPARED and not no:
        return f"{name} {_compared(node)} {_value(node.expression, node.this, tree)}"
    return ""


def _compared(node: exp.Binary) -> str:
    text = isinstance(node.expression, exp.Literal) and node.expression.is_string
    dated = text and (node.expression.name[:4].isdigit() or node.this.find(exp.TimeToStr))
    return (SINCE if dated else COMPARED).get(type(node), COMPARED[type(node)])


def _like(pattern: str) -> str:
    """O padrão em palavras; vazio para o que tem curingas no meio."""
    if found := PERIOD.fullmatch(pattern):
        return f"é de {written(found[1] + (found[2] or ''), 'date')}"
    inside = pattern.removeprefix("%").removesuffix("%")
    if set(inside) & {"%", "_"}:
        return ""
    return f"{LIKE[pattern.startswith('%'), pattern.endswith('%')]} “{inside}”"


def _value(node: exp.Expression, measured: exp.Expression, tree: exp.Expression) -> str:
    if not isinstance(node, exp.Literal):
        return f"({_inner(node)})" if node.find(exp.Select) else phrase(node, tree)
    if node.is_string:
        return written(node.name, unit(measured) or "date")
    # Um inteiro fica inteiro: o ano 2024 não é 2.024.
    number = int(node.name) if node.is_int else float(node.name)
    return written(number, unit(measured)).removesuffix(",00")


def _inner(node: exp.Expression) -> str:
    inner = node.find(exp.Select)
    named = _and([heading(part, inner) for part in inner.selects])
    return f"{named} de {_and([name_words(n) for n in tables(inner)])}"


def _and(names: list[str]) -> str:
    return format_list(names, locale="pt_BR")


def _or(names: list[str]) -> str:
    return format_list(names, style="or", locale="pt_BR")
