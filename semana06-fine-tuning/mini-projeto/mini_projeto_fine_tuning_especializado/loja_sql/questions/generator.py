"""Gera perguntas por composição: intenção x frase x filtros x valores.

A gramática (`dados/gramatica.yaml`) cobre valores e combinações; o jeito de falar vem das perguntas
escritas à mão.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from loja_sql.questions.slots import draw, grammar

# A ordem é a das tabelas no FROM.
TABLES = ("itens_pedido", "avaliacoes", "pedidos", "produtos", "clientes", "vendedores")
ALIASES = dict(zip(("i", "a", "pe", "pr", "c", "v"), TABLES, strict=True))
# Como cada tabela se liga às que já estão no FROM, na ordem em que entram.
JOINS = {
    "pe": "pe.id = i.pedido_id",
    "pr": "pr.id = {main}.produto_id",
    "c": "c.id = {main}.cliente_id",
    "v": "v.id = pe.vendedor_id",
}
# As cláusulas da gramática que vêm depois do WHERE.
TAIL = {"group": "GROUP BY", "having": "HAVING", "order": "ORDER BY", "limit": "LIMIT"}


@dataclass(frozen=True)
class Pair:
    """Uma pergunta, o SQL que a responde e a intenção de onde veio."""

    question: str
    sql: str
    intent: str


def generate(rng: random.Random) -> Iterator[Pair]:
    """Produz pares sem fim, as intenções em rodízio; a semente de `rng` decide quais."""
    names = list(grammar()["intents"])
    while True:
        for name in rng.sample(names, len(names)):
            yield _pair(name, rng)


def fill(template: str, values: dict[str, dict], key: str = "nome") -> str:
    """Troca `{slot.forma}` pela forma, e `{slot}` pela forma `key`."""

    def form(match: re.Match) -> str:
        name, _, wanted = match[1].partition(".")
        return values[name][wanted or key]

    return re.sub(r"\{([a-z_]+(?:\.[a-z_]+)?)\}", form, template)


def slots_in(text: str) -> set[str]:
    """Os slots que um texto da gramática cita, sem os filtros (`{f}`) e o grupo (`{g}`)."""
    return {m.partition(".")[0] for m in re.findall(r"\{([a-z_.]+)\}", text)} - {"f", "g"}


def _pair(name: str, rng: random.Random) -> Pair:
    intent = grammar()["intents"][name]
    tables = list(intent["tables"])
    filters = _choose_filters(intent, rng)
    clauses = {key: intent.get(key, "") for key in ("select", *TAIL)}
    where = list(intent.get("where", []))
    names = sorted(slots_in(" ".join([*clauses.values(), *where])))
    values = {slot: draw(slot, rng, bounds=intent.get(slot)) for slot in names}
    where = [fill(condition, values) for condition in where]

    phrases = []
    for spec in filters.values():
        slot = next(iter(slots_in(spec["sql"])))
        value = {slot: draw(slot, rng, column=spec.get("column", ""))}
        where.append(fill(spec["sql"], value))
        phrases.append(fill(rng.choice(spec["phrases"]), value))
        tables += spec["tables"]

    group_phrase = ""
    if "groups" in intent:
        group = grammar()["groups"][rng.choice(intent["groups"])]
        clauses["select"] = clauses["select"].replace("{g}", group["column"])
        clauses["group"] = group.get("group", group["column"])
        tables += group["tables"]
        group_phrase = rng.choice(group["phrases"])
    clauses = {key: fill(text, values, key="sql") for key, text in clauses.items()}
    if intent["subject"] == "venda" and "status" not in filters:
        where.insert(0, "pe.status <> 'cancelado'")

    wording = rng.choice(intent["wordings"])
    text = wording.replace("{f}", " ".join(phrases)).replace("{g}", group_phrase)
    return Pair(_tidy(fill(text, values)), assemble(set(tables), where, clauses), name)


def _choose_filters(intent: dict, rng: random.Random) -> dict[str, dict]:
    """Sorteia de min_filters a max_filters recortes; um só é o número mais provável."""
    specs, excluded = grammar()["filters"][intent["subject"]], intent.get("exclude", [])
    names = [name for name in specs if name not in excluded]
    low, high = intent.get("min_filters", 0), intent.get("max_filters", 0)
    wanted = rng.choice([*range(low, high + 1), min(1, high)])
    count = max(low, min(len(names), wanted))
    return {name: specs[name] for name in rng.sample(names, count)}


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([?.,!:;])", r"\1", text)
    return re.sub(r"^[,:]\s*", "", text)


def assemble(tables: set[str], where: list[str], clauses: dict[str, str]) -> str:
    """A consulta, nas convenções da casa: só as junções necessárias, sem prefixo se não há nenhuma.

    Args:
        tables: os apelidos das tabelas (chaves de `ALIASES`).
        where: as condições, ligadas por AND.
        clauses: o texto de `select` e das chaves de `TAIL`, vazio onde não há.
    """
    main, *others = [alias for alias in ALIASES if alias in tables]
    sql = f"SELECT {clauses['select']} FROM {ALIASES[main]} {main}"
    for alias in others:
        # Clientes entram pelos pedidos quando há pedidos; senão, pelas avaliações.
        anchor = "pe" if alias == "c" and "pe" in tables else main
        sql += f" JOIN {ALIASES[alias]} {alias} ON {JOINS[alias].format(main=anchor)}"
    if where:
        sql += " WHERE " + " AND ".join(where)
    for key, keyword in TAIL.items():
        if clauses[key]:
            sql += f" {keyword} {clauses[key]}"
    return sql if others else _without_prefix(sql, main)


def _without_prefix(sql: str, alias: str) -> str:
    sql = sql.replace(f"{ALIASES[alias]} {alias}", ALIASES[alias])
    return re.sub(rf"\b{alias}\.", "", sql)
