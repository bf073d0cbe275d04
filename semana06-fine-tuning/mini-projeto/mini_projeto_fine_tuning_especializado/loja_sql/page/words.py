"""A consulta em palavras: o que cada expressão mede, em que unidade, e como se escreve um valor.

Nada aqui é preciso para executar: o que não se reconhece fica como o SQL o diz.
"""

import re
from datetime import date
from typing import NamedTuple

from comum.numbers import LOCALE, any_size, decimal

from babel.dates import format_date, get_day_names, get_month_names
from babel.numbers import format_currency
from sqlglot import exp
from sqlglot.errors import SqlglotError

from loja_sql.model.assistant import shown_value
from loja_sql.sql.database import Result
from loja_sql.sql.features import parse
from loja_sql.sql.names import name_words

MONEY = re.compile(r"pre[cç]o|valor|custo|fatur|receita|gast[oa]|ticket|r\$", re.IGNORECASE)
PARTS = {"%Y": "ano", "%m": "mês", "%d": "dia", "%Y-%m": "mês", "%w": "dia da semana"}
NAMED = {"%m": "month", "%w": "weekday"}
LENGTHS = {"4": "ano", "7": "mês", "10": "dia"}  # de SUBSTR(data, 1, n)
WRAPPERS = (exp.Round, exp.Cast, exp.Paren, exp.Alias, exp.Coalesce, exp.Ordered, exp.Abs)
AGGREGATES = {exp.Sum: "total de", exp.Avg: "média de", exp.Min: "menor", exp.Max: "maior"}
CONDITIONED = {exp.Sum: "total", exp.Avg: "média", exp.Count: "quantidade"}
# (mês + a) / b, em inteiros.
SPANS = {("1", "2"): "bimestre", ("2", "3"): "trimestre", ("5", "6"): "semestre"}
MAX_TITLE = 48
_ISO = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")


class Column(NamedTuple):
    """Uma coluna do resultado: o título que se lê e a unidade (`money`, `percent`, `count`, …)."""

    title: str
    unit: str = ""


def columns(sql: str, result: Result) -> list[Column]:
    """As colunas do resultado, na ordem; as que a árvore não explica ficam com o nome do banco."""
    # De uma estrela, ou do que não se lê, só o nome; a unidade, de um nome que a diga.
    bare = [exp.column(name) for name in result.columns]
    try:
        tree = parse(sql)
        tree = tree if isinstance(tree, exp.Query) else exp.Select()
        known = len(tree.selects) == len(bare) and not any(node.is_star for node in tree.selects)
        named = _named([_traced(node, tree) for node in (tree.selects if known else bare)], tree)
    except (SqlglotError, RecursionError):
        named = _named(bare, exp.Select())
    values = zip(*result.rows, strict=True) if result.rows else [()] * len(named)
    return list(map(_seen, named, values))


def _named(nodes: list[exp.Expression], tree: exp.Expression) -> list[Column]:
    return [Column(_short(heading(node, tree)), unit(node)) for node in nodes]


def _short(title: str) -> str:
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…"


def _traced(node: exp.Expression, tree: exp.Expression) -> exp.Expression:
    """A coluna, ou a expressão, com as colunas de uma subconsulta do FROM trocadas pela origem."""
    if isinstance(node, exp.Column):
        return _origin(node, tree)

    def inside(part: exp.Expression) -> exp.Expression:
        origin = _origin(part, tree)
        return part if origin is part else exp.paren(origin.unalias(), copy=False)

    return node.transform(inside)


def _origin(node: exp.Expression, tree: exp.Expression) -> exp.Expression:
    """Cópia da expressão que uma subconsulta do FROM chama como `node` se chama; ou `node`."""
    source = tree.args.get("from_")
    if not (isinstance(node, exp.Column) and source and isinstance(source.this, exp.Subquery)):
        return node
    ours = node.table in ("", source.this.alias)
    named = {one.alias_or_name: one for one in source.this.unnest().selects} if ours else {}
    return named[node.name].copy() if node.name in named else node


def _seen(column: Column, values: tuple) -> Column:
    """Com a unidade que só nos valores se vê: `date`, se todos são dias ou meses; ou `real`."""
    if not column.unit and any(isinstance(value, float) for value in values):
        return column._replace(unit="real")
    texts = [value for value in values if value is not None]
    dates = texts and all(isinstance(v, str) and _ISO.fullmatch(v) for v in texts)
    timed = dates or (column.title in ("ano", "mês", "dia") and not column.unit)
    return column._replace(unit="date") if timed else column


