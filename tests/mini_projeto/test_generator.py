"""slots.py e generator.py: perguntas sem remendos à mostra, com o SQL que as convenções pedem."""

import random
import re
from itertools import islice

import pytest
import sqlglot

from loja_sql.questions.generator import ALIASES, generate, grammar
from loja_sql.questions.slots import NUMBERS, STATUSES, UFS, draw, mask, plain
from loja_sql.shop import catalog, person_names
from loja_sql.sql.database import Database

N_PAIRS = 300
SLOTS = [
    "uf",
    "cidade",
    "categoria",
    "produto",
    "cliente",
    "vendedor",
    "status",
    "pagamento",
    "regiao",
    "preco",
    "estoque",
    "nota",
]
INTENTS = list(grammar()["intents"])


@pytest.fixture(scope="module")
def pairs():
    return list(islice(generate(random.Random(17)), N_PAIRS))


@pytest.fixture(scope="module")
def bank(shop_11):
    return Database(shop_11)


# --- sequência -----------------------------------------------------------------------------


def test_same_seed_same_sequence(pairs):
    """A mesma semente refaz a mesma sequência; outra faz outra."""
    assert list(islice(generate(random.Random(17)), N_PAIRS)) == pairs
    assert list(islice(generate(random.Random(18)), N_PAIRS)) != pairs


def test_sequence_does_not_depend_on_global_state(pairs):
    """Nem o gerador global de números aleatórios nem outra sequência em paralelo interferem."""
    state = random.getstate()
    random.seed(99)
    other = generate(random.Random(3))
    stream = generate(random.Random(17))
    mixed = [(next(stream), next(other))[0] for _ in range(N_PAIRS)]
    random.setstate(state)
    assert mixed == pairs


def test_intents_take_turns():
    """Cada volta passa por todas as intenções, uma vez cada."""
    stream = generate(random.Random(4))
    for _ in range(3):
        assert sorted(pair.intent for pair in islice(stream, len(INTENTS))) == sorted(INTENTS)


# --- a gramática ---------------------------------------------------------------------------


@pytest.mark.parametrize("intent", INTENTS)
def test_wordings_use_every_slot_the_sql_uses(intent):
    """Todo número sorteado e todo grupo que o SQL usa aparece em cada frase, e vice-versa."""
    spec = grammar()["intents"][intent]
    clauses = [spec.get(key, "") for key in ("select", "group", "having", "order", "limit")]
    needed = set(re.findall(r"\{(\w+)", " ".join([*clauses, *spec.get("where", [])])))
    needed |= {"f"} if spec.get("max_filters") else set()
    for wording in spec["wordings"]:
        assert set(re.findall(r"\{(\w+)", wording)) == needed, wording


def test_filters_have_several_phrases():
    """Cada filtro se diz de mais de um jeito, salvo os que já variam pelo valor."""
    for subject, filters in grammar()["filters"].items():
        for name, spec in filters.items():
            varied = name in ("estoque", "nota", "preco")
            assert varied or len(set(spec["phrases"])) >= 2, (subject, name)


# --- os pares ------------------------------------------------------------------------------


def test_questions_have_no_leftovers(pairs):
    """Nem marcador sobrando, nem espaço duplo ou antes da pontuação, nem pergunta vazia."""
    for pair in pairs:
        text = pair.question
        assert len(text) > 8, pair
        assert not re.search(r"[{}@]", text), pair
        assert not re.search(r"\s{2,}|\s[?.,!;:]|^[\s,:]|\s$", text), pair
        assert "None" not in text, pair


def test_sql_is_parseable_and_tidy(pairs):
    """O SQL é um SELECT que o sqlglot entende, sem marcador nem espaço duplo."""
    for pair in pairs:
        assert not re.search(r"[{}@]|\s{2,}|\n|;", pair.sql), pair
        assert isinstance(sqlglot.parse_one(pair.sql, read="sqlite"), sqlglot.exp.Select), pair


def test_sql_runs_on_the_shop(pairs, bank):
    """Todo SQL gerado executa na loja (o resultado pode ser vazio)."""
    for pair in pairs:
        bank.run(pair.sql)


def test_one_table_has_no_prefix_and_several_have(pairs):
    """Consulta de uma tabela só não usa prefixo; com JOIN, usa os apelidos de sempre."""
    single = [p for p in pairs if " JOIN " not in p.sql]
    joined = [p for p in pairs if " JOIN " in p.sql]
    assert single
    assert joined
    for pair in single:
        assert not re.search(rf"\b(?:{'|'.join(ALIASES)})\.\w", pair.sql), pair
    for pair in joined:
        tree = sqlglot.parse_one(pair.sql, read="sqlite")
        for table in [tree.args["from_"].this, *(join.this for join in tree.args["joins"])]:
            assert ALIASES[table.alias] == table.name, pair


