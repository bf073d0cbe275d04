"""shop.py: a loja tem os volumes e as lacunas que as perguntas exigem, em qualquer semente."""

import hashlib
import sqlite3

import pytest

from loja_sql.shop import STATUS_WEIGHTS, catalog, create_shop, person_names

SEEDS = (11, 77)
YEARS = ["2022", "2023", "2024", "2025"]
VOLUMES = {
    "clientes": 600,
    "vendedores": 24,
    "produtos": 200,
    "pedidos": 4000,
    "itens_pedido": 10_000,
    "avaliacoes": 2500,
}
CATEGORIES = {
    "eletrônicos",
    "livros",
    "brinquedos",
    "alimentos",
    "roupas",
    "móveis",
    "esportes",
    "beleza",
}
PAYMENTS = {"pix", "boleto", "cartão"}
CAPITALS = {
    "AC": "Rio Branco",
    "AL": "Maceió",
    "AP": "Macapá",
    "AM": "Manaus",
    "BA": "Salvador",
    "CE": "Fortaleza",
    "DF": "Brasília",
    "ES": "Vitória",
    "GO": "Goiânia",
    "MA": "São Luís",
    "MT": "Cuiabá",
    "MS": "Campo Grande",
    "MG": "Belo Horizonte",
    "PA": "Belém",
    "PB": "João Pessoa",
    "PR": "Curitiba",
    "PE": "Recife",
    "PI": "Teresina",
    "RJ": "Rio de Janeiro",
    "RN": "Natal",
    "RS": "Porto Alegre",
    "RO": "Porto Velho",
    "RR": "Boa Vista",
    "SC": "Florianópolis",
    "SP": "São Paulo",
    "SE": "Aracaju",
    "TO": "Palmas",
}


class Shop:
    """Uma loja gerada: o arquivo e uma consulta curta."""

    def __init__(self, path):
        self.path = path
        self.connection = sqlite3.connect(path)

    def rows(self, sql):
        return self.connection.execute(sql).fetchall()

    def column(self, sql):
        return [row[0] for row in self.rows(sql)]

    def value(self, sql):
        return self.rows(sql)[0][0]


@pytest.fixture(scope="module")
def shops(tmp_path_factory, shop_11):
    folder = tmp_path_factory.mktemp("lojas")
    opened = {seed: Shop(create_shop(folder / f"loja_{seed}.sqlite", seed)) for seed in SEEDS[1:]}
    opened = {SEEDS[0]: Shop(shop_11), **opened}
    yield opened
    for shop in opened.values():
        shop.connection.close()


@pytest.fixture(params=SEEDS)
def shop(request, shops):
    return shops[request.param]


@pytest.mark.parametrize("table", VOLUMES)
def test_volumes(shop, table):
    """Cada tabela tem o número de linhas prometido, com ids de 1 a n."""
    ids = shop.column(f"SELECT id FROM {table} ORDER BY id")
    assert ids == list(range(1, VOLUMES[table] + 1))


def test_foreign_keys_and_integrity(shop):
    """Nenhuma referência quebrada, e o arquivo passa na conferência do SQLite."""
    assert shop.rows("PRAGMA foreign_key_check") == []
    assert shop.column("PRAGMA integrity_check") == ["ok"]


def test_every_uf_has_its_capital_and_another_city(shop):
    """As 27 UFs, cada uma com clientes na capital e em pelo menos mais uma cidade."""
    cities = {}
    for uf, city in shop.rows("SELECT DISTINCT uf, cidade FROM clientes"):
        cities.setdefault(uf, set()).add(city)
    assert cities.keys() == CAPITALS.keys()
    for uf, capital in CAPITALS.items():
        assert capital in cities[uf], uf
        assert len(cities[uf]) >= 2, uf


def test_city_always_agrees_with_uf(shop):
    """Nenhuma cidade aparece em duas UFs nem fora da que o catálogo lhe dá."""
    twice = "SELECT cidade FROM clientes GROUP BY cidade HAVING COUNT(DISTINCT uf) > 1"
    assert shop.rows(twice) == []
    known = {(uf, city) for uf, names in catalog()["cidades"].items() for city in names}
    assert set(shop.rows("SELECT uf, cidade FROM clientes")) == known


def test_sellers_cover_every_region(shop):
    """Há vendedores nas cinco regiões."""
    regions = {"Norte", "Nordeste", "Centro-Oeste", "Sudeste", "Sul"}
    assert set(shop.column("SELECT regiao FROM vendedores")) == regions


