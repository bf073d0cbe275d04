"""A loja: um banco SQLite gerado a partir de uma semente, igual em qualquer máquina.

Os nomes são os mesmos em todas as sementes, para que "quantos pedidos fez a Ana Souza?" faça
sentido em todas; cidades, preços, datas, pedidos e notas mudam. Uma consulta que acerta por sorte
num banco erra em outro.
"""

import random
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import date, timedelta
from functools import cache
from pathlib import Path

from comum.files import replacing
from comum.yaml import read_yaml

from faker import Faker

from loja_sql.config import PROJECT_DIR, Config

DATA_DIR = PROJECT_DIR / "dados"
FIRST_DAY, LAST_DAY = date(2022, 1, 1), date(2025, 12, 31)
NAMES_SEED = 2022
N_CLIENTS, N_ORDERS, N_ITEMS, N_REVIEWS = 600, 4000, 10_000, 2500
NEVER_ORDERED, NEVER_SOLD, NO_REVIEW, OUT_OF_STOCK, IDLE_SELLERS = 45, 9, 14, 16, 2
STATUS_WEIGHTS = {"entregue": 56, "enviado": 12, "pago": 12, "pendente": 8, "cancelado": 12}
PAYMENT_WEIGHTS = {"pix": 45, "cartão": 38, "boleto": 17}


def data_file(name: str) -> dict:
    """Um YAML de `dados/`."""
    return read_yaml(DATA_DIR / name)


@cache
def catalog() -> dict:
    """Cidades, UFs, pesos, regiões e produtos de `dados/loja_catalogo.yaml`."""
    return data_file("loja_catalogo.yaml")


@cache
def person_names() -> tuple[list[str], list[str]]:
    """Devolve os nomes dos clientes e dos vendedores, sem repetição, iguais em toda semente."""
    faker = Faker("pt_BR")
    faker.seed_instance(NAMES_SEED)
    sellers = sum(catalog()["vendedores_por_regiao"].values())
    names: dict[str, None] = {}
    while len(names) < N_CLIENTS + sellers:
        names[f"{faker.first_name()} {faker.last_name()}"] = None
    return list(names)[:N_CLIENTS], list(names)[N_CLIENTS:]


