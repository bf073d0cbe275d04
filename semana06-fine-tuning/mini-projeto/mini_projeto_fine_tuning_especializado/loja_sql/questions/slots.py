"""Os valores que aparecem nas perguntas (estados, datas, preços …), em todas as formas de dizê-los.

`draw(nome, rng)` sorteia um valor e uma forma de cada jeito; `mask(texto)` faz o caminho inverso:
troca os valores por marcas, para que duas perguntas que só diferem neles sejam reconhecidas como
do mesmo molde.
"""

import calendar
import random
import re
import unicodedata
from functools import cache

from loja_sql.shop import catalog, person_names

# uf: (nome, preposição "de", preposição "em", gentílico no plural)
UFS = {
    "AC": ("Acre", "do", "no", "acreanos"), "AL": ("Alagoas", "de", "em", "alagoanos"),
    "AP": ("Amapá", "do", "no", "amapaenses"), "AM": ("Amazonas", "do", "no", "amazonenses"),
    "BA": ("Bahia", "da", "na", "baianos"), "CE": ("Ceará", "do", "no", "cearenses"),
    "DF": ("Distrito Federal", "do", "no", "brasilienses"),
    "ES": ("Espírito Santo", "do", "no", "capixabas"), "GO": ("Goiás", "de", "em", "goianos"),
    "MA": ("Maranhão", "do", "no", "maranhenses"),
    "MT": ("Mato Grosso", "de", "em", "mato-grossenses"),
    "MS": ("Mato Grosso do Sul", "de", "em", "sul-mato-grossenses"),
    "MG": ("Minas Gerais", "de", "em", "mineiros"), "PA": ("Pará", "do", "no", "paraenses"),
    "PB": ("Paraíba", "da", "na", "paraibanos"), "PR": ("Paraná", "do", "no", "paranaenses"),
    "PE": ("Pernambuco", "de", "em", "pernambucanos"), "PI": ("Piauí", "do", "no", "piauienses"),
    "RJ": ("Rio de Janeiro", "do", "no", "fluminenses"),
    "RN": ("Rio Grande do Norte", "do", "no", "potiguares"),
    "RS": ("Rio Grande do Sul", "do", "no", "gaúchos"),
    "RO": ("Rondônia", "de", "em", "rondonienses"), "RR": ("Roraima", "de", "em", "roraimenses"),
    "SC": ("Santa Catarina", "de", "em", "catarinenses"),
    "SP": ("São Paulo", "de", "em", "paulistas"),
    "SE": ("Sergipe", "de", "em", "sergipanos"), "TO": ("Tocantins", "do", "no", "tocantinenses"),
}  # fmt: skip
MONTHS = ["janeiro", "fevereiro", "março", "abril", "maio", "junho", "julho", "agosto",
          "setembro", "outubro", "novembro", "dezembro"]  # fmt: skip
NUMBERS = ["zero", "um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito", "nove", "dez",
           "onze", "doze"]  # fmt: skip
STATUSES = {"pendente": "pendentes", "pago": "pagos", "enviado": "enviados",
            "entregue": "entregues", "cancelado": "cancelados"}  # fmt: skip
PAYMENTS = ["pix", "boleto", "cartão"]
REGIONS = ["Norte", "Nordeste", "Centro-Oeste", "Sudeste", "Sul"]
AMBIGUOUS_CITIES = {"São Paulo", "Rio de Janeiro"}  # sozinhas, significam a UF
YEARS = range(2022, 2026)


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
    operator, words = [
        ("<", ["abaixo de", "por menos de", "inferior a"]),
        (">", ["acima de", "por mais de", "superior a"]),
        ("<=", ["até", "no máximo"]),
        (">=", ["a partir de", "no mínimo", "pelo menos"]),
    ][kind]
    return {"sql": f"pr.preco {operator} {bound}", "frase": f"{rng.choice(words)} {shown}"}


