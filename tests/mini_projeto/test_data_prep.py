"""data_prep.py: nada se perde, nada vaza do teste para o treino, e toda recusa diz por quê."""

import csv
import hashlib
import io
import json
import os
import sqlite3
from collections import Counter
from contextlib import closing
from copy import copy
from itertools import combinations, cycle, product

from comum.files import read_json, read_jsonl, write_jsonl
from comum.terminal import UserError

import pytest
import sqlglot

from data_prep import main, open_databases
from loja_sql.config import load_config, load_effective
from loja_sql.prompt import DECLINE
from loja_sql.questions import outputs, splits
from loja_sql.questions.checks import Checks
from loja_sql.questions.reading import Row, read_questions
from loja_sql.questions.sieve import UNANSWERABLE, Sieve
from loja_sql.questions.slots import mask, plain
from loja_sql.questions.splits import SPLITS, load_split, training_rows
from loja_sql.sql.database import Database, TrustedDatabase
from loja_sql.sql.features import KINDS, shape

OPINION_SQL = "SELECT COUNT(DISTINCT genero) FROM livros"
OWN_SPLITS = ("train", "validation", "test")
FUNCTIONS = {
    "o menor valor": "MIN({c})",
    "a soma": "SUM({c})",
    "o maior valor": "MAX({c})",
    "a média": "AVG({c})",
    "a amplitude": "MAX({c}) - MIN({c})",
    "a contagem sem repetição": "COUNT(DISTINCT {c})",
}
CONDITIONS = {
    "": "",
    " dos romances": " WHERE genero = 'romance'",
    " dos emprestados": " WHERE emprestado = 1",
    " por gênero": " GROUP BY genero",
}
COLUMNS = {"páginas": "paginas", "exemplares": "exemplares"}


def good_records():
    """96 pares de 48 esqueletos de SQL: duas redações de cada."""
    records = []
    parts = product(FUNCTIONS.items(), COLUMNS.items(), CONDITIONS.items())
    for (words, function), (what, column), (which, condition) in parts:
        sql = f"SELECT {function.format(c=column)} FROM livros{condition}"
        for start in (
            f"qual é {words} de {what}{which}?",
            f"me informe {words} no campo {what}{which}",
        ):
            records.append({"question": start, "sql": sql})
    return records