def create_shop(path: Path, seed: int) -> Path:
    """Grava em `path` o banco da semente `seed`; o arquivo só aparece quando está completo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, closing(sqlite3.connect(temporary)) as connection:
        connection.executescript((DATA_DIR / "loja_schema.sql").read_text(encoding="utf-8"))
        _fill(connection, random.Random(seed))
        connection.commit()
    return path


def create_missing(config: Config) -> None:
    """Gera a loja que responde perguntas, se falta; o banco do usuário é com ele."""
    path = config.databases[0]
    if config.database.custom is None and not path.is_file():
        create_shop(path, config.database.seeds[0])


def _fill(connection: sqlite3.Connection, rng: random.Random) -> None:
    tables = {"clientes": _clients(rng), "vendedores": _sellers(), "produtos": _products(rng)}
    clients, sellers, products = tables.values()
    tables["pedidos"] = orders = _orders(rng, clients, sellers)
    tables["itens_pedido"] = items = _items(rng, orders, products)
    tables["avaliacoes"] = _reviews(rng, orders, items, products)
    for table, rows in tables.items():
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def _day(rng: random.Random, last: date = LAST_DAY) -> date:
    return FIRST_DAY + timedelta(days=rng.randrange((last - FIRST_DAY).days + 1))


def _clients(rng: random.Random) -> list[tuple]:
    cities, weights = catalog()["cidades"], catalog()["peso_uf"]
    every_city = [(uf, city) for uf, names in cities.items() for city in names]
    uf_weights = [weights.get(uf, 1) for uf in cities]
    rows = []
    for position, name in enumerate(person_names()[0]):
        uf = rng.choices(list(cities), uf_weights)[0]
        city = rng.choices(cities[uf], [3] + [1] * (len(cities[uf]) - 1))[0]
        # Os primeiros garantem que toda cidade tenha clientes; os demais seguem os pesos.
        if position < len(every_city):
            uf, city = every_city[position]
        joined = _day(rng, last=date(2022, 2, 28)) if rng.random() < 0.25 else _day(rng)
        rows.append((position + 1, name, city, uf, joined.isoformat()))
    return rows


def _sellers() -> list[tuple]:
    regions = Counter(catalog()["vendedores_por_regiao"]).elements()
    people = zip(person_names()[1], regions, strict=True)
    return [(number, *person) for number, person in enumerate(people, 1)]


def _products(rng: random.Random) -> list[tuple]:
    entries = [(n, c) for c, group in catalog()["produtos"].items() for n in group["nomes"]]
    empty = set(rng.sample(range(len(entries)), OUT_OF_STOCK))
    rows = []
    for position, (name, category) in enumerate(entries):
        low, high = catalog()["produtos"][category]["preco"]
        price = low * (high / low) ** rng.random()
        stock = 0 if position in empty else rng.randint(1, 200)
        rows.append((position + 1, name, category, round(price, 2), stock))
    return rows


def _orders(rng: random.Random, clients: list[tuple], sellers: list[tuple]) -> list[tuple]:
    idle = set(rng.sample(range(len(clients)), NEVER_ORDERED))
    buyers = [(c[0], c[4], rng.paretovariate(1.6)) for i, c in enumerate(clients) if i not in idle]
    pioneer = min(buyers, key=lambda buyer: buyer[1])
    resting = set(rng.sample(range(len(sellers)), IDLE_SELLERS))
    active = [s[0] for i, s in enumerate(sellers) if i not in resting]
    seller_weights = [rng.uniform(0.5, 2) for _ in active]
    days = sorted(_day(rng) for _ in range(N_ORDERS))
    rows = []
    for number, day in enumerate(days, 1):
        text = max(day.isoformat(), pioneer[1])
        known = [b for b in buyers if b[1] <= text]
        client = rng.choices(known, [b[2] for b in known])[0][0]
        seller = rng.choices(active, seller_weights)[0]
        status = rng.choices(list(STATUS_WEIGHTS), STATUS_WEIGHTS.values())[0]
        payment = rng.choices(list(PAYMENT_WEIGHTS), PAYMENT_WEIGHTS.values())[0]
        rows.append((number, client, seller, text, status, payment))
    return rows


def _items(rng: random.Random, orders: list[tuple], products: list[tuple]) -> list[tuple]:
    unsold = set(rng.sample(range(len(products)), NEVER_SOLD))
    sold = [p for i, p in enumerate(products) if i not in unsold]
    popularity = [rng.paretovariate(1.8) for _ in sold]
    sizes = [1] * len(orders)
    while sum(sizes) < N_ITEMS:
        chosen = rng.randrange(len(sizes))
        if sizes[chosen] < 6:
            sizes[chosen] += 1
    rows = []
    for order, size in zip(orders, sizes, strict=True):
        basket: dict[int, tuple] = {}
        while len(basket) < size:
            product = rng.choices(sold, popularity)[0]
            basket[product[0]] = product
        for product in basket.values():
            price = max(5.0, round(product[3] * rng.uniform(0.85, 1.05), 2))
            quantity = rng.choices([1, 2, 3, 4, 5], [50, 24, 13, 8, 5])[0]
            rows.append((len(rows) + 1, order[0], product[0], quantity, price))
    return rows


def _reviews(
    rng: random.Random, orders: list[tuple], items: list[tuple], products: list[tuple]
) -> list[tuple]:
    silent = set(rng.sample(range(1, len(products) + 1), NO_REVIEW))
    quality = {p[0]: rng.choice([1.5, 2.6, 3.4, 3.8, 4.2, 4.6]) for p in products}
    by_id = {order[0]: order for order in orders}
    purchases = [item for item in items if item[2] not in silent]
    rows = []
    for item in sorted(rng.sample(purchases, N_REVIEWS)):
        order = by_id[item[1]]
        grade = min(5, max(1, round(rng.gauss(quality[item[2]], 0.8))))
        day = min(LAST_DAY, date.fromisoformat(order[3]) + timedelta(days=rng.randint(3, 40)))
        rows.append((len(rows) + 1, item[2], order[1], grade, day.isoformat()))
    return rows
