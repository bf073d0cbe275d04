"""Os valores que aparecem nas perguntas (estados, datas, preços …), em todas as formas de dizê-los.

`draw` sorteia um valor e as suas formas (`dados/gramatica.yaml`); `mask` faz o inverso: troca os
valores por marcas, e duas perguntas que só diferem neles ficam com o mesmo molde.
"""

import calendar
import random
import re
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from operator import itemgetter

from comum.text import fold

from loja_sql.shop import catalog, data_file, person_names

UFS: dict[str, list[str]] = catalog()["ufs"]
CITIES: list[str] = [city for names in catalog()["cidades"].values() for city in names]
PRODUCTS: list[str] = [x for group in catalog()["produtos"].values() for x in group["nomes"]]
MONTHS: list[str] = catalog()["meses"]
NUMBERS: list[str] = catalog()["numeros"]  # de zero a doze, por extenso
ORDINALS = ["primeiro", "segundo", "terceiro", "quarto"]
STATUSES = {s: s + "s" for s in ("pendente", "pago", "enviado", "entregue", "cancelado")}
PAYMENTS = ["pix", "boleto", "cartão"]
REGIONS = list(catalog()["vendedores_por_regiao"])
AMBIGUOUS_CITIES = {"São Paulo", "Rio de Janeiro"}  # sozinhas, significam a UF
YEARS = range(2022, 2026)


@cache
def grammar() -> dict:
    """As intenções, os filtros, os grupos, as formas dos valores e o ruído da gramática."""
    return data_file("gramatica.yaml")


@cache
def choices() -> dict[str, list[str]]:
    """Os valores de cada tipo que é só uma lista deles."""
    clients, sellers = person_names()
    return {
        "cidade": [city for city in CITIES if city not in AMBIGUOUS_CITIES],
        "categoria": list(catalog()["produtos"]),
        "produto": PRODUCTS,
        "cliente": clients,
        "vendedor": sellers,
        "status": list(STATUSES),
        "pagamento": PAYMENTS,
        "regiao": REGIONS,
    }


def draw(name: str, rng: random.Random, column: str = "", bounds: list | None = None) -> dict:
    """Sorteia um valor do tipo `name`: {"sql": literal ou condição, outras chaves: formas}."""
    if name in choices():
        return _listed(rng, name)
    if name == "periodo":
        return _period(rng, column)
    return _SPECIAL[name](rng, *(bounds or []))


def _listed(rng: random.Random, name: str) -> dict:
    spec, value = grammar()["values"][name], rng.choice(choices()[name])
    shown = value if "capital" not in spec or rng.random() < spec["capital"] else value.lower()
    drawn = {"sql": value, "nome": shown}
    for key, form in spec.get("forms", {}).items():
        drawn[key] = (rng.choice(form) if isinstance(form, list) else form).format(shown)
    return drawn


def _uf(rng: random.Random) -> dict:
    uf = rng.choice(list(UFS))
    name, de, em, people = UFS[uf]
    abbreviation = rng.random() < 0.3
    shown = uf if abbreviation else name
    de, em = ("de", "em") if abbreviation and rng.random() < 0.5 else (de, em)
    return {"sql": uf, "nome": shown, "de": f"{de} {shown}", "em": f"{em} {shown}", "gent": people}


def _count(rng: random.Random, low: int, high: int) -> dict:
    number = rng.randint(low, high)
    spelled = number < len(NUMBERS) and rng.random() < 0.35
    return {"sql": str(number), "nome": NUMBERS[number] if spelled else str(number)}


