"""Os valores que aparecem nas perguntas (estados, datas, preços …), em todas as formas de dizê-los.

`draw(nome, rng)` sorteia um valor e uma forma de cada jeito; `mask(texto)` faz o caminho inverso:
troca os valores por marcas, para que duas perguntas que só diferem neles sejam reconhecidas como
do mesmo molde.
"""

import calendar
import random
import re
from functools import cache

from comum.text import fold

from loja_sql.shop import catalog, person_names

UFS: dict[str, list[str]] = catalog()["ufs"]
MONTHS: list[str] = catalog()["meses"]
NUMBERS: list[str] = catalog()["numeros"]  # de zero a doze, por extenso
ORDINALS = ["primeiro", "segundo", "terceiro", "quarto"]
STATUSES = {s: s + "s" for s in ("pendente", "pago", "enviado", "entregue", "cancelado")}
PAYMENTS = ["pix", "boleto", "cartão"]
REGIONS = ["Norte", "Nordeste", "Centro-Oeste", "Sudeste", "Sul"]
AMBIGUOUS_CITIES = {"São Paulo", "Rio de Janeiro"}  # sozinhas, significam a UF
YEARS = range(2022, 2026)
COMPARISONS = [
    ("<", ["abaixo de", "por menos de", "inferior a"]),
    (">", ["acima de", "por mais de", "superior a"]),
    ("<=", ["até", "no máximo"]),
    (">=", ["a partir de", "no mínimo", "pelo menos"]),
]


def draw(name: str, rng: random.Random, column: str = "", bounds: list | None = None) -> dict:
    """Sorteia um valor do tipo `name`: {"sql": literal ou condição, outras chaves: formas}."""
    if name in ("n", "valor"):
        return (_count if name == "n" else _money)(rng, *bounds)
    if name == "periodo":
        return _period(rng, column)
    return _SIMPLE[name](rng)


def _uf(rng: random.Random) -> dict:
    uf = rng.choice(list(UFS))
    name, de, em, people = UFS[uf]
    abbreviation = rng.random() < 0.3
    shown = uf if abbreviation else name
    de, em = ("de", "em") if abbreviation and rng.random() < 0.5 else (de, em)
    return {"sql": uf, "nome": shown, "de": f"{de} {shown}", "em": f"{em} {shown}", "gent": people}


def _city(rng: random.Random) -> dict:
    names = [c for group in catalog()["cidades"].values() for c in group]
    city = rng.choice([c for c in names if c not in AMBIGUOUS_CITIES])
    return {"sql": city, "nome": city, "de": f"de {city}", "em": f"em {city}"}


def _category(rng: random.Random) -> dict:
    category = rng.choice(list(catalog()["produtos"]))
    return {"sql": category, "nome": category}


def _product(rng: random.Random) -> dict:
    groups = catalog()["produtos"].values()
    name = rng.choice([n for group in groups for n in group["nomes"]])
    return {"sql": name, "nome": name if rng.random() < 0.6 else name.lower()}


def _person(position: int):
    def person(rng: random.Random) -> dict:
        name = rng.choice(person_names()[position])
        return {"sql": name, "nome": name if rng.random() < 0.75 else name.lower()}

    return person


def _status(rng: random.Random) -> dict:
    status = rng.choice(list(STATUSES))
    return {"sql": status, "s": status, "pl": STATUSES[status]}


def _payment(rng: random.Random) -> dict:
    payment = rng.choice(PAYMENTS)
    preposition = rng.choice(["por", "via", "com", "em"])
    por = f"{preposition} {payment}"
    return {"sql": payment, "nome": payment, "no": f"no {payment}", "por": por}


def _region(rng: random.Random) -> dict:
    region = rng.choice(REGIONS)
    shown = region if rng.random() < 0.6 else region.lower()
    forms = {"nome": shown, "do": f"do {shown}", "no": f"no {shown}", "o": f"o {shown}"}
    return {"sql": region, **forms}


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
    bound, shown = low["sql"], low["nome"]
    kind = rng.randrange(5)
    if kind == 4:
        high = str(int(bound) + rng.choice([20, 50, 100, 300]))
        text = rng.choice([f"entre {bound} e {high} reais", f"de {bound} a {high} reais"])
        return {"sql": f"pr.preco BETWEEN {bound} AND {high}", "frase": text}
    operator, words = COMPARISONS[kind]
    return {"sql": f"pr.preco {operator} {bound}", "frase": f"{rng.choice(words)} {shown}"}