def test_products_fill_every_category_within_the_domain(shop):
    """As oito categorias, sem nome repetido, com preço e estoque no domínio do esquema."""
    assert set(shop.column("SELECT categoria FROM produtos")) == CATEGORIES
    names = shop.column("SELECT nome FROM produtos")
    assert len(set(names)) == len(names)
    assert shop.value("SELECT MIN(preco) >= 5 AND MAX(preco) <= 8000 FROM produtos") == 1
    assert shop.value("SELECT MIN(estoque) = 0 AND MAX(estoque) <= 200 FROM produtos") == 1


def test_product_belongs_to_its_category(shop):
    """O nome e a faixa de preço de cada produto são os da sua categoria no catálogo."""
    groups = catalog()["produtos"]
    for name, category, price in shop.rows("SELECT nome, categoria, preco FROM produtos"):
        low, high = groups[category]["preco"]
        assert name in groups[category]["nomes"]
        assert low <= price <= high, name


@pytest.mark.parametrize(
    ("gap", "sql"),
    [
        (
            "clientes que nunca compraram",
            "SELECT COUNT(*) FROM clientes WHERE id NOT IN (SELECT cliente_id FROM pedidos)",
        ),
        (
            "clientes que nunca compraram, em mais de uma UF",
            "SELECT COUNT(DISTINCT uf) - 1 FROM clientes "
            "WHERE id NOT IN (SELECT cliente_id FROM pedidos)",
        ),
        (
            "produtos nunca vendidos",
            "SELECT COUNT(*) FROM produtos WHERE id NOT IN (SELECT produto_id FROM itens_pedido)",
        ),
        ("produtos sem estoque", "SELECT COUNT(*) FROM produtos WHERE estoque = 0"),
        (
            "produtos sem avaliação",
            "SELECT COUNT(*) FROM produtos WHERE id NOT IN (SELECT produto_id FROM avaliacoes)",
        ),
        (
            "vendedores sem pedidos",
            "SELECT COUNT(*) FROM vendedores WHERE id NOT IN (SELECT vendedor_id FROM pedidos)",
        ),
        (
            "produtos bem avaliados",
            "SELECT COUNT(*) FROM (SELECT produto_id FROM avaliacoes GROUP BY produto_id "
            "HAVING AVG(nota) >= 4)",
        ),
        (
            "produtos mal avaliados",
            "SELECT COUNT(*) FROM (SELECT produto_id FROM avaliacoes GROUP BY produto_id "
            "HAVING AVG(nota) <= 2)",
        ),
        (
            "clientes com mais de um pedido",
            "SELECT COUNT(*) FROM (SELECT 1 FROM pedidos GROUP BY cliente_id HAVING COUNT(*) > 1)",
        ),
    ],
)
def test_gaps_that_questions_ask_for(shop, gap, sql):
    """Toda lacuna de que uma pergunta fala existe."""
    count = shop.value(sql)
    assert count > 0, gap


def test_gaps_are_the_exception(shop):
    """Quem nunca comprou, nunca vendeu ou não tem estoque é minoria."""
    never = shop.value(
        "SELECT COUNT(*) FROM clientes WHERE id NOT IN (SELECT cliente_id FROM pedidos)"
    )
    unsold = shop.value(
        "SELECT COUNT(*) FROM produtos WHERE id NOT IN (SELECT produto_id FROM itens_pedido)"
    )
    assert never < VOLUMES["clientes"] / 3
    assert unsold < VOLUMES["produtos"] / 3
    assert shop.value("SELECT COUNT(*) FROM produtos WHERE estoque = 0") < VOLUMES["produtos"] / 3


def test_every_month_from_2022_to_2025_has_orders(shop):
    """Os 48 meses têm pedidos, e nenhum outro mês tem."""
    months = shop.column("SELECT DISTINCT strftime('%Y-%m', data) FROM pedidos ORDER BY 1")
    assert months == [f"{year}-{month:02}" for year in YEARS for month in range(1, 13)]


def test_every_status_and_payment_occurs_in_every_year(shop):
    """Em cada ano há os cinco status e as três formas de pagamento."""
    for year in YEARS:
        where = f"WHERE data LIKE '{year}%'"
        assert set(shop.column(f"SELECT status FROM pedidos {where}")) == set(STATUS_WEIGHTS)
        assert set(shop.column(f"SELECT pagamento FROM pedidos {where}")) == PAYMENTS