def _stock(rng: random.Random) -> dict:
    n = rng.randint(5, 150)
    operator, words = rng.choice([
        (f"< {n}", [f"com menos de {n} unidades em estoque", f"com estoque abaixo de {n}",
                    f"que têm menos de {n} peças"]),
        (f"> {n}", [f"com mais de {n} unidades em estoque", f"com estoque acima de {n}"]),
        (f"<= {n}", [f"com até {n} unidades no estoque", f"com no máximo {n} peças em estoque"]),
        (f">= {n}", [f"com pelo menos {n} em estoque", f"com {n} ou mais unidades"]),
        ("= 0", ["sem estoque", "esgotados", "com estoque zerado", "que acabaram"]),
        ("> 0", ["em estoque", "disponíveis", "com estoque"]),
    ])  # fmt: skip
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
    "uf": _uf, "cidade": _city, "categoria": _category, "produto": _product,
    "cliente": _person(0), "vendedor": _person(1), "status": _status, "pagamento": _payment,
    "regiao": _region, "preco": _price, "estoque": _stock, "nota": _grade,
}  # fmt: skip


def _last_day(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]


def _date_text(rng: random.Random, year: int, month: int, day: int) -> str:
    return rng.choice([
        f"{day:02}/{month:02}/{year}", f"{day}/{month}/{year}",
        f"{day} de {MONTHS[month - 1]} de {year}",
        f"{day:02}/{month:02}/{year % 100}", f"{day}-{month:02}-{year}",
        f"{year}-{month:02}-{day:02}",
    ])  # fmt: skip


def _month_text(rng: random.Random, year: int, month: int) -> str:
    name = MONTHS[month - 1]
    return rng.choice([
        f"{name} de {year}", f"{name} de {year}", f"{name} de {year % 100}", f"{name[:3]}/{year}",
        f"{month:02}/{year}", f"{name}/{year % 100}", f"{name[:3]}/{year % 100}",
    ])  # fmt: skip


def _period(rng: random.Random, column: str) -> dict:
    """Período com a condição sobre `column` e as formas "em …", "de …" e o nome."""
    kinds = [_year, _year, _month, _month, _day, _quarter, _half, _between, _before, _after,
             _since, _until, _any_month, _two_years]  # fmt: skip
    sql, em, de, name = rng.choice(kinds)(rng)
    return {"sql": sql.replace("@", column), "em": em, "de": de or em, "nome": name}


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


def _quarter(rng: random.Random) -> tuple:
    y, q = rng.choice(YEARS), rng.randint(1, 4)
    first, last = 3 * q - 2, 3 * q
    ordinal = rng.choice([f"{q}º", ["primeiro", "segundo", "terceiro", "quarto"][q - 1], f"{q}o"])
    text = f"{ordinal} {rng.choice(['trimestre', 'trimestre', 'tri'])} de {y}"
    sql = f"@ BETWEEN '{y}-{first:02}-01' AND '{y}-{last:02}-{_last_day(y, last)}'"
    return sql, f"no {text}", f"do {text}", text


def _half(rng: random.Random) -> tuple:
    y, h = rng.choice(YEARS), rng.randint(1, 2)
    ordinal = rng.choice([f"{h}º", ["primeiro", "segundo"][h - 1], f"{h}o"])
    text = f"{ordinal} semestre de {y}"
    sql = f"@ BETWEEN '{y}-{6 * h - 5:02}-01' AND '{y}-{6 * h:02}-{_last_day(y, 6 * h)}'"
    return sql, f"no {text}", f"do {text}", text


def _between(rng: random.Random) -> tuple:
    y = rng.choice(YEARS)
    first, last = sorted(rng.sample(range(1, 13), 2))
    if rng.random() < 0.5:
        text = f"{MONTHS[first - 1]} e {MONTHS[last - 1]} de {y}"
        sql = f"@ BETWEEN '{y}-{first:02}-01' AND '{y}-{last:02}-{_last_day(y, last)}'"
        return sql, f"entre {text}", None, f"entre {text}"
    a, b = rng.randint(1, 28), rng.randint(1, 28)
    left, right = _date_text(rng, y, first, a), _date_text(rng, y, last, b)
    text = rng.choice([f"entre {left} e {right}", f"de {left} a {right}", f"de {left} até {right}"])
    return f"@ BETWEEN '{y}-{first:02}-{a:02}' AND '{y}-{last:02}-{b:02}'", text, None, text


def _before(rng: random.Random) -> tuple:
    y, m = rng.randint(2023, 2025), rng.randint(1, 12)
    if rng.random() < 0.5:
        return f"@ < '{y}-01-01'", f"antes de {y}", None, f"antes de {y}"
    text = _month_text(rng, y, m)
    return f"@ < '{y}-{m:02}-01'", f"antes de {text}", None, f"antes de {text}"


