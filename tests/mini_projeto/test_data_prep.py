"""data_prep.py: nada se perde, nada vaza do teste para o treino, e toda recusa diz por quê."""

import csv
import hashlib
import json
import os
import sqlite3
from collections import Counter

import data_prep
import pytest
import sqlglot
from data_prep import load_split, main, read_questions
from loja_sql.config import UserError, load_config, load_effective
from loja_sql.page import feedback
from loja_sql.questions.slots import mask, plain
from loja_sql.sql.features import KINDS, skeleton

OPINION_SQL = "SELECT COUNT(DISTINCT genero) FROM livros"
SPLITS = ("treino", "validacao", "teste")
FUNCTIONS = {"o menor valor": "MIN({c})", "a soma": "SUM({c})", "o maior valor": "MAX({c})",
             "a média": "AVG({c})", "a amplitude": "MAX({c}) - MIN({c})",
             "a contagem sem repetição": "COUNT(DISTINCT {c})"}  # fmt: skip
CONDITIONS = {"": "", " dos romances": " WHERE genero = 'romance'",
              " dos emprestados": " WHERE emprestado = 1",
              " por gênero": " GROUP BY genero"}  # fmt: skip
COLUMNS = {"páginas": "paginas", "exemplares": "exemplares"}


def good_records():
    """96 pares de 48 esqueletos de SQL: duas redações de cada."""
    records = []
    for words, function in FUNCTIONS.items():
        for what, column in COLUMNS.items():
            for which, condition in CONDITIONS.items():
                expression = function.format(c=column)
                sql = f"SELECT {expression} FROM livros{condition}"
                for question in (f"qual é {words} de {what}{which}?",
                                 f"me informe {words} no campo {what}{which}"):  # fmt: skip
                    records.append({"question": question, "sql": sql})
    return records