def _money(rng: random.Random, low: int, high: int) -> dict:
    step = 1000 if high >= 10_000 else 100 if high >= 1000 else 10
    amount = max(step, rng.randint(low, high) // step * step)
    dotted = f"{amount:,}".replace(",", ".")
    forms = [f"{amount} reais", f"R$ {dotted}", str(amount), f"{dotted} reais", f"R$ {dotted},00"]
    if amount % 1000 == 0:
        forms += [f"{amount // 1000} mil reais", f"{amount // 1000} mil"]
    return {"sql": str(amount), "nome": rng.choice(forms)}


def _price(rng: random.Random) -> dict:
    low = _money(rng, 10, rng.choice([100, 500, 2000]))
    sql, phrases = rng.choice(list(grammar()["conditions"]["preco"].items()))
    values = {"low": low["sql"], "shown": low["nome"]}
    if "{high}" in sql:
        values["high"] = int(low["sql"]) + rng.choice([20, 50, 100, 300])
    return {"sql": sql.format(**values), "frase": rng.choice(phrases).format(**values)}


def _stock(rng: random.Random) -> dict:
    return _compared(rng, "estoque", rng.randint(5, 150))


def _grade(rng: random.Random) -> dict:
    n = rng.randint(1, 5)
    return _compared(rng, "nota", n, None if 1 < n < 5 else 1)


def _compared(rng: random.Random, name: str, n: int, ways: int | None = None) -> dict:
    sql, phrases = rng.choice(list(grammar()["conditions"][name].items())[:ways])
    return {"sql": sql.format(n=n), "frase": rng.choice(phrases).format(n=n)}


_SPECIAL = {
    "uf": _uf,
    "n": _count,
    "valor": _money,
    "preco": _price,
    "estoque": _stock,
    "nota": _grade,
}


class _Words(dict):
    """Os números e as palavras de um período; a palavra se sorteia na primeira vez que se pede."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def draw(self, limits: dict) -> None:
        """Sorteia o que a chave `draw` de um período pede, na ordem dela."""
        for name, limit in limits.items():
            if limit == "palavra":
                self[name]
            elif limit == "any":
                self["m"], self["m2"] = sorted(self._rng.sample(range(1, 13), 2))
            elif name == "months":
                self["p"] = part = self._rng.randint(1, 12 // limit)
                self["m"], self["m2"] = limit * (part - 1) + 1, limit * part
            else:
                low, high = limit
                self[name] = self._rng.randint(low or self["y"] + 1, high or self["end"])

    def __missing__(self, name: str) -> object:
        if name == "yy":
            return self["y"] % 100
        if name == "end":
            return calendar.monthrange(self["y"], self.get("m2", self["m"]))[1]
        if name in ("mes", "mes2"):
            return MONTHS[self[name.replace("mes", "m")] - 1]
        if name == "ordinal":
            return ORDINALS[self["p"] - 1]
        self[name] = self._rng.choice(grammar()["words"][name]).format_map(self)
        return self[name]


def _period(rng: random.Random, column: str) -> dict:
    """Período com a condição sobre `column` e as formas "em …", "de …" e o nome."""
    spec, words = rng.choice(grammar()["periods"]), _Words(rng)
    words.draw(spec["draw"])
    first, *others = spec["ways"]
    way = others[0] if others and rng.random() >= spec["chance"] else first
    words.draw(way.get("draw", {}))
    sql = way["sql"].format_map(words).replace("@", column)
    form = way["em"]
    if isinstance(form, list):
        form = form[words["form"] - 1] if "form" in words else rng.choice(form)
    em = form.format_map(words)
    names = {key: way[key].format_map(words) if key in way else em for key in ("de", "nome")}
    return {"sql": sql, "em": em, **names}


def plain(text: str) -> str:
    """Minúsculas, sem acentos nem pontuação, espaços simples."""
    return re.sub(r"[^a-z0-9%$]+", " ", fold(text)).strip()


def wording(text: str) -> str:
    """A pergunta sem caixa, acentos nem pontuação, com os valores: `-5` e `1,5` não são `5`."""
    return " ".join(re.findall(r"[^\W_]+|[-+.,/](?=\d)", fold(text)))


@cache
def _mask_pattern() -> re.Pattern:
    places = [*CITIES, *UFS, *(uf[0] for uf in UFS.values()), "minas"]
    places += [form for uf in UFS.values() for form in inflections(uf[3])]
    groups = {
        "pessoa": person_names()[0] + person_names()[1],
        "produto": PRODUCTS,
        "lugar": places,
        "categoria": [f for c in catalog()["produtos"] for f in (c, c[:-1], "eletronico", "movel")],
        "status": [f for s, p in STATUSES.items() for f in (s, p, s[:-1] + "a", s[:-1] + "as")],
        "pagamento": [*PAYMENTS, "boletos", "cartoes"],
        "regiao": [*REGIONS, "centro oeste"],
        "mes": MONTHS + [month[:3] for month in MONTHS if month != "maio"],
        "numero": [*NUMBERS[2:], *ORDINALS, "mil"],
    }
    # As siglas que ocorrem também como palavras, ou pedaços delas.
    ambiguous = {"al", "am", "ma", "se", "pa", "to", "es", "ap", "ce"}
    parts = []
    for name, values in groups.items():
        words = {plain(value) for value in values} - ambiguous - {""}
        parts.append(f"(?P<{name}>{_longest(words)})")
    parts.append(r"(?P<digitos>\d+\w?)")
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b")


def _longest(words: Iterable[str]) -> str:
    """A expressão que casa com a mais longa das palavras; pela inicial, que elas são centenas."""
    ordered = sorted(words, key=lambda word: (word[0], -len(word)))
    endings = {first: [w[1:] for w in group] for first, group in groupby(ordered, itemgetter(0))}
    return "|".join(f"{first}(?:{'|'.join(map(re.escape, e))})" for first, e in endings.items())


def inflections(people: str) -> list[str]:
    """Masculino e feminino, singular e plural, de um gentílico no plural."""
    singular = people[:-2] if people.endswith("res") else people[:-1]
    root = singular.removesuffix("o")
    return [people, singular] + ([root + "a", root + "as"] if root != singular else [])


@cache  # cada pergunta passa por vários crivos
def mask(text: str) -> str:
    """O molde de uma pergunta: sem caixa, acentos, pontuação nem valores.

    >>> mask("Quantos clientes temos em Minas Gerais?") == mask("quantos clientes temos em SP")
    True
    """
    masked = _mask_pattern().sub(lambda m: f"<{m.lastgroup}>", plain(text))
    return re.sub(r"(<\w+>)( \1)+", r"\1", masked)