def heading(node: exp.Expression, tree: exp.Expression) -> str:
    """O título de uma coluna: o apelido que a consulta lhe deu ou o que ela mede."""
    if len(node.alias) > 1:  # uma letra só é nome de quem escreve SQL, e não de quem lê
        return name_words(node.alias)
    several = sum(isinstance(n, exp.Column) and n.name == "nome" for n in tree.selects) > 1
    return owned(node, tree) if several else phrase(node, tree)


def owned(node: exp.Expression, tree: exp.Expression) -> str:
    """O que a expressão mede; de um nome, também de quem: há nome em várias tabelas."""
    tables = tables_by_alias(tree)
    if isinstance(node, exp.Column) and node.name == "nome" and node.table in tables:
        return f"nome ({name_words(tables[node.table])})"
    return phrase(node, tree)


def phrase(node: exp.Expression, tree: exp.Expression) -> str:
    """O que uma expressão mede, em palavras; a que não se reconhece, como o SQL a escreve.

    >>> phrase(parse("SELECT AVG(preco) FROM produtos").selects[0], exp.Select())
    'média de preço'
    """
    node = _core(node)
    if isinstance(node, exp.Column):
        return name_words(node.name)
    if type(node) in CONDITIONED and isinstance(_core(node.this), exp.Case | exp.Predicate):
        return f"{CONDITIONED[type(node)]} com condição"
    if isinstance(node, exp.Count):
        return _count(node, tree)
    if isinstance(node, exp.TimeToStr | exp.Substring):
        return _part_of_date(node) or node.sql(dialect="sqlite")
    if unit(node) == "percent":
        return "percentual"
    if is_revenue(node):
        return "faturamento" if _excludes_cancelled(tree) else "valor total"
    if isinstance(node, exp.Div) and (found := _ratio(node, tree)):
        return found
    if isinstance(node, exp.Mul) and node.this.name in ("1", "1.0"):
        return phrase(node.expression, tree)
    if isinstance(node, exp.Div | exp.Sub):
        between = "por" if isinstance(node, exp.Div) else "menos"
        return f"{phrase(node.this, tree)} {between} {phrase(node.expression, tree)}"
    if type(node) in AGGREGATES and isinstance(_core(node.this), exp.Column | exp.AggFunc):
        units = isinstance(node, exp.Sum) and node.this.name == "quantidade"
        return "unidades" if units else f"{AGGREGATES[type(node)]} {phrase(node.this, tree)}"
    return node.sql(dialect="sqlite")


def _core(node: exp.Expression | None) -> exp.Expression | None:
    """A expressão sem o que só a arredonda, converte ou nomeia."""
    while isinstance(node, WRAPPERS):
        node = node.this
    return node


def tables_by_alias(tree: exp.Expression) -> dict[str, str]:
    """As tabelas do FROM e das junções, sem as das subconsultas."""
    own = (table for table in tree.find_all(exp.Table) if table.parent_select is tree)
    return {table.alias_or_name: table.name for table in own}


def _excludes_cancelled(tree: exp.Expression) -> bool:
    parts = [part for where in tree.find_all(exp.Where) for part in operands(where.this, exp.And)]
    return any(drops_cancelled(part, part.parent_select) for part in parts)


def operands(node: exp.Expression, kind: type[exp.Connector]) -> list[exp.Expression]:
    """As condições que um AND, ou um OR, junta; a própria, se não é um."""
    node = node.unnest()
    return list(node.flatten()) if isinstance(node, kind) else [node]


def drops_cancelled(node: exp.Expression, tree: exp.Expression) -> bool:
    """Diz se é a condição que tira os pedidos cancelados."""
    node = node.unnest()
    status = isinstance(node, exp.NEQ) and (node.this.name, node.expression.name)
    return status == ("status", "cancelado") and "pedidos" in tables_by_alias(tree).values()


def _ratio(node: exp.Div, tree: exp.Expression) -> str | None:
    """O que se divide pelos diferentes de alguma coisa; ou, de um mês, o período de `SPANS`."""
    above, below = _core(node.this), _core(node.expression)
    if isinstance(below, exp.Count) and isinstance(below.this, exp.Distinct):
        only = below.this.expressions[0]
        orders = only.name == "id" and tables_by_alias(tree).get(only.text("table")) == "pedidos"
        if is_revenue(above) and (orders or only.name == "pedido_id"):
            return "ticket médio"
        if len(below.this.expressions) == 1 and only.name != "id":
            return f"{phrase(above, tree)} por {phrase(only, tree)}"
    if isinstance(above, exp.Add) and isinstance(_core(above.this), exp.TimeToStr):
        month = _core(above.this).text("format") == "%m"
        return SPANS.get((above.expression.name, below.name)) if month else None
    return None


