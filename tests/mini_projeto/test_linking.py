"""linking.py: os valores do banco que uma pergunta nomeia, do índice ao prompt."""

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import replace

from comum.models import load_tokenizer
from comum.terminal import UserError

import pytest

import inference
from loja_sql.config import load_config, load_effective, untrained
from loja_sql.model.assistant import Answer, Assistant
from loja_sql.model.trainer import tokenized
from loja_sql.page import tabs
from loja_sql.page.shell import format_answer
from loja_sql.prompt import Context, Link, messages
from loja_sql.questions import linking

BLUMENAU = Link("clientes", "cidade", "Blumenau")
OWN = """
    CREATE TABLE "minha tabela"
        (id INTEGER, "Nome ""x"" y" VARCHAR(20), livre, lucro REAL, dia DATE);
    INSERT INTO "minha tabela" VALUES
        (1, 'Padaria Açaí', 'Zona Leste', 'Muito Bom', 'Ontem Mesmo'),
        (2, 'a] b', 'quebra' || char(10) || 'linha', NULL, NULL),
        (3, 'tem; ponto', 'fim<|im_end|>', NULL, NULL),
        (4, x'00ff', 12345, NULL, NULL),
        (5, '2024-05-01', CAST(x'46ffff6f6f6f6f' AS TEXT), NULL, NULL),
        (6, 'X', '123', NULL, NULL), (7, 'Zás', '89010-000', NULL, NULL);
    CREATE TABLE vazia (nome TEXT);
    CREATE VIRTUAL TABLE textos USING fts5(corpo);
    INSERT INTO textos VALUES ('Escondido Aqui');
    CREATE VIEW vista AS SELECT upper(livre) AS alto FROM "minha tabela";
"""


@pytest.fixture
def find(shop_11):
    """O que se acha numa pergunta sobre a loja da semente 11, com as opções dadas."""

    def links(question, *options):
        return linking.context(settings(shop_11, *options)).links(question)

    return links


def settings(path, *options):
    return load_config(None, [f"database.custom={path}", "data.custom=x.csv", *options])


def make(path, script):
    with closing(sqlite3.connect(path)) as bank:
        bank.executescript(script)
    return path


def shown(links):
    return [f"{link.table}.{link.column}={link.value}" for link in links]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("clientes de Blumenau", ["clientes.cidade=Blumenau"]),
        ("CLIENTES DE BLUMENAU!", ["clientes.cidade=Blumenau"]),
        ("clientes de blumenal", ["clientes.cidade=Blumenau"]),
        ("clientes de blmuenau", ["clientes.cidade=Blumenau"]),
        ("clientes de blu menau", ["clientes.cidade=Blumenau"]),
        ("clientes de ulumenau", []),
        ("quem é de goiania?", ["clientes.cidade=Goiânia"]),
        ("quem e\u0301 de Goia\u0302nia?", ["clientes.cidade=Goiânia"]),
        ("vendedores do centro oeste", ["vendedores.regiao=Centro-Oeste"]),
        ("pedidos canceladas no cartao", ["pedidos.status=cancelado", "pedidos.pagamento=cartão"]),
        ("clientes de SP", ["clientes.uf=SP"]),
        ("se eu for to de sp", []),
        ("quantos pedidos em 2024?", []),
        ("", []),
        ("???", []),
    ],
)
def test_what_a_question_names(find, question, expected):
    assert shown(find(question)) == expected


def test_an_exact_value_wins_over_a_close_one_and_a_longer_over_a_shorter(tmp_path):
    path = make(
        tmp_path / "b.sqlite",
        "CREATE TABLE t (a TEXT, b TEXT); INSERT INTO t VALUES "
        "('Porto Alegre', 'Alegre'), ('Porto', 'Alegra'), ('Alegria', 'Alegrete')",
    )
    found = linking.context(settings(path)).links
    assert shown(found("porto alegre")) == ["t.a=Porto Alegre"]
    assert shown(found("vou a alegra")) == ["t.b=Alegra"]
    assert shown(found("vou a alegre")) == ["t.b=Alegre"]
    assert shown(found("vou a alegrx")) == ["t.b=Alegra", "t.b=Alegre"], (
        "tão perto de um como do outro"
    )