def create_library(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE livros (id INTEGER PRIMARY KEY, titulo TEXT, genero TEXT,"
                           " paginas INTEGER, exemplares INTEGER, emprestado INTEGER)")  # fmt: skip
        connection.executemany(
            "INSERT INTO livros (titulo, genero, paginas, exemplares, emprestado) "
            "VALUES (?, ?, ?, ?, ?)",
            [(f"Livro {i}", ["romance", "poesia", "conto"][i % 3], 90 + 7 * i, 1 + i % 4, i % 2)
             for i in range(30)],
        )  # fmt: skip
    connection.close()
    return path


def jsonl(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


class Project:
    """O banco e as perguntas de um usuário, numa pasta temporária."""

    def __init__(self, folder):
        self.folder = folder
        self.database = create_library(folder / "biblioteca.sqlite")
        self.output = folder / "saida"

    def write(self, content: bytes, name="perguntas.jsonl"):
        self.questions = self.folder / name
        self.questions.write_bytes(content)
        return self

    def overrides(self):
        return [f"database.custom={self.database}", f"data.custom={self.questions}",
                f"data.output_dir={self.output}", "model.name=nenhum"]  # fmt: skip

    def prepare(self, *extra):
        assert main([*self.overrides(), *extra]) == 0
        return self

    def split(self, name):
        return load_split(load_config(None, self.overrides()), name)

    def accepted(self):
        return [row for name in SPLITS for row in self.split(name)]

    def rejected(self):
        text = (self.output / "rejeitados.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def state(self):
        return {
            p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(self.output.iterdir())
        }


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


# --- linhas malformadas --------------------------------------------------------------------

BAD_LINES = {  # nome: (linha do JSONL, parte do motivo)
    "json cortado": (b'{"question": "quantos livros?", "sql": "SELECT', "não é JSON"),
    "texto solto": (b"quantos livros? SELECT COUNT(*) FROM livros", "não é JSON"),
    "lista": (b'["quantos livros?", "SELECT COUNT(*) FROM livros"]', "esperava um objeto"),
    "número": (b"42", "esperava um objeto"),
    "nulo": (b"null", "esperava um objeto"),
    "sem sql": (b'{"question": "quantos livros?"}', "faltam os campos"),
    "campo com outro nome": (b'{"pergunta": "a?", "sql": "SELECT 1"}', "faltam os campos"),
    "sql nulo": (b'{"question": "quantos livros?", "sql": null}', "faltam os campos"),
    "pergunta numérica": (b'{"question": 7, "sql": "SELECT 1"}', "faltam os campos"),
    "sql em lista": (b'{"question": "a?", "sql": ["SELECT 1"]}', "faltam os campos"),
    "sql em branco": (b'{"question": "quantos livros?", "sql": "  "}', "em branco"),
    "pergunta em branco": (b'{"question": "\\n", "sql": "SELECT 1"}', "em branco"),
    "latin-1": ('{"question": "média?", "sql": "SELECT 1"}'.encode("latin-1"), "UTF-8"),
    "meio par unicode": (b'{"question": "a \\ud800?", "sql": "SELECT 1"}', "caractere inválido"),
    "meio par em outro campo": (b'{"question": 1, "x": "\\ud800"}', "faltam os campos"),
    "número gigante": (b'{"question": ' + b"1" * 5000 + b"}", "não é JSON"),
    "aninhado demais": (b"[" * 100_000, "não é JSON"),
    "nul": (b"\0\0\0", "não é JSON"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_reported_with_its_number(project, name):
    """Uma linha ruim no meio do arquivo é recusada com o seu número; as outras se aproveitam."""
    line, reason = BAD_LINES[name]
    good = jsonl(good_records()).splitlines(keepends=True)
    project.write(b"".join([*good[:4], b"\n", line + b"\n", *good[4:]])).prepare()
    assert len(project.accepted()) == len(good)
    (rejected,) = project.rejected()
    assert rejected["where"] == "perguntas.jsonl:6", "quatro boas, uma vazia e a ruim"
    assert reason in rejected["reason"]


BAD_SQL = {
    "erro de sintaxe": ("SELECT FROM WHERE", "analisador não entende"),
    "tabela errada": ("SELECT COUNT(*) FROM revistas", "no such table: revistas"),
    "escrita": ("DELETE FROM livros", "não é uma consulta SELECT"),
    "duas instruções": ("SELECT 1; DROP TABLE livros", "não é uma consulta SELECT"),
    "vazio": ("SELECT titulo FROM livros WHERE id < 0", "resultado vazio"),
    "só NULL": ("SELECT MAX(paginas) FROM livros WHERE id < 0", "só NULL"),
    "empate": ("SELECT titulo FROM livros ORDER BY exemplares DESC LIMIT 1", "empate no LIMIT"),
    "empate por apelido": ("SELECT genero, COUNT(*) AS n FROM livros GROUP BY 1 ORDER BY n LIMIT 1",
                           "empate no LIMIT"),
    "não acaba": ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
                  "SELECT COUNT(*) FROM r", "limite de 0.3 s"),
    "catálogo": ("SELECT name FROM sqlite_master", "não faz parte do banco"),
    "parênteses demais": ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "não entende"),
    "longo demais": ("SELECT 1" + " + 1" * 2000, "passa de 5000 caracteres"),
}  # fmt: skip


def test_unusable_sql_is_rejected_with_the_line_in_its_id(project):
    """Cada SQL que não serve de referência sai com o motivo e o id da linha; o banco fica igual."""
    bad = [{"question": f"pergunta {name}?", "sql": sql} for name, (sql, _) in BAD_SQL.items()]
    project.write(jsonl([*good_records(), *bad]))
    before = hashlib.sha256(project.database.read_bytes()).hexdigest()
    project.prepare("database.time_limit_s=0.3")
    assert hashlib.sha256(project.database.read_bytes()).hexdigest() == before
    first = len(good_records()) + 1
    found = {row["where"]: row["reason"] for row in project.rejected()}
    assert len(found) == len(BAD_SQL)
    for number, (name, (_, reason)) in enumerate(BAD_SQL.items(), first):
        assert reason in found[f"propria-{number:05}"], name


CSV_HEADER = "question,sql\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("quantos?,SELECT 1, 2", "campos demais"),
        ("quantos?", "faltam os campos"),
        (",SELECT 1", "em branco"),
        ("quantos?,", "em branco"),
        ("quantos?," + "x" * 200_000, "não é CSV"),
    ],
)
def test_bad_csv_line_is_reported_with_its_number(project, line, reason):
    """No CSV também: a linha ruim sai com o número, e as outras se aproveitam."""
    good = [f'"{r["question"]}","{r["sql"]}"\n' for r in good_records()]
    content = "".join([CSV_HEADER, *good[:4], line + "\n", *good[4:]])
    project.write(content.encode(), "perguntas.csv")
    project.prepare()
    assert len(project.accepted()) == len(good)
    (rejected,) = project.rejected()
    assert rejected["where"] == "perguntas.csv:6"
    assert reason in rejected["reason"]


@pytest.mark.parametrize(("after", "words"), [(2, "das linhas 98 a 99"), (0, "não é CSV")])
def test_unclosed_quotes_never_glue_two_lines(project, after, words):
    """Aspas sem par não viram uma pergunta com SQL dentro: a recusa diz que linhas se perderam."""
    good = [f'"{r["question"]}","{r["sql"]}"\n' for r in good_records()]
    extra = ['"um engolido","SELECT 1"\n', '"outro aproveitado","SELECT 1"\n'][:after]
    broken = '"quantos livros,SELECT 1\n'
    project.write("".join([CSV_HEADER, *good, broken, *extra]).encode(), "perguntas.csv").prepare()
    questions = {row["question"] for row in project.accepted()}
    expected = {record["question"] for record in good_records()}
    assert questions == expected | ({"outro aproveitado"} if after else set())
    (rejected,) = project.rejected()
    assert rejected["where"] == f"perguntas.csv:{len(good) + 2}"
    assert words in rejected["reason"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vazio.csv", b"", "falta a coluna question e sql"),
        ("vazio.jsonl", b"", "0 perguntas aproveitáveis"),
        ("outras.csv", b"pergunta,sql\na,SELECT 1\n", "falta a coluna question"),
        ("ponto_e_virgula.csv", b"question;sql\na;SELECT 1\n", "falta a coluna"),
        ("utf16.csv", "question,sql\na,SELECT 1\n".encode("utf-16"), "falta a coluna"),
        ("utf16.jsonl", '{"question": "a", "sql": "b"}'.encode("utf-16"), "0 perguntas"),
        ("titulo_enorme.csv", b"x" * 200_000, "não é CSV"),
        ("binario.jsonl", bytes(range(256)) * 20, "0 perguntas aproveitáveis"),
        ("planilha.xlsx", b"PK\x03\x04", "formato desconhecido"),
        ("sem_extensao", b"question,sql\n", "formato desconhecido"),
        ("so_uma.jsonl", jsonl(good_records()[:1]), "1 perguntas aproveitáveis"),
        ("mesmo_sql.csv", b"question,sql\n" + b"".join(
            f"pergunta {w},SELECT COUNT(*) FROM livros\n".encode()
            for w in ["alfa", "beta", "gama", "delta"]), "ficou vazio"),
    ],
)  # fmt: skip
def test_unusable_file_is_a_user_error(project, name, content, words):
    """Arquivo errado: uma frase com o nome dele, e nenhuma divisão gravada."""
    project.write(content, name)
    with pytest.raises(UserError) as caught:
        main(project.overrides())
    assert words in str(caught.value)
    assert name in str(caught.value)
    written = {path.name for path in project.output.glob("*")}
    assert written <= {"rejeitados.jsonl"}


