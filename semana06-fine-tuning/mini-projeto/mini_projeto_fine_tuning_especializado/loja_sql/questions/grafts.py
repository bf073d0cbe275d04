"""Recombina perguntas escritas à mão: cada enxerto muda uma só coisa na frase e na consulta.

Um filtro a mais ("… em 2024", "… no pix"), uma ordem que não se pedia, uma coluna a mais, ou a
lista no lugar da contagem: pares quase iguais, cujo SQL só difere nisso, ensinam o que cada parte
da frase pede. Os enxertos estão em `grafts`, na gramática; na dúvida, não se enxerta.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from comum.text import fold

from sqlglot import exp

from loja_sql.questions.generator import ALIASES, TAIL, assemble, fill, slots_in
from loja_sql.questions.slots import NUMBERS, draw, grammar
from loja_sql.sql.features import parse

CLAUSES = re.compile(
    r"SELECT (?P<select>.+?) FROM (?P<source>.+?)(?: WHERE (?P<where>.+?))?"
    r"(?: GROUP BY (?P<group>.+?))?(?: HAVING (?P<having>.+?))?"
    r"(?: ORDER BY (?P<order>.+?))?(?: LIMIT (?P<limit>\d+))?"
)
SOLD = "status <> 'cancelado'"  # o filtro das vendas, que um status pedido substitui
# De que tabela cada uma precisa na consulta, para se ligar a ela sem repetir linhas.
ANCHORS = {"pr": "i", "c": "pe", "v": "pe"}


@dataclass(frozen=True)
class _Query:
    """Uma pergunta sem a pontuação do fim, e a consulta em partes."""

    stem: str
    end: str
    tables: frozenset[str]
    where: tuple[str, ...]
    clauses: dict[str, str]
    used: frozenset[str]  # todas as colunas, com o apelido da tabela
    filtered: frozenset[str]  # as do WHERE

    def sql(self) -> str:
        return assemble(set(self.tables), list(self.where), self.clauses)

    def said(self, addition: str) -> str:
        """O trecho, escrito como o resto da pergunta: sem acentos, em maiúsculas."""
        if self.stem.isupper():
            return addition.upper()
        plain = self.stem.islower() and self.stem.isascii()
        return fold(addition) if plain else addition

    def plus(self, addition: str, **clauses: str) -> "_Query":
        stem = self.stem + self.said(addition if addition[0] == "," else f" {addition}")
        return replace(self, stem=stem, clauses=self.clauses | clauses)

    @property
    def main(self) -> str:
        """A primeira tabela do FROM."""
        return next(alias for alias in ALIASES if alias in self.tables)

    def written(self, text: str) -> str:
        """Um trecho de SQL como esta consulta o escreve: com prefixo só se há junção."""
        return text if len(self.tables) > 1 else text.replace(f"{self.main}.", "")

    def says(self, pattern: str) -> bool:
        return re.search(pattern, fold(self.stem)) is not None


def graft(question: str, sql: str, rng: random.Random) -> tuple[str, str] | None:
    """Um par novo, (pergunta, SQL), com um enxerto; None se nenhum cabe."""
    query = _read(question, sql)
    if query is None:
        return None
    for make in sorted(MAKERS, key=lambda make: rng.random() ** (1 / MAKERS[make]), reverse=True):
        if new := make(query, rng):
            return new.stem + new.end, new.sql()
    return None


def _read(question: str, sql: str) -> _Query | None:
    """As partes da pergunta e da consulta, se as duas são simples o bastante para um enxerto."""
    stem = question.rstrip("?.! ")
    found, tree = CLAUSES.fullmatch(sql), parse(sql)
    if not found or re.search(grammar()["grafts"]["unless"], fold(stem)):
        return None
    if not isinstance(tree, exp.Select) or tree.find(exp.Or, exp.Subquery, exp.In, exp.Exists):
        return None
    names = [table.alias or table.name for table in tree.find_all(exp.Table)]
    short = {table: alias for alias, table in ALIASES.items()}
    tables = frozenset(short.get(name, name) for name in names)
    if not tables <= set(ALIASES):
        return None
    where = tree.args.get("where")
    query = _Query(
        stem=stem,
        end=question[len(stem) :],
        tables=tables,
        where=(found["where"],) if found["where"] else (),
        clauses={key: found[key] or "" for key in ("select", *TAIL)},
        used=_columns(tree, tables),
        filtered=_columns(where, tables) if where else frozenset(),
    )
    return query if query.sql() == sql else None


def _columns(tree: exp.Expression, tables: frozenset[str]) -> frozenset[str]:
    only = next(iter(tables))
    return frozenset(f"{c.table or only}.{c.name}" for c in tree.find_all(exp.Column))


def _filtered(query: _Query, rng: random.Random) -> _Query | None:
    specs = grammar()["grafts"]["filters"]
    for name in rng.sample(list(specs), len(specs)):
        spec, alias = specs[name], specs[name]["table"]
        joined = len(query.tables) > 1 and ANCHORS.get(alias) in query.tables
        sold = name == "status" and any(SOLD in text for text in query.where)
        if (
            not (alias in query.tables or joined)
            or (spec.get("alone") and len(query.tables) > 1)
            or (not sold and query.used & set(spec["unused"]))
            or query.filtered & set(spec.get("unfiltered", []))
            or query.says(spec["unless"])
            or not query.says(spec.get("if", ""))
        ):
            continue
        slot = next(iter(slots_in(spec["sql"])))
        value = {slot: draw(slot, rng, column=spec.get("column", ""))}
        condition = fill(spec["sql"], value)
        where = (*query.where, condition)
        if sold:
            where = tuple(re.sub(rf"(?:pe\.)?{SOLD}", condition, text) for text in query.where)
        new = query.plus(fill(rng.choice(spec["phrases"]), value))
        return replace(new, where=where, tables=query.tables | {alias})
    return None


def _ordered(query: _Query, rng: random.Random) -> _Query | None:
    """A mesma lista, numa ordem; às vezes, só o começo dela."""
    specs = grammar()["grafts"]["orders"]
    if query.clauses["order"] or query.clauses["limit"] or query.says(specs["unless"]):
        return None
    for spec in rng.sample(specs["ways"], len(specs["ways"])):
        found = re.fullmatch(spec["select"], query.clauses["select"])
        if found and query.main in spec.get("main", ALIASES):
            new = query.plus(rng.choice(spec["phrases"]), order=found.expand(spec["order"]))
            if spec.get("limited") and rng.random() < specs["limited"]:
                count = rng.randint(3, 10)
                return new.plus(f", só os {NUMBERS[count]} primeiros", limit=str(count))
            return new
    return None


def _widened(query: _Query, rng: random.Random) -> _Query | None:
    """A mesma lista com mais uma coluna, ou o mesmo ranking com o valor de cada um."""
    specs, select = grammar()["grafts"]["columns"], query.clauses["select"]
    listed = f"{query.main}.{select}" if select in ("nome", "id") else select
    for spec in rng.sample(specs, len(specs)):
        found = re.fullmatch(spec["select"], f"{listed} | {query.clauses['order']}")
        if not found or spec["column"] in query.filtered or query.says(spec["unless"]):
            continue
        one = query.clauses["limit"] == "1"
        phrase = rng.choice([p for p in spec["phrases"] if not (one and p.endswith("cada um"))])
        column = query.written(found.expand(spec["column"]))
        return query.plus(phrase, select=f"{select}, {column}")
    return None


def _counted(query: _Query, rng: random.Random) -> _Query | None:
    """A contagem no lugar da lista, ou a lista no lugar da contagem."""
    specs = grammar()["grafts"]["counts"]
    if any(query.clauses[key] for key in TAIL) or query.says(specs["unless"]):
        return None
    for spec in specs["ways"]:
        pattern = rf"(quais|que|quantos|quantas) (são )?(?:os |as )?({spec['noun']})\b"
        found = re.match(pattern, query.stem, re.IGNORECASE)
        asked = "count" if found and found[1].lower().startswith("quant") else "list"
        fits = found and spec["main"] == query.main
        if not fits or query.clauses["select"] != query.written(spec[asked]):
            continue
        wanted, word = ("list", "quais") if asked == "count" else ("count", spec["how_many"])
        tables = _needed(query, spec["list"].rpartition(".")[0][-2:].strip(), wanted)
        if not tables:
            continue
        start = query.said(" ".join(filter(None, (word, found[2] and "são os", found[3]))))
        start = start[0].upper() + start[1:] if found[1][0].isupper() else start
        clauses = query.clauses | {"select": spec[wanted]}
        stem = start + query.stem[found.end() :]
        return replace(query, stem=stem, clauses=clauses, tables=tables)
    return None


def _needed(query: _Query, alias: str, wanted: str) -> frozenset[str] | None:
    """As tabelas da lista ou da contagem de `alias`; None se a lista pede uma junção que não há."""
    if wanted == "count" and not any(column.startswith(f"{alias}.") for column in query.filtered):
        return query.tables - {alias} or query.tables
    if wanted == "list" and alias not in query.tables:
        return query.tables | {alias} if len(query.tables) > 1 else None
    return query.tables


# Os enxertos e o peso de cada um no sorteio.
MAKERS: dict[Callable[[_Query, random.Random], _Query | None], float] = {
    _filtered: 4,
    _ordered: 1,
    _widened: 1,
    _counted: 2,
}