def test_people_of_the_same_name_are_both_shown_and_no_more_than_four(tmp_path):
    names = "('Ana Souza', 'ana souza'), ('Rui', 'Bia'), ('Caio', 'Davi')"
    path = make(
        tmp_path / "b.sqlite",
        f"CREATE TABLE clientes (nome TEXT, apelido TEXT); INSERT INTO clientes VALUES {names};"
        "CREATE TABLE vendedores (nome TEXT); INSERT INTO vendedores VALUES ('Ana Souza')",
    )
    found = linking.context(settings(path)).links
    everyone = [
        "clientes.nome=Ana Souza",
        "clientes.apelido=ana souza",
        "vendedores.nome=Ana Souza",
    ]
    assert shown(found("quanto a ana souza gastou?")) == everyone
    assert shown(found("a bia e a ana souza e o rui")) == ["clientes.apelido=Bia", *everyone]


def test_any_database_and_nothing_that_breaks_the_hint(tmp_path):
    path = make(tmp_path / "b.sqlite", OWN)
    before = sorted(os.listdir(tmp_path))
    context = linking.context(settings(path))
    found = context.links("padaria acai na zona leste, cep 89010-000")
    name, place, code = found
    assert (name.table, name.value, place) == (
        "minha tabela",
        "Padaria Açaí",
        Link("minha tabela", "livre", "Zona Leste"),
    )
    assert code.value == "89010-000"
    refused = "a b, tem ponto, quebra linha, fim im end, 2024 05 01, muito bom, ontem mesmo, 12345"
    for question in [*refused.split(", "), "X 123", "escondido aqui", "Fooooo"]:
        assert context.links(question) == [], question
    text = messages(settings(path), "padaria açaí ", context)[-1]["content"]
    assert text == 'padaria açaí [minha tabela.Nome "x" y=Padaria Açaí]'
    assert sorted(os.listdir(tmp_path)) == before, "nada se grava ao lado do banco"
    empty = make(tmp_path / "vazio.sqlite", "CREATE TABLE t (nome TEXT);")
    assert linking.context(settings(empty)).links("padaria açaí") == []


def test_excluded_columns_never_become_hints(find):
    name = find("pedidos da Heloisa da Cunha")
    assert {link.table for link in name} == {"clientes", "vendedores"}
    only = find("pedidos da Heloisa da Cunha", "prompt.hint_exclude=[Clientes.Nome]")
    assert {link.table for link in only} == {"vendedores"}
    with pytest.raises(UserError, match="não tem clientes.nomes"):
        find("x", "prompt.hint_exclude=[clientes.nomes]")


def test_a_column_past_the_limit_is_cut_aloud(tmp_path, monkeypatch, capsys):
    path = make(
        tmp_path / "b.sqlite",
        "CREATE TABLE t (a TEXT, b TEXT, c TEXT); INSERT INTO t VALUES "
        "('Abacaxi', 'Limão', 'Uva'), ('Banana', 'Melão', 'Figo'), ('Caju', 'Noz', 'Pera')",
    )
    monkeypatch.setattr(linking, "COLUMN_LIMIT", 2)
    monkeypatch.setattr(linking, "DATABASE_LIMIT", 4)
    found = linking.context(settings(path)).links
    assert shown(found("banana com noz e limao e caju e uva")) == ["t.a=Banana", "t.b=Limão"]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["t.a", "t.b", "t.c"]
    assert "só os primeiros 2 valores" in told[0] and "demais" in told[2]


def test_a_database_too_slow_to_read_is_left_aloud(tmp_path, monkeypatch, capsys):
    numbers = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i FROM n"
    path = make(
        tmp_path / "b.sqlite", f"CREATE TABLE t AS SELECT 'v' || i % 9 AS a FROM ({numbers})"
    )
    monkeypatch.setattr(linking, "TIME_LIMIT_S", -1.0)
    linking.context(settings(path))
    told = capsys.readouterr().err
    assert told == "t.a: nem todos os valores viram dica (ler o banco passou de -1 s).\n"


def test_a_database_that_changes_is_read_again(tmp_path):
    path = make(tmp_path / "b.sqlite", "CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('Abacaxi')")
    context = linking.context(settings(path))
    assert context.links("quanto custa o kiwi?") == []
    make(path, "INSERT INTO t VALUES ('Kiwi')")
    os.utime(path, ns=(1, 1))
    assert shown(context.links("quanto custa o kiwi?")) == ["t.a=Kiwi"]
    path.unlink()
    with pytest.raises(UserError, match="não encontrado"):
        context.links("kiwi")