def test_reasons_are_written_even_when_nothing_is_left(project):
    """Se todas as linhas são ruins, o erro diz onde estão os motivos, e eles estão lá."""
    project.write(b"1\n2\n3\n")
    with pytest.raises(UserError, match="rejeitados.jsonl"):
        main(project.overrides())
    assert [row["where"] for row in project.rejected()] == [
        f"perguntas.jsonl:{line}" for line in (1, 2, 3)
    ]


def test_missing_files_are_user_errors(project, tmp_path):
    """Perguntas ou banco ausentes, ou um banco que não é SQLite."""
    project.questions = tmp_path / "nada.jsonl"
    with pytest.raises(UserError, match="perguntas não encontrado.*nada.jsonl"):
        main(project.overrides())
    project.write(jsonl(good_records()))
    project.database = tmp_path / "nada.sqlite"
    with pytest.raises(UserError, match="banco de dados não encontrado.*nada.sqlite"):
        main(project.overrides())
    project.database = project.questions
    with pytest.raises(UserError, match="não é um banco SQLite"):
        main(project.overrides())


# --- nada se perde -------------------------------------------------------------------------


def test_read_equals_accepted_plus_rejected(project):
    """Num arquivo com todo tipo de problema, cada linha termina numa divisão ou nas recusas."""
    records = good_records()
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    lines += [line for line, _ in BAD_LINES.values()]
    lines += [json.dumps({"question": f"p {n}", "sql": s}).encode()
              for n, (s, _) in BAD_SQL.items()]  # fmt: skip
    lines += lines[:5]  # perguntas repetidas
    lines.append(json.dumps({"question": "QUAL É A SOMA DE PAGINAS", "sql": "SELECT 1"}).encode())
    project.write(b"\n".join(lines) + b"\n").prepare("database.time_limit_s=0.3")
    accepted, rejected = project.accepted(), project.rejected()
    assert len(lines) == len(accepted) + len(rejected)
    assert len(accepted) == len(records)
    repeated = [row for row in rejected if row["reason"].startswith("mesmo molde de propria-")]
    assert len(repeated) == 6
    ids = [row["id"] for row in accepted] + [row["where"] for row in rejected]
    assert max(Counter(ids).values()) == 1
    assert all(row["reason"] for row in rejected)