def _stock(rng: random.Random) -> dict:
    n = rng.randint(5, 150)
    less = [f"com menos de {n} unidades em estoque", f"com estoque abaixo de {n}"]
    options = [
        (f"< {n}", [*less, f"que têm menos de {n} peças"]),
        (f"> {n}", [f"com mais de {n} unidades em estoque", f"com estoque acima de {n}"]),
        (f"<= {n}", [f"com até {n} unidades no estoque", f"com no máximo {n} peças em estoque"]),
        (f">= {n}", [f"com pelo menos {n} em estoque", f"com {n} ou mais unidades"]),
        ("= 0", ["sem estoque", "esgotados", "com estoque zerado", "que acabaram"]),
        ("> 0", ["em estoque", "disponíveis", "com estoque"]),
    ]
    operator, words = rng.choice(options)
    return {"sql": f"pr.estoque {operator}", "frase": rng.choice(words)}


def _grade(rng: random.Random) -> dict:
    n = rng.randint(1, 5)
    options = [(f"a.nota = {n}", [f"com nota {n}", f"nota {n}", f"de {n} estrelas"])]
    if 1 < n < 5:
        options += [
            (f"a.nota >= {n}", [f"com nota {n} ou mais", f"com nota a partir de {n}"]),
            (f"a.nota < {n}", [f"com nota abaixo de {n}", f"com nota menor que {n}"]),
            (f"a.nota <= {n}", [f"com nota até {n}", f"com nota {n} ou menos"]),
        ]
    sql, words = rng.choice(options)
    return {"sql": sql, "frase": rng.choice(words)}


_SIMPLE = {
    "uf": _uf,
    "cidade": _city,
    "categoria": _category,
    "produto": _product,
    "cliente": _person(0),
    "vendedor": _person(1),
    "status": _status,
    "pagamento": _payment,
    "regiao": _region,
    "preco": _price,
    "estoque": _stock,
    "nota": _grade,
}


def _last_day(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]


def _date_text(rng: random.Random, year: int, month: int, day: int) -> str:
    short, full = f"{day:02}/{month:02}", f"{day} de {MONTHS[month - 1]} de {year}"
    dashed = [f"{day}-{month:02}-{year}", f"{year}-{month:02}-{day:02}"]
    forms = [f"{short}/{year}", f"{day}/{month}/{year}", full, f"{short}/{year % 100}", *dashed]
    return rng.choice(forms)


def _month_text(rng: random.Random, year: int, month: int) -> str:
    name, short = MONTHS[month - 1], year % 100
    spelled = [f"{name} de {year}", f"{name} de {year}", f"{name} de {short}"]
    slashed = [f"{name[:3]}/{year}", f"{month:02}/{year}", f"{name}/{short}", f"{name[:3]}/{short}"]
    return rng.choice(spelled + slashed)


def _period(rng: random.Random, column: str) -> dict:
    """Período com a condição sobre `column` e as formas "em …", "de …" e o nome.

    Cada tipo de período devolve a condição (com `@` no lugar da coluna) e as três formas, ou uma só
    que serve às três.
    """
    often = [_year, _year, _month, _month, _day, _quarter, _half, _between]
    seldom = [_before, _after, _since, _until, _any_month, _two_years]
    sql, em, *others = rng.choice(often + seldom)(rng)
    de, name = others or (em, em)
    return {"sql": sql.replace("@", column), "em": em, "de": de, "nome": name}


def _year(rng: random.Random) -> tuple:
    y = rng.choice(YEARS)
    em = rng.choice([f"em {y}", f"no ano de {y}", f"durante {y}", f"ao longo de {y}", f"em {y}"])
    return f"@ LIKE '{y}%'", em, f"de {y}", f"{y}"


def _month(rng: random.Random) -> tuple:
    y, m = rng.choice(YEARS), rng.randint(1, 12)
    text = _month_text(rng, y, m)
    return f"@ LIKE '{y}-{m:02}%'", f"em {text}", f"de {text}", text


def _day(rng: random.Random) -> tuple:
    y, m = rng.choice(YEARS), rng.randint(1, 12)
    d = rng.randint(1, _last_day(y, m))
    text = _date_text(rng, y, m, d)
    em = rng.choice([f"em {text}", f"no dia {text}"])
    return f"@ = '{y}-{m:02}-{d:02}'", em, f"de {text}", text