def test_revenue_leaves_cancelled_orders_out_unless_a_status_is_named():
    """Vendas: sem status citado, `<> 'cancelado'`; com status, só ele; pedidos contam todos."""
    sales = {name for name, spec in grammar()["intents"].items() if spec["subject"] == "venda"}
    named = unnamed = 0
    for pair in islice(generate(random.Random(23)), 40 * len(INTENTS)):
        status = re.findall(r"(?:pe\.)?status = '(\w+)'", pair.sql.partition(" WHERE ")[2])
        excluded = "status <> 'cancelado'" in pair.sql
        if pair.intent not in sales:
            assert not excluded, pair
        elif status:
            assert not excluded, pair
            assert len(status) == 1, pair
            named += 1
            form = STATUSES[status[0]]
            assert re.search(rf"\b(?:{form}|{status[0]})\b", pair.question), pair
        else:
            assert excluded, pair
            assert not re.search(r"cancelad|status|pendente|entregue", pair.question.lower()), pair
            unnamed += 1
    assert named > 20
    assert unnamed > 100


def test_values_in_the_sql_are_said_in_the_question():
    """UF, cidade, categoria e nomes do SQL estão na pergunta limpa, em alguma das suas formas."""
    checked = 0
    for pair in islice(generate(random.Random(29)), 10 * len(INTENTS)):
        text = plain(pair.question)
        pattern = r"\b(uf|cidade|categoria|nome|regiao) = '([^']+)'"
        for column, value in re.findall(pattern, pair.sql):
            forms = [value]
            if column == "uf":
                forms += [UFS[value][0], UFS[value][3]]
            assert any(plain(form) in text for form in forms), pair
            checked += 1
    assert checked > 100


def test_limits_are_said_in_the_question():
    """O N de LIMIT N está na pergunta, em algarismos ou por extenso; LIMIT 1 dispensa."""
    words = dict(enumerate(NUMBERS))
    checked = 0
    for pair in islice(generate(random.Random(31)), 10 * len(INTENTS)):
        found = re.search(r"LIMIT (\d+)$", pair.sql)
        if not found or found[1] == "1":
            continue
        number = int(found[1])
        assert re.search(rf"\b(?:{number}|{words.get(number, number)})\b", pair.question), pair
        checked += 1
    assert checked > 20


# --- valores -------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", SLOTS)
def test_drawn_values_exist_in_the_shop(slot):
    """O valor sorteado é um dos que o banco tem; toda forma é texto sem sobras."""
    rng = random.Random(3)
    known = {
        "uf": set(UFS),
        "cidade": {c for names in catalog()["cidades"].values() for c in names},
        "categoria": set(catalog()["produtos"]),
        "produto": {n for g in catalog()["produtos"].values() for n in g["nomes"]},
        "cliente": set(person_names()[0]),
        "vendedor": set(person_names()[1]),
        "status": set(STATUSES),
        "pagamento": {"pix", "boleto", "cartão"},
        "regiao": {"Norte", "Nordeste", "Centro-Oeste", "Sudeste", "Sul"},
    }
    seen = set()
    for _ in range(200):
        value = draw(slot, rng)
        seen.add(value["sql"])
        assert slot not in known or value["sql"] in known[slot]
        for form in value.values():
            assert form == " ".join(form.split())
            assert form
    assert len(seen) > 2


def test_bare_ambiguous_city_is_never_drawn():
    """ "São Paulo" e "Rio de Janeiro" sozinhos são a UF: não se sorteiam como cidade."""
    rng = random.Random(4)
    drawn = {draw("cidade", rng)["sql"] for _ in range(2000)}
    assert len(drawn) > 50
    assert not drawn & {"São Paulo", "Rio de Janeiro"}


def test_periods_are_real_and_match_their_words(bank):
    """A condição de um período executa, seleciona só datas suas e o ano dito é o do SQL."""
    rng = random.Random(5)
    for _ in range(400):
        period = draw("periodo", rng, column="data")
        dates = re.findall(r"'(\d{4})-(\d\d)-(\d\d)'", period["sql"])
        for text in re.findall(r"'(\d{4}-\d\d-\d\d)'", period["sql"]):
            assert bank.run(f"SELECT date('{text}')").rows == [(text,)], period
        years = set(re.findall(r"\b(?:20\d\d)\b", period["nome"]))
        assert years <= set(re.findall(r"20\d\d", period["sql"])), period
        assert "@" not in period["sql"]
        if len(dates) == 2:
            assert dates[0] <= dates[1], period
        bank.run(f"SELECT COUNT(*) FROM pedidos WHERE {period['sql']}")