def test_contents_survive_untouched(project):
    """Acentos, aspas e quebras chegam às divisões como foram escritos; sai só o ; do fim."""
    records = good_records()
    records[0]["question"] = 'Qual é a "média"\nde páginas — à vista?  '
    records[0]["sql"] = "SELECT AVG(paginas) FROM livros WHERE titulo <> 'ação; é' ; "
    path = project.folder / "perguntas.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["id", "question", "sql"])
        writer.writeheader()
        writer.writerows({"id": i, **record} for i, record in enumerate(records))
    project.questions = path
    project.prepare()
    found = {row["question"]: row["sql"] for row in project.accepted()}
    assert found['Qual é a "média"\nde páginas — à vista?'] == (
        "SELECT AVG(paginas) FROM livros WHERE titulo <> 'ação; é'"
    )
    assert len(found) == len(records)


def test_windows_line_endings_and_bom(project):
    """BOM e CRLF, que o Excel e o Bloco de Notas escrevem, não atrapalham."""
    content = b"\xef\xbb\xbf" + jsonl(good_records()).replace(b"\n", b"\r\n")
    project.write(content).prepare()
    assert len(project.accepted()) == len(good_records())
    assert project.rejected() == []


# --- divisões ------------------------------------------------------------------------------


def test_splits_share_no_sql_skeleton(project):
    """Validação e teste medem formas de consulta que o treino não viu."""
    project.write(jsonl(good_records())).prepare()
    found = {name: {skeleton(row["sql"]) for row in project.split(name)} for name in SPLITS}
    assert all(found.values())
    assert not found["treino"] & found["validacao"]
    assert not found["treino"] & found["teste"]
    assert not found["validacao"] & found["teste"]
    total = len(good_records())
    for name in ("validacao", "teste"):
        assert 0.05 * total <= len(project.split(name)) <= 0.15 * total


def test_split_depends_on_the_seed_only(project, tmp_path):
    """A mesma semente divide igual; outra divide diferente."""
    project.write(jsonl(good_records())).prepare()
    first = [project.split(name) for name in SPLITS]
    project.output = tmp_path / "de novo"
    project.prepare()
    assert [project.split(name) for name in SPLITS] == first
    project.output = tmp_path / "outra semente"
    project.prepare("data.seed=99")
    assert project.split("teste") != first[2]