def _after(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2024), rng.randint(1, 12)
    if rng.random() < 0.4:
        text = rng.choice([f"depois de {y}", f"após {y}"])
        return f"@ > '{y}-12-31'", text, None, text
    day = rng.randint(1, 28)
    text = f"{rng.choice(['depois de', 'após'])} {_date_text(rng, y, m, day)}"
    return f"@ > '{y}-{m:02}-{day:02}'", text, None, text


def _since(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2025), rng.randint(1, 12)
    word = rng.choice(["desde", "a partir de", "de"])
    tail = " em diante" if word == "de" else ""
    if rng.random() < 0.4:
        text = f"{word} {y}{tail}"
        return f"@ >= '{y}-01-01'", text, None, text
    text = f"{word} {_month_text(rng, y, m)}{tail}"
    return f"@ >= '{y}-{m:02}-01'", text, None, text


def _until(rng: random.Random) -> tuple:
    y, m = rng.randint(2022, 2025), rng.randint(1, 12)
    if rng.random() < 0.4:
        return f"@ <= '{y}-12-31'", f"até o fim de {y}", None, f"até o fim de {y}"
    text = f"até {_month_text(rng, y, m)}"
    return f"@ <= '{y}-{m:02}-{_last_day(y, m)}'", text, None, text


def _any_month(rng: random.Random) -> tuple:
    column = "strftime('%m', @)"
    m = rng.randint(1, 12)
    text = rng.choice([f"em {MONTHS[m - 1]} de qualquer ano", f"nos meses de {MONTHS[m - 1]}"])
    return f"{column} = '{m:02}'", text, None, text


def _two_years(rng: random.Random) -> tuple:
    first = rng.randint(2022, 2024)
    last = rng.randint(first + 1, 2025)
    text = rng.choice([f"de {first} a {last}", f"entre {first} e {last}"])
    return f"@ BETWEEN '{first}-01-01' AND '{last}-12-31'", text, None, text


def plain(text: str) -> str:
    """Minúsculas, sem acentos nem pontuação, espaços simples."""
    folded = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9%$]+", " ", folded).strip()


@cache
def _mask_pattern() -> re.Pattern:
    groups = {
        "pessoa": person_names()[0] + person_names()[1],
        "produto": [n for g in catalog()["produtos"].values() for n in g["nomes"]],
        "lugar": [c for names in catalog()["cidades"].values() for c in names]
        + [v[0] for v in UFS.values()] + list(UFS) + ["minas"]
        + [form for v in UFS.values() for form in inflections(v[3])],
        "categoria": [f for c in catalog()["produtos"] for f in (c, c[:-1], "eletronico", "movel")],
        "status": [f for s, p in STATUSES.items() for f in (s, p, s[:-1] + "a", s[:-1] + "as")],
        "pagamento": [*PAYMENTS, "boletos", "cartoes"],
        "regiao": [*REGIONS, "centro oeste"],
        "mes": MONTHS + [m[:3] for m in MONTHS if m != "maio"],
        "numero": [*NUMBERS[2:], "primeiro", "segundo", "terceiro", "quarto", "mil"],
    }  # fmt: skip
    ambiguous = {"al", "am", "ma", "se", "pa", "to", "es", "ap", "ce", "mil reais"}
    parts = []
    for name, values in groups.items():
        words = {plain(v) for v in values} - ambiguous - {""}
        ordered = sorted(words, key=len, reverse=True)
        parts.append(f"(?P<{name}>" + "|".join(map(re.escape, ordered)) + ")")
    parts.append(r"(?P<digitos>\d+\w?)")
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b")


def inflections(people: str) -> list[str]:
    """Masculino e feminino, singular e plural, de um gentílico no plural."""
    singular = people[:-2] if people.endswith("res") else people[:-1]
    forms = [people, singular]
    if singular.endswith("o"):
        forms += [singular[:-1] + "a", singular[:-1] + "as"]
    return forms


def mask(text: str) -> str:
    """O molde de uma pergunta: sem caixa, acentos, pontuação nem valores.

    >>> mask("Quantos clientes temos em Minas Gerais?") == mask("quantos clientes temos em SP")
    True
    """
    masked = _mask_pattern().sub(lambda m: f"<{m.lastgroup}>", plain(text))
    return re.sub(r"(<\w+>)( \1)+", r"\1", masked)