@pytest.mark.parametrize(
    ("words", "start", "end"),
    [
        ("1º semestre de 2024", "2024-01-01", "2024-06-30"),
        ("primeiro trimestre de 2023", "2023-01-01", "2023-03-31"),
        ("4º trimestre de 2025", "2025-10-01", "2025-12-31"),
    ],
)
def test_quarters_and_halves_have_the_right_ends(words, start, end):
    """Trimestres e semestres começam e acabam nos dias certos."""
    rng = random.Random(6)
    found = set()
    for _ in range(6000):
        period = draw("periodo", rng, column="data")
        if period["nome"] == words:
            found.add(period["sql"])
    assert found == {f"data BETWEEN '{start}' AND '{end}'"}


@pytest.mark.parametrize(("low", "high"), [(2, 10), (5, 60)])
def test_counts_stay_within_bounds(low, high):
    """Os números sorteados respeitam os limites da gramática."""
    rng = random.Random(7)
    numbers = {int(draw("n", rng, bounds=[low, high])["sql"]) for _ in range(1000)}
    assert numbers == set(range(low, high + 1))


@pytest.mark.parametrize(("low", "high"), [(50, 900), (1000, 9000), (10_000, 90_000)])
def test_money_says_what_it_means(low, high):
    """R$ 1.500,00, 1500 reais e "2 mil" valem o que o SQL diz."""
    rng = random.Random(8)
    for _ in range(300):
        value = draw("valor", rng, bounds=[low, high])
        text = value["nome"].removeprefix("R$ ").removesuffix(" reais").removesuffix(",00")
        factor = 1000 if text.endswith(" mil") else 1
        digits = text.removesuffix(" mil").replace(".", "")
        assert int(digits) * factor == int(value["sql"]), value


# --- molde ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Quantos clientes temos em Minas Gerais?", "quantos clientes temos em SP"),
        ("clientes mineiros", "CLIENTES GAÚCHOS!"),
        ("vendedoras mineiras", "vendedoras paulistas"),
        ("pedidos de março de 2024", "pedidos de dez de 2022"),
        ("pedidos em 2024", "pedidos em 2025?"),
        ("os 3 produtos mais caros", "os 10 produtos mais caros"),
        ("os três produtos mais caros", "os nove produtos mais caros"),
        ("pedidos feitos no pix", "pedidos feitos no cartão"),
        ("pedidos cancelados", "pedidos entregues"),
        ("vendedores do Sul", "vendedores do nordeste"),
        ("vendedores do Centro-Oeste", "vendedores do Norte"),
        ("faturamento de livros", "faturamento de brinquedos"),
        ("Preço do Berço", "preço do notebook gamer"),
        ("clientes de Juiz de Fora", "clientes de Campinas"),
        ("acima de R$ 1.500,00", "acima de r$ 9.000,00"),
    ],
)
def test_mask_joins_questions_that_differ_only_in_values(left, right):
    """Mesma pergunta com outros valores, caixa, acentos ou pontuação: mesmo molde."""
    assert mask(left) == mask(right)


def test_mask_joins_names_of_people():
    """Clientes e vendedores são todos pessoas."""
    clients, sellers = person_names()
    moulds = {mask(f"pedidos de {name}?") for name in [*clients[:50], *sellers]}
    assert len(moulds) == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("quantos clientes em SP", "quantos pedidos em SP"),
        ("clientes de SP", "clientes que não são de SP"),
        ("os 5 produtos mais caros", "os 5 produtos mais baratos"),
        ("pedidos antes de 2024", "pedidos depois de 2024"),
        ("faturamento por mês", "faturamento por ano"),
        ("faturamento em 2024", "faturamento de livros em 2024"),
        ("pedidos em março de 2024", "pedidos em 2024"),
        ("pedidos pagos", "pedidos no boleto"),
        ("clientes do Sul", "clientes de Santos"),
        ("nota média", "nota máxima"),
    ],
)
def test_mask_keeps_different_moulds_apart(left, right):
    """Perguntas diferentes, mesmo com os mesmos valores, têm moldes diferentes."""
    assert mask(left) != mask(right)


def test_mask_is_idempotent_under_case_and_accents(pairs):
    """Maiúsculas e acentos nunca mudam o molde."""
    for pair in pairs[:100]:
        assert mask(pair.question.upper()) == mask(pair.question)
        assert mask(plain(pair.question)) == mask(pair.question)


def test_wordings_of_an_intent_have_distinct_masks():
    """As frases da mesma intenção são moldes diferentes, não variações de pontuação."""
    for name, intent in grammar()["intents"].items():
        moulds = {mask(w.replace("{f}", "").replace("{g}", "")) for w in intent["wordings"]}
        assert len(moulds) >= 15, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("São  Paulo, SP!", "sao paulo sp"),
        ("ÀÉÎÕÜ ç", "aeiou c"),
        ("50% de R$ 10", "50% de r$ 10"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_plain(text, expected):
    """Minúsculas, sem acentos nem pontuação, com espaços simples."""
    assert plain(text) == expected