def _part_of_year(rng: random.Random, months: int, words: list[str]) -> tuple:
    """Um pedaço do ano de `months` meses: semestre ou trimestre."""
    y, part = rng.choice(YEARS), rng.randint(1, 12 // months)
    first, last = months * (part - 1) + 1, months * part
    ordinal = rng.choice([f"{part}º", ORDINALS[part - 1], f"{part}o"])
    text = f"{ordinal} {rng.choice(words) if len(words) > 1 else words[0]} de {y}"
    sql = f"@ BETWEEN '{y}-{first:02}-01' AND '{y}-{last:02}-{_last_day(y, last)}'"
    return sql, f"no {text}", f"do {text}", text


def _quarter(rng: random.Random) -> tuple:
    return _part_of_year(rng, 3, ["trimestre", "trimestre", "tri"])


def _half(rng: random.Random) -> tuple:
    return _part_of_year(rng, 6, ["semestre"])


def _between(rng: random.Random) -> tuple:
    y = rng.choice(YEARS)
    first, last = sorted(rng.sample(range(1, 13), 2))
    if rng.random() < 0.5:
        text = f"{MONTHS[first - 1]} e {MONTHS[last - 1]} de {y}"
        sql = f"@ BETWEEN '{y}-{first:02}-01' AND '{y}-{last:02}-{_last_day(y, last)}'"
        return sql, f"entre {text}"
    a, b = rng.randint(1, 28), rng.randint(1, 28)
    left, right = _date_text(rng, y, first, a), _date_text(rng, y, last, b)
    text = rng.choice([f"entre {left} e {right}", f"de {left} a {right}", f"de {left} até {right}"])
    return f"@ BETWEEN '{y}-{first:02}-{a:02}' AND '{y}-{last:02}-{b:02}'", text


def _before(rng: random.Random) -> tuple:
    y, m = rng.randint(2023, 2025), rng.randint(1, 12)
    if rng.random() < 0.5:
        return f"@ < '{y}-01-01'", f"antes de {y}"
    return f"@ < '{y}-{m:02}-01'", f"antes de {_month_text(rng, y, m)}"


def _after(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2024), rng.randint(1, 12)
    if rng.random() < 0.4:
        return f"@ > '{y}-12-31'", rng.choice([f"depois de {y}", f"após {y}"])
    day = rng.randint(1, 28)
    text = f"{rng.choice(['depois de', 'após'])} {_date_text(rng, y, m, day)}"
    return f"@ > '{y}-{m:02}-{day:02}'", text


def _since(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2025), rng.randint(1, 12)
    word = rng.choice(["desde", "a partir de", "de"])
    tail = " em diante" if word == "de" else ""
    if rng.random() < 0.4:
        return f"@ >= '{y}-01-01'", f"{word} {y}{tail}"
    return f"@ >= '{y}-{m:02}-01'", f"{word} {_month_text(rng, y, m)}{tail}"


def _until(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2025), rng.randint(1, 12)
    if rng.random() < 0.4:
        return f"@ <= '{y}-12-31'", f"até o fim de {y}"
    return f"@ <= '{y}-{m:02}-{_last_day(y, m)}'", f"até {_month_text(rng, y, m)}"


def _any_month(rng: random.Random) -> tuple:
    m = rng.randint(1, 12)
    text = rng.choice([f"em {MONTHS[m - 1]} de qualquer ano", f"nos meses de {MONTHS[m - 1]}"])
    return f"strftime('%m', @) = '{m:02}'", text


def _two_years(rng: random.Random) -> tuple:
    first = rng.randint(2022, 2024)
    last = rng.randint(first + 1, 2025)
    text = rng.choice([f"de {first} a {last}", f"entre {first} e {last}"])
    return f"@ BETWEEN '{first}-01-01' AND '{last}-12-31'", text


def plain(text: str) -> str:
    """Minúsculas, sem acentos nem pontuação, espaços simples."""
    return re.sub(r"[^a-z0-9%$]+", " ", fold(text)).strip()


@cache
def _mask_pattern() -> re.Pattern:
    shop = catalog()
    places = [city for names in shop["cidades"].values() for city in names]
    places += [uf[0] for uf in UFS.values()] + list(UFS) + ["minas"]
    places += [form for uf in UFS.values() for form in inflections(uf[3])]
    groups = {
        "pessoa": person_names()[0] + person_names()[1],
        "produto": [name for group in shop["produtos"].values() for name in group["nomes"]],
        "lugar": places,
        "categoria": [f for c in shop["produtos"] for f in (c, c[:-1], "eletronico", "movel")],
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
        longest_first = sorted(words, key=len, reverse=True)
        parts.append(f"(?P<{name}>" + "|".join(map(re.escape, longest_first)) + ")")
    parts.append(r"(?P<digitos>\d+\w?)")
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b")


def inflections(people: str) -> list[str]:
    """Masculino e feminino, singular e plural, de um gentílico no plural."""
    singular = people[:-2] if people.endswith("res") else people[:-1]
    forms = [people, singular]
    if singular.endswith("o"):
        forms += [singular[:-1] + "a", singular[:-1] + "as"]
    return forms


@cache
def mask(text: str) -> str:
    """O molde de uma pergunta: sem caixa, acentos, pontuação nem valores.

    >>> mask("Quantos clientes temos em Minas Gerais?") == mask("quantos clientes temos em SP")
    True
    """
    masked = _mask_pattern().sub(lambda m: f"<{m.lastgroup}>", plain(text))
    return re.sub(r"(<\w+>)( \1)+", r"\1", masked)