def test_domains_of_items_and_reviews(shop):
    """Quantidade de 1 a 5, notas de 1 a 5, preço positivo; todo pedido tem item sem repetir."""
    assert set(shop.column("SELECT quantidade FROM itens_pedido")) == {1, 2, 3, 4, 5}
    assert set(shop.column("SELECT nota FROM avaliacoes")) == {1, 2, 3, 4, 5}
    assert shop.value("SELECT MIN(preco_unitario) FROM itens_pedido") >= 5
    assert shop.value("SELECT COUNT(DISTINCT pedido_id) FROM itens_pedido") == VOLUMES["pedidos"]
    repeated = "SELECT 1 FROM itens_pedido GROUP BY pedido_id, produto_id HAVING COUNT(*) > 1"
    assert shop.rows(repeated) == []


@pytest.mark.parametrize(
    ("table", "column"),
    [("clientes", "data_cadastro"), ("pedidos", "data"), ("avaliacoes", "data")],
)
def test_dates_are_real_and_within_the_period(shop, table, column):
    """Toda data existe no calendário, no formato AAAA-MM-DD, entre 2022 e 2025."""
    wrong = shop.rows(
        f"SELECT {column} FROM {table} WHERE date({column}) IS NOT {column} "
        f"OR {column} NOT BETWEEN '2022-01-01' AND '2025-12-31'"
    )
    assert wrong == []


def test_nobody_buys_before_joining_or_reviews_before_buying(shop):
    """O pedido não é anterior ao cadastro, e só avalia quem comprou, depois da compra."""
    early = (
        "SELECT pe.id FROM pedidos pe JOIN clientes c ON c.id = pe.cliente_id "
        "WHERE pe.data < c.data_cadastro"
    )
    assert shop.rows(early) == []
    orphans = (
        "SELECT a.id FROM avaliacoes a WHERE NOT EXISTS (SELECT 1 FROM pedidos pe "
        "JOIN itens_pedido i ON i.pedido_id = pe.id WHERE i.produto_id = a.produto_id "
        "AND pe.cliente_id = a.cliente_id AND pe.data <= a.data)"
    )
    assert shop.rows(orphans) == []


def test_people_have_unique_full_names(shop):
    """Cada pessoa tem nome e sobrenome, e nenhum nome se repete nem entre as duas tabelas."""
    names = shop.column("SELECT nome FROM clientes UNION ALL SELECT nome FROM vendedores")
    assert len(set(names)) == 624
    assert all(len(name.split()) >= 2 and name == name.strip() for name in names)


def test_names_are_the_same_in_every_seed(shops):
    """Perguntas citam nomes: pessoas e produtos não mudam com a semente."""
    for table in ("clientes", "vendedores", "produtos"):
        sql = f"SELECT id, nome FROM {table} ORDER BY id"
        first, *others = (shop.rows(sql) for shop in shops.values())
        assert others == [first] * len(others), table
    assert tuple(shops[SEEDS[0]].column("SELECT nome FROM clientes ORDER BY id")) == tuple(
        person_names()[0]
    )


def test_the_rest_changes_with_the_seed(shops):
    """Preços, pedidos, itens e notas mudam: é o que desmascara o acerto por sorte."""
    for sql in (
        "SELECT preco FROM produtos ORDER BY id",
        "SELECT cidade FROM clientes ORDER BY id",
        "SELECT cliente_id, status FROM pedidos ORDER BY id",
        "SELECT produto_id, quantidade FROM itens_pedido ORDER BY id",
        "SELECT nota FROM avaliacoes ORDER BY id",
        "SELECT id FROM produtos WHERE estoque = 0 ORDER BY id",
        "SELECT id FROM clientes WHERE id NOT IN (SELECT cliente_id FROM pedidos) ORDER BY id",
    ):
        results = [tuple(shop.rows(sql)) for shop in shops.values()]
        assert len(set(results)) == len(SEEDS), sql


def test_same_seed_gives_the_same_data(shops, tmp_path):
    """A mesma semente refaz a mesma loja, linha por linha, por cima da antiga."""
    path = tmp_path / "pasta nova" / "loja.sqlite"
    create_shop(path, SEEDS[1])
    assert create_shop(path, SEEDS[0]) == path
    again = Shop(path)
    digests = []
    for shop in (again, shops[SEEDS[0]]):
        digests.append(hashlib.sha256("\n".join(shop.connection.iterdump()).encode()).hexdigest())
    again.connection.close()
    assert digests[0] == digests[1]
    assert [p.name for p in path.parent.iterdir()] == ["loja.sqlite"], "sobrou arquivo temporário"


def test_an_interrupted_shop_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("loja_sql.shop._fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_shop(tmp_path / "loja.sqlite", SEEDS[0])
    assert not list(tmp_path.iterdir())