def _count(node: exp.Count, tree: exp.Expression) -> str:
    """De que são as linhas contadas: as da primeira tabela, ou as do número que não se repete."""
    tables = tables_by_alias(tree)
    inner, owner = node.this, next(iter(tables.values()), "")
    if isinstance(inner, exp.Distinct):
        only = inner.expressions[0]
        if len(inner.expressions) > 1 or only.name != "id":
            names = [phrase(part, tree) for part in inner.expressions]
            return f"quantidade de valores diferentes de {' e '.join(names)}"
        inner = only
    owner = tables.get(inner.text("table"), owner) if inner else owner  # COUNT() é COUNT(*)
    return f"quantidade de {name_words(owner)}" if owner else "quantidade"


def _part_of_date(node: exp.TimeToStr | exp.Substring) -> str | None:
    if isinstance(node, exp.TimeToStr):
        return PARTS.get(node.text("format"))
    start, length = node.args.get("start"), node.text("length")
    return LENGTHS.get(length) if start is not None and start.name == "1" else None


def is_revenue(node: exp.Expression | None) -> bool:
    """Diz se é a conta do faturamento: a soma de quantidade vezes preço."""
    node = _core(node)
    product = _core(node.this) if isinstance(node, exp.Sum) else None
    factors = (product.this, product.expression) if isinstance(product, exp.Mul) else ()
    return sorted(part.name for part in factors) == ["preco_unitario", "quantidade"]


def unit(node: exp.Expression) -> str:
    """Em que se mede: `percent`, `count`, `money`, `month`, `weekday` ou nada que se saiba."""
    core = _core(node)
    if isinstance(core, exp.TimeToStr) and core.text("format") in NAMED:
        return NAMED[core.text("format")]
    scaled = [part.name for mul in core.find_all(exp.Mul) for part in (mul.this, mul.expression)]
    if core.find(exp.Div) and {"100.0", "100"} & set(scaled):
        return "percent"
    if isinstance(core, exp.Count):
        return "count"
    if is_money(core) or MONEY.search(node.alias):
        return "money"
    return "count" if isinstance(core, exp.Sum) else ""


def is_money(node: exp.Expression | None) -> bool:
    """Diz se o valor é em reais, pelos nomes das colunas de que sai; o de uma comparação não é."""
    if isinstance(node, exp.Column):
        return MONEY.search(node.name) is not None
    if isinstance(node, exp.Predicate | exp.Connector | exp.Not | exp.Count):
        return False
    if isinstance(node, exp.Div):
        return is_money(node.this) and not is_money(node.expression)
    if isinstance(node, exp.Case):
        branches = [way.args["true"] for way in node.args["ifs"]]
        return any(map(is_money, [*branches, node.args.get("default")]))
    if isinstance(node, exp.Window):
        return is_money(node.this)
    if isinstance(node, exp.Query):
        return any(map(is_money, node.selects))
    return node is not None and any(map(is_money, node.iter_expressions()))


def written(value: object, unit: str = "") -> str:
    """Um valor como se escreve no Brasil, na unidade da coluna.

    >>> written(407617.5199999997, "money"), written("2024-03-07", "date"), written(12000, "count")
    ('R$\\xa0407.617,52', '07/03/2024', '12.000')
    """
    value = shown_value(value)
    if value is None:
        return "sem valor"
    if isinstance(value, str):
        return _time(value, unit)
    if unit == "money":
        return format_currency(value, "BRL", locale=LOCALE)
    if unit == "percent":
        return f"{decimal(value, 1)}%"
    if isinstance(value, float) or unit == "real":
        return any_size(value)
    # Sem unidade, um inteiro pode ser um ano ou o número de um pedido: 2024, não 2.024.
    return decimal(value) if unit == "count" else str(value)


def _time(text: str, unit: str) -> str:
    """O texto; o de um dia, mês ou dia da semana, como se diz: `07/03/2024`, `março`, `domingo`."""
    if unit == "month" and text.isdecimal():
        return get_month_names("wide", locale=LOCALE).get(int(text), text)
    if unit == "weekday" and text.isdecimal():
        # O domingo é o 0 do SQLite e o 6 do Babel.
        return get_day_names("wide", locale=LOCALE).get((int(text) - 1) % 7, text)
    if unit != "date" or not _ISO.fullmatch(text):
        return text
    try:
        day = date.fromisoformat(text if len(text) == 10 else f"{text}-01")
    except ValueError:  # 30 de fevereiro
        return text
    return format_date(day, "dd/MM/yyyy" if len(text) == 10 else "MMM yyyy", locale=LOCALE)