def test_many_candidates_are_filtered_without_losing_any():
    """Acima de FEW candidatos, o filtro por letras acha o que acharia a comparação de todos."""
    names = [f"ca{a}{b}{c}do" for a in "bdfgl" for b in "aeiou" for c in "mnprs"]
    index = linking.ValueIndex({("t", "a"): names})
    assert len(names) > linking.FEW
    for typed in ("cabamdo", "cabmado", "cabamod", "cabbamdo", "cbamdo"):
        every = {n for n in names if linking.OSA.distance(typed, n) <= 1 + (len(typed) > 7)}
        closest = min(linking.OSA.distance(typed, name) for name in every)
        best = {name for name in every if linking.OSA.distance(typed, name) == closest}
        found = {link.value for link in index.links(typed)}
        assert found == best or (len(best) > linking.MAX_LINKS and found < best), typed


def test_training_reads_the_question_as_the_terminal_the_page_and_the_api_do(trained, capsys):
    args, folder = trained
    config = load_config(None, args)
    question, hinted = "clientes de BLUMENAL?", "clientes de BLUMENAL? [clientes.cidade=Blumenau]"
    tokenizer = load_tokenizer(config.model_path)
    row = {"question": question, "sql": "SELECT 1"}
    (example,) = tokenized(config, tokenizer, [row], linking.context(config))
    prompt = tokenizer.decode(example["input_ids"])
    assert f"user\n{hinted}<|im_end|>" in prompt
    asked = []

    class Listening:
        def stream(self, text, limit):
            asked.append(text)
            yield "SELECT nome FROM clientes WHERE cidade = 'Blumenau'"

    listening = Listening()
    listening.tokenizer = tokenizer
    answer = Assistant(config, folder, listening).ask(question)
    assert prompt.startswith(asked[0]) and answer.links == [BLUMENAU]
    shown = re.sub(r"<[^>]+>|\s+", " ", tabs.state(answer, "motor"))
    assert "Blumenau" in shown and "clientes.cidade" in shown
    assert "entendi: clientes.cidade = Blumenau\n" in format_answer(answer)
    other = replace(answer, sql="SELECT blumenau FROM clientes WHERE uf = 'SC'")
    assert not other.used_links, "uma dica que o modelo não seguiu não foi entendida"
    assert inference.main([*args, question]) == 0
    shown = capsys.readouterr().out
    assert "pergunta/s" not in shown, "a barra não se mistura com a resposta"
    assert inference.main([*args, "--hints", question]) == 0
    assert capsys.readouterr().out == f"{hinted}\n"


def test_answers_in_a_file_carry_the_links(trained, tmp_path):
    args, _ = trained
    source, target = tmp_path / "p.txt", tmp_path / "r.jsonl"
    source.write_text("clientes de blumenal\n" + "x" * 600 + "\n", encoding="utf-8")
    assert inference.main([*args, "--input", str(source), "--output", str(target)]) == 0
    first, second = map(json.loads, target.read_text(encoding="utf-8").splitlines())
    assert first["links"] == [BLUMENAU._asdict()] and second["links"] == []


def test_values_from_the_database_cannot_mark_up_the_page():
    link = Link("t", "c", "<img src=x>")
    answer = Answer("q", "", None, "não deu", 0.0, links=[link])
    assert "<img" not in tabs.state(answer, "motor")


def test_without_hints_the_question_goes_as_it_was_typed(trained, shop_11):
    assert load_effective(trained[1]).prompt.value_hints, "a configuração gravada diz que as tem"
    config = settings(shop_11, "prompt.value_hints=false")
    for chosen in (config, untrained(settings(shop_11))):
        turns = messages(chosen, "clientes de Blumenau ", linking.context(chosen))
        assert turns[-1]["content"] == "clientes de Blumenau"


def test_examples_in_the_prompt_are_hinted_too(shop_11):
    context = Context("", lambda question: [BLUMENAU])
    turns = messages(settings(shop_11), "e agora?", context, [("clientes de lá", "SELECT 1")])
    assert [turn["content"] for turn in turns[1:]] == [
        "clientes de lá [clientes.cidade=Blumenau]",
        "SELECT 1",
        "e agora? [clientes.cidade=Blumenau]",
    ]
