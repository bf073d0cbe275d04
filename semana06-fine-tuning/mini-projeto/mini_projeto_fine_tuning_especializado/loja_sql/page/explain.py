"""A consulta explicada: as linhas em que se escreve e uma frase sobre o que ela faz."""

import re

import sqlglot
from babel.lists import format_list
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from loja_sql.page.words import heading, owned, phrase, unit, written
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
    except (SqlglotError, RecursionError):
        return ""
    untold = (exp.Window, exp.With, exp.SetOperation, exp.Offset)
    if not isinstance(tree, exp.Select) or tree.find(*untold) or not tree.args.get("from_"):
        return ""
    parts = [_measured(tree) + _sources(tree), *_filters(tree), *_ending(tree)]
    return "; ".join(parts) + "."


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
    names = [table.name for table in tree.find_all(exp.Table) if table.parent_select is tree]
    shown = _and([name_words(name) for name in dict.fromkeys(names)])
    return f", juntando {shown}" if len(set(names)) > 1 else f", da tabela {shown}" * bool(names)


def _filters(tree: exp.Select) -> list[str]:
    found = []
    for clause, lead in (("where", "só onde"), ("having", "só os grupos em que")):
        if node := tree.args.get(clause):
            parts = _operands(node.this, exp.And)
            told = [condition(part, tree) for part in parts]
            rest = [text for text in told if text != CANCELLED]
            found += [f"{lead} {' e '.join(rest)}"] * bool(rest)
            found += [CANCELLED] * (len(rest) < len(told))
    return found


def _ending(tree: exp.Select) -> list[str]:
    found = []
    if order := tree.args.get("order"):
        down = " (do maior ao menor)"
        keys = [phrase(k, tree) + (down if k.args.get("desc") else "") for k in order.expressions]
        found.append(f"em ordem de {_and(keys)}")
    if limit := tree.args.get("limit"):
        count = limit.expression.name
        found.append("só a primeira linha" if count == "1" else f"só as {count} primeiras linhas")
    return found


def condition(node: exp.Expression, tree: exp.Expression) -> str:
    """Uma condição em palavras; a que não se reconhece, como o SQL a escreve."""
    node = node.unnest()
    if isinstance(node, exp.Or):
        return " ou ".join(condition(part, tree) for part in _operands(node, exp.Or))
    negated = isinstance(node, exp.Not)
    inner = node.this.unnest() if negated else node
    told = _told(inner, tree, " não" if negated else "")
    return told or node.sql(dialect="sqlite")[:MAX_CONDITION]


def _told(node: exp.Expression, tree: exp.Expression, no: str) -> str:
    # De WHERE 1 e de uma função sem conta, o que há dentro é um texto, e não uma expressão.
    name = owned(node.this, tree) if isinstance(node.this, exp.Expression) else ""
    if isinstance(node, exp.Exists) or (isinstance(node, exp.In) and node.args.get("query")):
        where = _and([name_words(table) for table in tables(node)])
        return f"{'não há' if no else 'há'} registro em {where}"
    if isinstance(node, exp.In):
        return f"{name}{no} é {_or([_value(v, node.this, tree) for v in node.expressions])}"
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        return f"{name} {'tem' if no else 'não tem'} valor"
    if isinstance(node, exp.Between):
        low, high = (_value(node.args[key], node.this, tree) for key in ("low", "high"))
        return f"{name}{no} vai de {low} a {high}"
    if isinstance(node, exp.Like) and isinstance(node.expression, exp.Literal):
        return f"{name}{no} {_like(node.expression.name)}"
    if type(node) in COMPARED and not no:
        if isinstance(node, exp.NEQ) and (name, node.expression.name) == ("status", "cancelado"):
            return CANCELLED
        return f"{name} {_compared(node)} {_value(node.expression, node.this, tree)}"
    return ""


def _compared(node: exp.Binary) -> str:
    day = isinstance(node.expression, exp.Literal) and node.expression.is_string
    since = {exp.GTE: "é a partir de", exp.LTE: "é até"} if day else {}
    return since.get(type(node), COMPARED[type(node)])


def _like(pattern: str) -> str:
    if found := PERIOD.fullmatch(pattern):
        return f"é de {written(found[1] + (found[2] or ''), 'date')}"
    inside = pattern.strip("%")
    way = "contém" if pattern.startswith("%") else "começa com"
    return f"{way} “{inside}”"


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


def _operands(node: exp.Expression, kind: type[exp.Connector]) -> list[exp.Expression]:
    node = node.unnest()
    return list(node.flatten()) if isinstance(node, kind) else [node]


def _and(names: list[str]) -> str:
    return format_list(names, locale="pt_BR")


def _or(names: list[str]) -> str:
    return format_list(names, style="or", locale="pt_BR")