def test_report_agrees_with_the_files(project):
    """Contagens, hashes e sobreposições do relatório são os dos arquivos; a configuração relê."""
    project.write(jsonl([*good_records(), good_records()[0]])).prepare()
    report = json.loads((project.output / "relatorio.json").read_text(encoding="utf-8"))
    for name in SPLITS:
        content = (project.output / f"{name}.jsonl").read_bytes()
        assert report["divisoes"][name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert report["divisoes"][name]["perguntas"] == len(project.split(name))
    for overlap in report["sobreposicao"].values():
        assert set(overlap.values()) == {0}
    assert report["rejeitadas"] == {"mesmo molde de outra": 1}
    assert load_effective(project.output) == load_config(None, project.overrides())
    assert "| treino |" in (project.output / "relatorio.md").read_text(encoding="utf-8")


# --- refazer ou não ------------------------------------------------------------------------


def test_second_call_does_nothing(project, capsys):
    """Sem mudança, a segunda chamada não toca em nenhum arquivo; com --force, refaz igual."""
    project.write(jsonl(good_records())).prepare()
    before = project.state()
    contents = {p.name: p.read_bytes() for p in project.output.iterdir()}
    capsys.readouterr()
    project.prepare()
    assert project.state() == before
    assert "já estão prontos" in capsys.readouterr().out
    project.prepare("--force")
    assert project.state() != before
    assert {p.name: p.read_bytes() for p in project.output.iterdir()} == contents


def _edit_questions(project):
    project.questions.write_bytes(jsonl(good_records()[2:]))


def _edit_database(project):
    with sqlite3.connect(project.database) as connection:
        connection.execute("UPDATE livros SET paginas = paginas + 1")
    connection.close()


def _lose_a_split(project):
    os.remove(project.output / "treino.jsonl")


@pytest.mark.parametrize("change", [_edit_questions, _edit_database, _lose_a_split])
def test_any_change_makes_it_work_again(project, capsys, change):
    """Perguntas ou banco alterados, ou uma divisão apagada: a chamada seguinte refaz."""
    project.write(jsonl(good_records())).prepare()
    change(project)
    capsys.readouterr()
    project.prepare()
    assert "já estão prontos" not in capsys.readouterr().out
    assert len(project.split("treino")) > 0


def test_load_split_says_what_to_run(project):
    """Antes de preparar, quem pede uma divisão recebe o comando que falta."""
    project.write(jsonl(good_records()))
    with pytest.raises(UserError, match="python data_prep.py"):
        project.split("treino")


# --- as perguntas da loja ------------------------------------------------------------------


@pytest.fixture(scope="module")
def written():
    """As perguntas escritas à mão, por arquivo, lidas sem nenhuma recusa."""
    rejected = []
    rows = {
        "curada": read_questions(data_prep.CURATED, "curada", rejected),
        "validacao": read_questions(data_prep.VALIDATION, "validacao", rejected),
        "teste": read_questions(data_prep.TEST, "teste", rejected),
    }
    assert rejected == []
    return rows


@pytest.fixture(scope="module")
def shop_splits(written, tmp_path_factory):
    """O caminho da loja, inteiro, com um só banco e uma amostra que inclui os moldes repetidos."""
    folder = tmp_path_factory.mktemp("loja")
    reserved = {mask(row.question) for row in written["teste"] + written["validacao"]}
    sample = [
        row
        for number, row in enumerate(written["curada"])
        if number % 25 == 0 or mask(row.question) in reserved
    ]
    extra = written["teste"][3]
    leaked = {"question": f"por favor, {extra.question}".upper(), "sql": extra.sql}
    records = [{"question": row.question, "sql": row.sql} for row in sample]
    curated = folder / "curadas.jsonl"
    curated.write_bytes(jsonl([*records, leaked]))
    overrides = [f"data.output_dir={folder}", "database.seeds=[41]", "data.generated=80",
                 "model.name=nenhum"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_prep, "CURATED", curated)
        assert main(overrides) == 0
    config = load_config(None, overrides)
    names = ["treino", "validacao", "validacao_gerada", "teste", "teste_gerado"]
    lines = (folder / "rejeitados.jsonl").read_text(encoding="utf-8").splitlines()
    return {name: load_split(config, name) for name in names}, [json.loads(x) for x in lines]


def test_written_questions_are_enough(written):
    """Pelo menos 800 perguntas curadas e 200 de teste, todas distintas dentro do teste."""
    assert len(written["curada"]) >= 800
    assert len(written["teste"]) >= 200
    assert len({mask(row.question) for row in written["teste"]}) == len(written["teste"])
    assert len({plain(row.question) for row in written["curada"]}) >= 800


def test_written_sql_is_one_tidy_select(written):
    """Todo SQL escrito é um SELECT só, numa linha, que o analisador entende."""
    for rows in written.values():
        for row in rows:
            assert row.sql == " ".join(row.sql.split()), row
            assert isinstance(sqlglot.parse_one(row.sql, read="sqlite"), sqlglot.exp.Query), row


def test_test_questions_never_enter_the_training_set(shop_splits, written):
    """Nenhum molde do teste ou da validação está no treino, nem o que se plantou de propósito."""
    splits, rejected = shop_splits
    train = {mask(row["question"]) for row in splits["treino"]}
    assert len(train) > 100
    assert len(splits["teste"]) >= 200
    for name in ("teste", "validacao", "teste_gerado", "validacao_gerada"):
        assert not train & {mask(row["question"]) for row in splits[name]}, name
    assert not train & {mask(row.question) for row in written["teste"]}
    reasons = [row["reason"] for row in rejected if row["where"].startswith("curada-")]
    assert any(reason.startswith("mesmo molde de teste-") for reason in reasons)
    assert any(reason.startswith("quase igual a teste-") for reason in reasons)


def test_no_training_question_is_almost_a_reserved_one(shop_splits):
    """Nenhuma pergunta do treino tem 80% ou mais das palavras do molde de uma reservada."""
    splits, _ = shop_splits
    reserved = [set(mask(r["question"]).split()) for r in splits["teste"] + splits["validacao"]]
    for row in splits["treino"]:
        words = set(mask(row["question"]).split())
        closest = max(len(words & other) / len(words | other) for other in reserved)
        assert closest < 0.8, row


def test_generated_splits_share_no_skeleton_with_training(shop_splits):
    """As formas de consulta de teste_gerado e validacao_gerada não ocorrem no treino."""
    splits, _ = shop_splits
    train = {skeleton(row["sql"]) for row in splits["treino"]}
    for name in ("teste_gerado", "validacao_gerada"):
        assert splits[name], name
        assert not train & {skeleton(row["sql"]) for row in splits[name]}, name


def test_shop_rows_are_described(shop_splits):
    """Toda linha das divisões tem fonte, redação, tipo e dificuldade."""
    splits, _ = shop_splits
    for name, rows in splits.items():
        for row in rows:
            assert all(row[key] for key in ("id", "question", "sql", "source", "wording")), name
            assert row["kind"] in KINDS
            assert row["difficulty"] in ("fácil", "média", "difícil")


def test_opinions_from_the_page_join_the_questions(project):
    """Aprovadas e corrigidas entram; a que repete uma pergunta e a sem correção dizem por quê."""
    opinions = project.folder / "opinioes.jsonl"
    feedback.record(opinions, "há quantos gêneros?", "SELECT 1", OPINION_SQL, good=False)
    feedback.record(opinions, "qual o livro mais longo?", "SELECT 2", None, good=False)
    twin = good_records()[0]
    feedback.record(opinions, twin["question"], twin["sql"], twin["sql"], good=True)
    project.write(jsonl(good_records())).prepare(f"data.feedback={opinions}")
    rows = [row for row in project.accepted() if row["source"] == "opiniao"]
    assert [(row["question"], row["sql"]) for row in rows] == [("há quantos gêneros?", OPINION_SQL)]
    reasons = {row["question"]: row["reason"] for row in project.rejected()}
    assert "em branco" in reasons["qual o livro mais longo?"]
    assert "mesmo molde" in reasons[twin["question"]]


def test_a_missing_file_of_opinions_is_a_user_error(project):
    project.write(jsonl(good_records()))
    with pytest.raises(UserError, match="não encontrado"):
        main([*project.overrides(), "data.feedback=/nao/existe.jsonl"])