def create_library(path):
    genres = ["romance", "poesia", "conto"]
    rows = [(f"Livro {i}", genres[i % 3], 90 + 7 * i, 1 + i % 4, i % 2) for i in range(30)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE livros (id INTEGER PRIMARY KEY, titulo TEXT, genero TEXT,"
            " paginas INTEGER, exemplares INTEGER, emprestado INTEGER)"
        )
        connection.executemany("INSERT INTO livros VALUES (NULL, ?, ?, ?, ?, ?)", rows)
    return path


def line(question, sql):
    return json.dumps({"question": question, "sql": sql}, ensure_ascii=False).encode()


def jsonl(records):
    return b"".join(line(**record) + b"\n" for record in records)


class Library:
    """O banco e as perguntas de um usuário, numa pasta temporária."""

    variations = 0

    def __init__(self, folder):
        self.folder = folder
        self.database = create_library(folder / "biblioteca.sqlite")
        self.output = folder / "saida"

    def write(self, content: bytes, name="perguntas.jsonl"):
        self.questions = self.folder / name
        self.questions.write_bytes(content)
        return self

    def overrides(self):
        return [
            f"database.custom={self.database}",
            f"data.custom={self.questions}",
            f"data.output_dir={self.output}",
            "model.name=nenhum",
            f"data.variations={self.variations}",
        ]

    def prepare(self, *extra):
        assert main([*self.overrides(), *extra]) == 0
        return self

    def split(self, name):
        return load_split(load_config(None, self.overrides()), name)

    def accepted(self):
        return [row for name in OWN_SPLITS for row in self.split(name)]

    def rejected(self):
        return read_jsonl(self.output / "rejected.jsonl")

    def state(self):
        return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in self.output.iterdir()}

    def contents(self):
        return {p.name: p.read_bytes() for p in self.output.iterdir()}


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path).write(jsonl(good_records()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Uma biblioteca já preparada, com uma pergunta repetida. Só para leitura."""
    records = [*good_records(), good_records()[0]]
    return Library(tmp_path_factory.mktemp("biblioteca")).write(jsonl(records)).prepare()


# --- linhas malformadas --------------------------------------------------------------------

BAD_LINES = {  # nome: (linha do JSONL, parte do motivo)
    "json cortado": (b'{"question": "quantos livros?", "sql": "SELECT', "não é JSON"),
    "texto solto": (b"quantos livros? SELECT COUNT(*) FROM livros", "não é JSON"),
    "lista": (b'["quantos livros?", "SELECT COUNT(*) FROM livros"]', "não é um objeto"),
    "número": (b"42", "não é um objeto"),
    "nulo": (b"null", "não é um objeto"),
    "sem sql": (b'{"question": "quantos livros?"}', "faltam os campos"),
    "campo com outro nome": (b'{"pergunta": "a?", "sql": "SELECT 1"}', "faltam os campos"),
    "sql nulo": (b'{"question": "quantos livros?", "sql": null}', "faltam os campos"),
    "pergunta numérica": (b'{"question": 7, "sql": "SELECT 1"}', "faltam os campos"),
    "sql em lista": (b'{"question": "a?", "sql": ["SELECT 1"]}', "faltam os campos"),
    "sql em branco": (b'{"question": "quantos livros?", "sql": "  "}', "em branco"),
    "pergunta em branco": (b'{"question": "\\n", "sql": "SELECT 1"}', "em branco"),
    "latin-1": ('{"question": "média?", "sql": "SELECT 1"}'.encode("latin-1"), "letras perdidas"),
    "meio par unicode": (b'{"question": "a \\ud800?", "sql": "SELECT 1"}', "meio caractere"),
    "meio par em outro campo": (b'{"question": 1, "x": "\\ud800"}', "faltam os campos"),
    "número gigante": (b'{"question": ' + b"1" * 5000 + b"}", "não é JSON"),
    "aninhado demais": (b"[" * 100_000, "não é JSON"),
    "nul": (b"\0\0\0", "não é JSON"),
    "nul no texto": (b'{"question": "a\\u0000?", "sql": "SELECT 1"}', "NUL"),
    "comando de terminal": (b'{"question": "a \\u001b[31m?", "sql": "SELECT 1"}', "U+001B"),
    "chave repetida": (b'{"question": "a", "sql": "b", "question": "c"}', "duas vezes"),
}


BAD_SQL = {
    "erro de sintaxe": ("SELECT FROM WHERE", "analisador não entende"),
    "tabela errada": ("SELECT COUNT(*) FROM revistas", "não há a tabela revistas"),
    "escrita": ("DELETE FROM livros", "não é uma consulta SELECT"),
    "duas instruções": ("SELECT 1; DROP TABLE livros", "não é uma consulta SELECT"),
    "vazio": ("SELECT titulo FROM livros WHERE id < 0", "resultado vazio"),
    "só NULL": ("SELECT MAX(paginas) FROM livros WHERE id < 0", "só NULL"),
    "empate": ("SELECT titulo FROM livros ORDER BY exemplares DESC LIMIT 1", "empate no LIMIT"),
    "empate por apelido": (
        "SELECT genero, COUNT(*) AS n FROM livros GROUP BY 1 ORDER BY n LIMIT 1",
        "empate no LIMIT",
    ),
    "não acaba": (
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r",
        "limite de 0,3 s",
    ),
    "catálogo": ("SELECT name FROM sqlite_master", "não faz parte do banco"),
    "parênteses demais": ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "não entende"),
    "longo demais": ("SELECT 1" + " + 1" * 2000, "passa de 5000 caracteres"),
}


def test_every_line_ends_in_a_split_or_among_the_refused(library):
    """O que não serve sai com o seu lugar e o motivo; o resto se aproveita; o banco fica igual."""
    good = jsonl(good_records()).split(b"\n")[:-1]
    lines = [*good[:4], b"", *(text for text, _ in BAD_LINES.values()), *good[4:]]
    expected = {f"perguntas.jsonl:{n}": why for n, (_, why) in enumerate(BAD_LINES.values(), 6)}
    for name, (sql, reason) in BAD_SQL.items():
        lines.append(line(f"pergunta {name}?", sql))
        expected[f"own-{len(lines):05}"] = reason
    for repeated in (*good[:5], line("QUAL É A SOMA DE PAGINAS", "SELECT 1")):
        lines.append(repeated)
        expected[f"own-{len(lines):05}"] = "mesmo molde de own-"
    before = hashlib.sha256(library.database.read_bytes()).hexdigest()
    library.write(b"\n".join(lines) + b"\n").prepare("database.time_limit_s=0.3")
    assert hashlib.sha256(library.database.read_bytes()).hexdigest() == before
    accepted, rejected = library.accepted(), library.rejected()
    assert len(accepted) == len(good) and len(lines) == 1 + len(good) + len(rejected)
    found = {row["where"]: row["reason"] for row in rejected}
    assert found.keys() == expected.keys() and len(found) == len(rejected)
    assert {where for where, why in expected.items() if why not in found[where]} == set()
    ids = {row["id"] for row in accepted}
    assert len(ids) == len(good) and not ids & found.keys()


CSV_HEADER = "question,sql\n"
BAD_CSV = {
    "quantos?,SELECT 1, 2": "3 campos em vez de 2",
    "quantos?": "1 campos em vez de 2",
    ",SELECT 1": "em branco",
    "quantos?,": "em branco",
    "quantos?," + "x" * 200_000: "não é CSV",
}


def test_bad_csv_lines_are_reported_with_their_numbers(library):
    good = [f'"{r["question"]}","{r["sql"]}"' for r in good_records()]
    content = "\n".join(["question,sql", *good[:4], *BAD_CSV, *good[4:]])
    library.write(content.encode(), "perguntas.csv").prepare()
    assert len(library.accepted()) == len(good)
    rejected = library.rejected()
    assert [row["where"] for row in rejected] == [f"perguntas.csv:{n}" for n in range(6, 11)]
    assert all(why in row["reason"] for row, why in zip(rejected, BAD_CSV.values(), strict=True))


@pytest.mark.parametrize(("after", "words"), [(2, "das linhas 98 a 99"), (0, "não é CSV")])
def test_unclosed_quotes_never_glue_two_lines(library, after, words):
    """Aspas sem par não viram uma pergunta com SQL dentro: a recusa diz que linhas se perderam."""
    good = [f'"{r["question"]}","{r["sql"]}"\n' for r in good_records()]
    extra = ['"um engolido","SELECT 1"\n', '"outro aproveitado","SELECT 1"\n'][:after]
    broken = '"quantos livros,SELECT 1\n'
    library.write("".join([CSV_HEADER, *good, broken, *extra]).encode(), "perguntas.csv").prepare()
    questions = {row["question"] for row in library.accepted()}
    expected = {record["question"] for record in good_records()}
    assert questions == expected | ({"outro aproveitado"} if after else set())
    (rejected,) = library.rejected()
    assert rejected["where"] == f"perguntas.csv:{len(good) + 2}"
    assert words in rejected["reason"]


SAME_SQL = "question,sql\n" + "".join(f"pergunta {w},SELECT 1\n" for w in ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vazio.csv", b"", "está vazio"),
        ("so_cabecalho.csv", b"question,sql\n", "0 perguntas aproveitáveis"),
        ("outras.csv", b"pergunta,sql\na,SELECT 1\n", "falta a coluna question"),
        ("so_uma.jsonl", jsonl(good_records()[:1]), "1 perguntas aproveitáveis"),
        ("mesmo_sql.csv", SAME_SQL.encode(), "ficou vazio"),
    ],
)
def test_unusable_file_is_a_user_error(library, name, content, words):
    """Arquivo errado: uma frase com o nome dele, e nenhuma divisão gravada."""
    library.write(content, name)
    with pytest.raises(UserError) as caught:
        main(library.overrides())
    assert words in str(caught.value)
    assert name in str(caught.value)
    written = {path.name for path in library.output.glob("*")}
    assert written <= {"rejected.jsonl"}


def test_reasons_are_written_even_when_nothing_is_left(library):
    """Se todas as linhas são ruins, o erro diz onde estão os motivos, e eles estão lá."""
    library.write(b"1\n2\n3\n")
    with pytest.raises(UserError, match="rejected.jsonl"):
        main(library.overrides())
    where = [row["where"] for row in library.rejected()]
    assert where == [f"perguntas.jsonl:{number}" for number in (1, 2, 3)]


def test_missing_files_are_user_errors(library, tmp_path):
    """Perguntas ou banco ausentes, ou um banco que não é SQLite."""
    questions, library.questions = library.questions, tmp_path / "nada.jsonl"
    with pytest.raises(UserError, match="nada.jsonl não existe"):
        main(library.overrides())
    library.questions = questions
    library.database = tmp_path / "nada.sqlite"
    with pytest.raises(UserError, match="banco de dados não encontrado.*nada.sqlite"):
        main(library.overrides())
    library.database = library.questions
    with pytest.raises(UserError, match="não é um banco SQLite"):
        main(library.overrides())


# --- nada se perde -------------------------------------------------------------------------


def test_contents_survive_untouched(library):
    """Acentos, aspas e quebras chegam às divisões como foram escritos; sai só o ; do fim."""
    records = good_records()
    question, sql = 'Qual é a "média"\nde páginas — à vista?', "SELECT 'ação; é' FROM livros"
    records[0] = {"question": f"{question}  ", "sql": f"{sql} ; "}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "question", "sql"])
    writer.writeheader()
    writer.writerows({"id": i, **record} for i, record in enumerate(records))
    library.write(text.getvalue().encode("utf-8-sig"), "perguntas.csv").prepare()
    found = {row["question"]: row["sql"] for row in library.accepted()}
    assert found[question] == sql and len(found) == len(records)


def as_csv(records, delimiter=","):
    quoted = [f'"{r["question"]}"{delimiter}"{r["sql"]}"\r\n' for r in records]
    return "".join([f"question{delimiter}sql\r\n", *quoted])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom_e_crlf.jsonl", b"\xef\xbb\xbf" + jsonl(good_records()).replace(b"\n", b"\r\n")),
        ("planilha.csv", as_csv(good_records(), ";").encode("utf-8-sig")),
        ("cp1252.csv", as_csv(good_records()).encode("cp1252")),
        ("utf16.csv", as_csv(good_records()).encode("utf-16")),
        ("lista.json", json.dumps(good_records(), indent=1).encode()),
        ("numa_linha.json", json.dumps(good_records()).encode()),
    ],
)
def test_what_other_programs_write_is_read(library, name, content):
    library.write(content, name).prepare()
    found = {row["id"]: (row["question"], row["sql"]) for row in library.accepted()}
    assert set(found.values()) == {(r["question"], r["sql"]) for r in good_records()}
    assert library.rejected() == []


def test_questions_that_differ_in_a_value_stay_when_their_sql_differs(library):
    """Números, sinais e palavras que na loja seriam valores (livros, móveis, maio)."""
    asked = [(f"livros com mais de {n} páginas", f"paginas > {n}") for n in range(90, 130)]
    asked += [("livros acima de -5", "paginas > -5"), ("livros acima de 5", "paginas > 5")]
    asked += [("livros acima de 1,5", "exemplares > 1.5"), ("livros acima de 15", "paginas > 15")]
    asked += [(f"livros de {g}", f"titulo <> '{g}'") for g in ("roupas", "móveis", "maio", "SP")]
    records = [{"question": q, "sql": f"SELECT COUNT(*) FROM livros WHERE {c}"} for q, c in asked]
    twin = {"question": "LIVROS de móveis?", "sql": "SELECT 1"}
    library.write(jsonl([*good_records(), *records, twin])).prepare()
    assert len(library.accepted()) == len(good_records()) + len(records)
    (refused,) = library.rejected()
    assert refused["question"] == twin["question"] and "mesmo molde" in refused["reason"]


def test_own_questions_get_variations_with_the_values_of_their_bank(library, capsys):
    """Só no treino, com textos e números do banco, sem repetir nem recusar nada."""
    sql = "SELECT COUNT(*) FROM livros WHERE genero = 'romance'"
    library.write(jsonl(good_records()) + line("quantos livros de romance?", sql))
    library.variations = 2
    library.prepare()
    made = [row for row in library.accepted() if row["source"] == "variation"]
    assert {(r["question"], r["sql"]) for r in made if r["id"].startswith("own-00097-")} <= {
        (f"quantos livros de {g}?", f"SELECT COUNT(*) FROM livros WHERE genero = '{g}'")
        for g in ("poesia", "conto")
    }
    assert made and made == [row for row in library.split("train") if row["source"] == "variation"]
    assert len({row["question"] for row in library.accepted()}) == len(library.accepted())
    assert library.rejected() == [] and "variações" in (library.output / "report.md").read_text()
    assert len(training_rows(load_config(None, library.overrides()))) == len(library.split("train"))


def test_only_a_newline_ends_a_line(library):
    """U+2028, NEL e os outros que `splitlines` corta ficam dentro da pergunta, ida e volta."""
    records = good_records()
    odd = "a menor\u2028de\x85todas\x0bas\x1cpaginações?"
    records[0]["question"] = odd
    library.write(jsonl(records)).prepare()
    config = load_config(None, library.overrides())
    assert odd in {row["question"] for row in library.accepted()}
    assert len(library.accepted()) == len(records)
    assert len(training_rows(config)) == len(library.split("train"))


# --- divisões ------------------------------------------------------------------------------


def test_splits_share_no_sql_skeleton(prepared):
    """Validação e teste medem formas de consulta que o treino não viu."""
    found = {
        name: {shape(row["sql"]).skeleton for row in prepared.split(name)} for name in OWN_SPLITS
    }
    assert all(found.values())
    assert all(not found[one] & found[other] for one, other in combinations(OWN_SPLITS, 2))
    total = len(good_records())
    for name in ("validation", "test"):
        assert 0.05 * total <= len(prepared.split(name)) <= 0.15 * total


@pytest.mark.parametrize(("seed", "same"), [(6, True), (99, False)])
def test_split_depends_on_the_seed_only(prepared, tmp_path, seed, same):
    other = copy(prepared)
    other.output = tmp_path / "outra"
    other.prepare(f"data.seed={seed}")
    assert all((other.split(name) == prepared.split(name)) is same for name in OWN_SPLITS)


def test_report_agrees_with_the_files(prepared):
    """Contagens, hashes e sobreposições do relatório são os dos arquivos; a configuração relê."""
    report, contents = read_json(prepared.output / "report.json"), prepared.contents()
    for name in OWN_SPLITS:
        part = report["splits"][name]
        assert part["sha256"] == hashlib.sha256(contents[f"{name}.jsonl"]).hexdigest()
        assert part["questions"] == len(prepared.split(name))
    for overlap in report["overlap"].values():
        assert set(overlap.values()) == {0}
    assert report["rejected"] == {"mesmo molde de outra": 1}
    assert load_effective(prepared.output) == load_config(None, prepared.overrides())
    assert "| treino |" in contents["report.md"].decode()


# --- refazer ou não ------------------------------------------------------------------------


def test_second_call_does_nothing(library, capsys):
    """Sem mudança nos dados, a segunda chamada não toca em nada; com --force, refaz igual."""
    library.prepare()
    before, contents = library.state(), library.contents()
    capsys.readouterr()
    library.prepare("data.curated_in_training=5", "data.validation_size=7")
    assert library.state() == before
    assert "já estão prontos" in capsys.readouterr().out
    library.prepare("--force")
    assert library.state() != before
    assert library.contents() == contents


def _edit_questions(library):
    library.questions.write_bytes(jsonl(good_records()[2:]))


def _edit_database(library):
    with closing(sqlite3.connect(library.database)) as connection, connection:
        connection.execute("UPDATE livros SET paginas = paginas + 1")


def _lose_a_split(library):
    os.remove(library.output / "train.jsonl")


@pytest.mark.parametrize("change", [_edit_questions, _edit_database, _lose_a_split])
def test_any_change_makes_it_work_again(library, capsys, change):
    """Perguntas ou banco alterados, ou uma divisão apagada: a chamada seguinte refaz."""
    library.prepare()
    change(library)
    capsys.readouterr()
    library.prepare()
    assert "já estão prontos" not in capsys.readouterr().out
    assert len(library.split("train")) > 0


def test_an_interruption_halfway_never_passes_for_the_data_before(library, monkeypatch):
    """Ctrl-C depois de gravar as divisões de outra semente: as de antes se refazem."""

    def interrupted(*_):
        raise KeyboardInterrupt

    library.prepare()
    contents = library.contents()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(outputs, "build_report", interrupted)
        library.prepare("data.seed=7")
    assert library.contents() != contents
    assert library.prepare().contents() == contents


def test_what_is_added_while_it_works_is_read_the_next_time(library, monkeypatch):
    """A página grava opiniões, e quem escreve as perguntas não espera."""
    split = splits.own_splits

    def slow(config, sieve):
        found = split(config, sieve)
        with library.questions.open("ab") as stream:
            stream.write(line("há quantos gêneros?", OPINION_SQL) + b"\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(splits, "own_splits", slow)
        library.prepare()
    library.prepare()
    assert "há quantos gêneros?" in {row["question"] for row in library.accepted()}


def test_load_split_says_what_to_run(library):
    """Antes de preparar, quem pede uma divisão recebe o comando que falta."""
    with pytest.raises(UserError, match="python data_prep.py"):
        library.split("train")
    with pytest.raises(UserError, match="as suas, train, validation, test"):
        library.split("test_2")


# --- as perguntas da loja ------------------------------------------------------------------


@pytest.fixture(scope="module")
def written():
    """As perguntas escritas à mão, por arquivo, lidas sem nenhuma recusa."""
    rejected = []
    training = splits.WRITTEN | splits.UNANSWERABLE
    graded = splits.TEST | splits.TEST_2 | splits.TEST_3 | splits.VALIDATION
    rows = {
        name: read_questions(path, name, rejected, readings=name in graded)
        for name, path in (training | graded).items()
    }
    assert rejected == []
    return rows


@pytest.fixture(scope="module")
def shop_splits(written, tmp_path_factory):
    """O caminho da loja, inteiro, com um só banco e uma amostra que inclui os moldes repetidos."""
    folder = tmp_path_factory.mktemp("loja")
    reserved = {mask(row.question) for row in written["test"] + written["validation"]}
    everything = [row for name in splits.WRITTEN for row in written[name]]
    sample = everything[::25] + [row for row in everything if mask(row.question) in reserved]
    hard = next(row for row in written["test_2"] if not row.answerable)
    files = {
        "written": (sample, written["test"][3]),
        "unanswerable": (written["unanswerable"], hard),
    }
    for name, (rows, extra) in files.items():
        leaked = {"question": f"por favor, {extra.question}".upper(), "sql": extra.sql}
        records = [{"question": row.question, "sql": row.sql} for row in rows]
        (folder / f"{name}.jsonl").write_bytes(jsonl([*records, leaked]))
    overrides = [
        f"data.output_dir={folder / 'dados'}",
        "database.seeds=[41]",
        "data.generated=80",
        "data.recombined=30",
        "model.name=nenhum",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "WRITTEN", {"written": folder / "written.jsonl"})
        patch.setattr(splits, "UNANSWERABLE", {"unanswerable": folder / "unanswerable.jsonl"})
        assert main(overrides) == 0
    config = load_config(None, overrides)
    found = {name: load_split(config, name) for name in SPLITS}
    return found, read_jsonl(config.data_dir / "rejected.jsonl"), config


def test_written_questions_are_enough(written):
    """As perguntas que a tarefa pede, todas distintas dentro de cada teste."""
    least = {"written": 800, "contrast": 1200, "near": 100, "unanswerable": 500, "test": 200}
    least |= {"test_2": 300, "test_3": 300, "validation": 300, "validation_unanswerable": 120}
    assert {name: len(rows) for name, rows in written.items() if len(rows) < least[name]} == {}
    assert sum(row.answerable for row in written["test_2"]) >= 200
    assert sum(not row.answerable for row in written["test_2"]) >= 100
    for name in ("test", "test_2", "test_3"):
        assert len({mask(row.question) for row in written[name]}) == len(written[name])
    assert len({plain(row.question) for row in written["written"]}) >= 800


def test_only_the_unanswerable_files_have_declines(written):
    """O que o banco não responde tem arquivo próprio; nos testes 2 e 3 os dois estão juntos."""
    for name, rows in written.items():
        if name not in ("test_2", "test_3"):
            assert {row.answerable for row in rows} == {"unanswerable" not in name}, name


def test_written_sql_is_one_tidy_select(written):
    """Todo SQL escrito é um SELECT só, numa linha, que o analisador entende."""
    for rows in written.values():
        for sql in (sql for row in rows for sql in row.queries):
            assert sql == " ".join(sql.split())
            assert isinstance(sqlglot.parse_one(sql, read="sqlite"), sqlglot.exp.Query), sql


def test_test_questions_never_enter_the_training_set(shop_splits, written):
    """Nem um molde de teste ou validação, nem 80% das palavras dele, nem o que se plantou."""
    parts, rejected, _ = shop_splits
    train = {mask(row["question"]) for row in parts["train"]}
    assert len(train) > 100 and len(parts["test"]) >= 200 and len(parts["test_2"]) >= 300
    for name in set(SPLITS) - {"train"}:
        assert not train & {mask(row["question"]) for row in parts[name]}, name
    assert not train & {mask(row.question) for row in written["test"]}
    held = [row for name in ("test", "test_2", "test_3", "validation") for row in parts[name]]
    reserved = [set(mask(row["question"]).split()) for row in held]
    for words in map(set, map(str.split, train)):
        assert max(len(words & other) / len(words | other) for other in reserved) < 0.8, words
    by_source = {
        name: [row["reason"] for row in rejected if row["where"].startswith(f"{name}-0")]
        for name in ("written", "unanswerable")
    }
    assert any(reason.startswith("mesmo molde de test-") for reason in by_source["written"])
    assert any(reason.startswith("quase igual a test-") for reason in by_source["written"])
    assert any(reason.startswith("quase igual a test_2-") for reason in by_source["unanswerable"])


def test_generated_splits_share_no_skeleton_with_training(shop_splits):
    """As formas de consulta de teste_gerado e validacao_gerada não ocorrem no treino."""
    parts, *_ = shop_splits
    train = {shape(row["sql"]).skeleton for row in parts["train"] if row["sql"] != DECLINE}
    for name in ("generated_test", "generated_validation"):
        assert parts[name], name
        assert not train & {shape(row["sql"]).skeleton for row in parts[name]}, name


def test_shop_rows_are_described(shop_splits):
    """Toda linha das divisões tem fonte, redação, tipo e dificuldade."""
    parts, *_ = shop_splits
    for name, rows in parts.items():
        for row in rows:
            assert all(row[key] for key in ("id", "question", "sql", "source", "wording")), name
            if row["sql"] == DECLINE:
                assert row["kind"] == row["difficulty"] == UNANSWERABLE
            else:
                assert row["kind"] in KINDS
                assert row["difficulty"] in ("fácil", "média", "difícil")


def test_what_the_database_cannot_answer_is_everywhere_and_keeps_its_answer(shop_splits):
    """No treino, na validação e nos testes 2 e 3; sem variações nem outra resposta."""
    parts, *_ = shop_splits
    declined = {name: [r for r in rows if r["sql"] == DECLINE] for name, rows in parts.items()}
    assert len(declined["train"]) >= 500 and len(declined["test_2"]) >= 95
    assert len(declined["test_3"]) >= 60
    assert 50 <= len(declined["validation"]) <= len(parts["validation"]) / 2
    assert {row["source"] for row in declined["train"]} == {"unanswerable"}
    assert not any(map(declined.get, ("test", "generated_test", "generated_validation")))
    assert any(r["sql"] == DECLINE for r in parts["validation"][:20]), "um treino curto vê das duas"


@pytest.mark.parametrize("name", ["perguntas.jsonl", "perguntas.csv"])
def test_a_user_may_say_what_their_database_cannot_answer(library, name):
    """NÃO SEI, de qualquer jeito que se escreva, não se executa e entra em toda divisão."""
    verbs, things = ["quem fez", "quanto custou", "cadê"], ["o livro", "o gibi", "o mapa", "o CD"]
    ways = cycle(["NÃO SEI", "não sei", "nao sei.", "Não Sei ;"])
    words = map(" ".join, product(verbs, things, ["azul", "novo"]))
    asked = [{"question": f"{text}?", "sql": way} for text, way in zip(words, ways, strict=False)]
    records = good_records() + asked
    library.write(as_csv(records).encode() if name.endswith("csv") else jsonl(records), name)
    library.prepare()
    assert library.rejected() == []
    declined = {n: [r for r in library.split(n) if r["sql"] == DECLINE] for n in OWN_SPLITS}
    assert all(declined.values()) and sum(map(len, declined.values())) == len(asked)
    report = read_json(library.output / "report.json")
    assert report["splits"]["train"]["by_kind"][UNANSWERABLE] == len(declined["train"])
    assert report["overlap"]["test"]["same_skeleton"] == 0


@pytest.mark.parametrize(
    ("sql", "first", "others"),
    [
        (["SELECT 1; ", "SELECT 2"], "SELECT 1", ["SELECT 2"]),
        (["SELECT 1", "não sei"], "SELECT 1", [DECLINE]),
        ("SELECT 1", "SELECT 1", []),
        ([], None, "faltam os campos"),
        (["SELECT 1", 2], None, "faltam os campos"),
        (["SELECT 1", " "], None, "em branco"),
    ],
)
def test_a_test_file_may_list_the_right_readings(tmp_path, sql, first, others):
    path, rejected = tmp_path / "teste.jsonl", []
    path.write_bytes(jsonl([{"question": "quantos?", "sql": sql}]))
    rows = read_questions(path, "test", rejected, readings=True)
    if first is None:
        assert not rows and others in rejected[0].reason
    else:
        assert [(row.sql, row.also_right) for row in rows] == [(first, others)]


@pytest.mark.parametrize(("extra", "ours"), [([], True), (["data.feedback=x.jsonl"], False)])
def test_only_our_own_sql_runs_without_a_process_of_its_own(tmp_path, extra, ours):
    """O que se disse na página é SQL de qualquer um, e de um modelo."""
    config = load_config(None, [f"data.output_dir={tmp_path}", "database.seeds=[41]", *extra])
    (bank,) = open_databases(config)
    assert isinstance(bank, TrustedDatabase) is ours


def test_every_reading_has_to_run(shop_11):
    good = Row("test-1", "quantos?", "SELECT 1", "test", also_right=["SELECT 2", DECLINE])
    bad = Row("test-2", "quantos?", "SELECT 1", "test", also_right=["SELECT x FROM y"])
    with Checks([Database(shop_11)]) as checks:
        sieve = Sieve(checks)
        assert sieve.checked([good, bad], "teste") == [good]
    assert [item.where for item in sieve.rejected] == ["test-2"]


def opinions(folder, *rows):
    """O feedback.jsonl que a página grava: (pergunta, SQL do modelo, SQL certo) de cada opinião."""
    path, keys = folder / "feedback.jsonl", ("question", "model_sql", "sql", "opinion")
    told = [(*row, "good" if row[1] == row[2] else "bad") for row in rows]
    write_jsonl(path, (dict(zip(keys, row, strict=True)) for row in told))
    return f"data.feedback={path}"


def test_opinions_from_the_page_join_the_questions(library):
    """Aprovadas e corrigidas entram; a que repete uma pergunta e a sem correção dizem por quê."""
    twin = good_records()[0]
    corrected = ("há quantos gêneros?", "SELECT 1", OPINION_SQL)
    uncorrected = ("qual o livro mais longo?", "SELECT 2", "")
    repeated = (twin["question"], twin["sql"], twin["sql"])
    library.prepare(opinions(library.folder, corrected, uncorrected, repeated))
    rows = [row for row in library.accepted() if row["source"] == "feedback"]
    assert [(row["question"], row["sql"]) for row in rows] == [("há quantos gêneros?", OPINION_SQL)]
    reasons = {row["question"]: row["reason"] for row in library.rejected()}
    assert "em branco" in reasons["qual o livro mais longo?"]
    assert "mesmo molde" in reasons[twin["question"]]


POISON = ["SELECT titulo FROM livros ORDER BY 1.5 LIMIT 2", "SELECT 1 LIMIT '1.0'"]


@pytest.mark.parametrize("sql", [*POISON, f"SELECT {'- ' * 200}1", f"SELECT {'- ' * 450}1"])
def test_a_poisonous_opinion_never_stops_the_preparation(library, sql):
    """O que a página já executou volta aqui: aceito ou recusado, sem traceback."""
    library.prepare(opinions(library.folder, ("quais são dois livros?", sql, sql)))
    assert len(library.accepted()) >= len(good_records())


# --- o que o treino lê ---------------------------------------------------------------------


def chosen(config, **data):
    copied = config.model_copy(deep=True)
    for key, value in data.items():
        setattr(copied.data, key, value)
    return training_rows(copied)


def test_training_reads_written_variations_and_some_of_the_generated(shop_splits):
    """`data.*_in_training` corta as geradas e as escritas, e as variações seguem as suas."""
    parts, _, config = shop_splits
    everything = chosen(config, generated_in_training=10**6, unanswerable_repeats=1)
    assert sorted(row["id"] for row in everything) == sorted(row["id"] for row in parts["train"])
    sizes = {"generated_in_training": 7, "curated_in_training": 5, "unanswerable_in_training": 3}
    some = chosen(config, **sizes, unanswerable_repeats=2)
    sources = Counter(row["source"] for row in some)
    assert (sources["generated"], sources["written"], sources["unanswerable"]) == (7, 5, 6)
    originals = {row["id"] for row in some if row["source"] == "written"}
    varied = {row["id"].rpartition("-v")[0] for row in some if row["source"] == "variation"}
    assert varied == originals


def test_the_order_of_training_depends_on_its_seed(shop_splits):
    *_, config = shop_splits
    assert training_rows(config) == training_rows(config)
    other = config.model_copy(deep=True)
    other.training.seed += 1
    assert training_rows(other) != training_rows(config)


def test_no_example_left_is_a_user_error(library):
    """Sem as escritas e sem geradas, não há o que treinar."""
    library.prepare()
    config = load_config(None, library.overrides())
    row = load_split(config, "train")[0] | {"source": "generated"}
    (library.output / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    config.data.generated_in_training = 0
    with pytest.raises(UserError, match="nenhum exemplo de treino"):
        training_rows(config)
    (library.output / "train.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="está vazio"):
        training_rows(config)
