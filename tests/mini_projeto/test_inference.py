"""inference.py: perguntas na linha de comando, num arquivo e na conversa."""

import json

from comum.terminal import UserError, run_main

import pytest

import inference
from loja_sql.config import load_config
from loja_sql.model.assistant import Assistant, as_record, question_problem
from loja_sql.page.shell import format_answer, format_table
from loja_sql.prompt import DECLINE
from loja_sql.sql.database import Result

HOSTILE = ["???", "😀", "…", "x" * 600, "\x1b[2J", "\x00", "quantos \udcff?", "%s%n", "<|im_end|>"]


@pytest.fixture(scope="module")
def assistant(trained) -> Assistant:
    args, folder = trained
    return Assistant(load_config(None, args), folder)


def test_asking_from_the_terminal(trained, capsys):
    args, _ = trained
    questions = ["quantos clientes temos?", "  ", "qual o x=y? "]
    assert inference.main([*args, *questions]) == 0
    output = capsys.readouterr().out
    assert output.count("Pergunta: ") == 3 and "Pergunta: quantos clientes temos?" in output
    # Um modelo minúsculo ou escreve algum SQL, ou nada: os dois têm de ficar visíveis.
    assert "SQL:" in output or "não escreveu nenhuma consulta" in output
    assert "a pergunta está vazia" in output


def test_file_of_questions_gives_one_json_line_each(trained, tmp_path):
    args, _ = trained
    source, target = tmp_path / "perguntas.txt", tmp_path / "saida" / "respostas.jsonl"
    text = "quantos clientes?\n\n" + "x" * 600 + "\nliste os produtos\n"
    source.write_text(text, encoding="utf-8")
    assert inference.main([*args, "--input", str(source), "--output", str(target)]) == 0
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [r["question"][:5] for r in records] == ["quant", "xxxxx", "liste"]
    keys = {"question", "links", "sql", "columns", "rows", "error", "declined"}
    assert all(set(r) == keys for r in records)
    assert "500 caracteres" in records[1]["error"]


def test_chat_loop_keeps_history_and_survives_hostile_lines(trained, monkeypatch, capsys):
    args, _ = trained
    typed = iter(
        [
            *("", ":ajuda", ":historico", "quantos clientes?", *HOSTILE, ":esquema", ":sql"),
            *(":sql DROP TABLE clientes", ":sql SELECT COUNT(*) FROM clientes"),
            *(":historico", ":xyz", "sair", ":sair"),
        ]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert inference.main(args) == 0
    output = capsys.readouterr().out
    assert "só consultas SELECT são permitidas" in output and "consulta está vazia" in output
    assert "Ainda não há perguntas" in output and "CREATE TABLE" in output
    assert "600" in output and "1. quantos clientes?" in output
    assert "Não conheço o comando :xyz" in output and "começam com dois-pontos" in output
    assert "\x1b" not in output and "\x00" not in output


@pytest.mark.parametrize("question", ["", " \n", *HOSTILE[:3]])
def test_what_is_not_a_question_is_answered_with_the_reason(assistant, question):
    problem = question_problem(question)
    assert problem and assistant.ask(question).error == problem
    assert [answer.error for answer in assistant.ask_many([question])] == [problem]


def test_what_the_engine_refuses_is_an_answer_too(assistant):
    """Um prompt que o llama.cpp recusa, por exemplo, não acaba com a conversa."""

    class Refusing:
        tokenizer = assistant.engine.tokenizer

        def stream(self, *_):
            yield "SELECT"
            raise UserError("não cabe no contexto.")

    answer = Assistant(assistant.config, None, Refusing()).ask("quantos clientes temos?")
    assert (answer.sql, answer.error) == ("", "não cabe no contexto")


def test_what_the_model_does_not_know_is_said_with_the_reason_and_no_rows(assistant):
    class Declining:
        tokenizer = assistant.engine.tokenizer

        def stream(self, *_):
            yield DECLINE[:3]
            yield f"{DECLINE}."

        def generate(self, prompts, *_):
            yield [(0, "não sei"), (1, "SELECT 'NÃO SEI'")]

    asked = Assistant(assistant.config, None, Declining())
    (answer,) = asked.stream("qual o lucro de 2024?")
    assert answer.declined and answer.sql == "" and answer.result is None
    shown = format_answer(answer)
    assert shown.startswith("Não sei responder com o que há no banco (")
    assert "(clientes, vendedores, produtos" in shown
    assert "itens dos pedidos e avaliações)" in shown and "SQL:" not in shown
    first, second = asked.ask_many(["qual o lucro?", "quantos?"])
    assert first.declined and first.error == answer.error
    assert not second.declined and second.result.rows == [("NÃO SEI",)], "um texto, não a recusa"


def test_one_by_one_and_in_a_batch_the_answer_is_the_same(assistant):
    questions = ["quantos clientes temos?", "???", "liste os produtos em falta"]
    together = [as_record(answer) for answer in assistant.ask_many(questions)]
    assert together == [as_record(assistant.ask(question)) for question in questions]
    assert [record["question"] for record in together] == questions


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--input", "nada.txt", "--output", "x"], "nada.txt: não existe"),
        (["--input", "x"], "andam juntos"),
        (["--input", "x.csv", "--output", "y"], "x.csv é uma tabela"),
        (["--input", "x", "--output", "y", "oi"], "não dos dois"),
        (["--hints"], "pede ao menos uma pergunta"),
        (["--adapter", "/nao/existe", "oi"], "não há modelo"),
        (["lora.rr=1", "oi"], "lora.r"),
        (
            ["--base", "database.custom=nada.sqlite", "data.custom=nada.csv", "oi"],
            "banco de dados não encontrado",
        ),
    ],
)
def test_bad_arguments_end_with_code_two(project, extra, message, capsys):
    args, _ = project
    assert run_main(inference.main, [*args, *extra]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("perguntas.txt", "o mesmo arquivo"),
        (".", "é uma pasta"),
        ("perguntas.txt/respostas.jsonl", "perguntas.txt"),
    ],
)
def test_where_answers_cannot_go_is_said_before_the_model_loads(
    project, output, message, monkeypatch, capsys
):
    """Nem por cima das perguntas, nem onde não se grava."""
    monkeypatch.setattr(inference, "Assistant", None)
    args, folder = project
    source = folder / "perguntas.txt"
    source.write_text("quantos clientes?\n", encoding="utf-8")
    asked = ["--input", str(source), "--output", str(folder / output)]
    assert run_main(inference.main, [*args, *asked]) == 2
    assert message in capsys.readouterr().err
    assert source.read_text(encoding="utf-8") == "quantos clientes?\n"


def test_the_untrained_model_answers_with_its_own_settings(project, monkeypatch, capsys):
    args, _ = project
    made = []
    start = Assistant.__init__
    monkeypatch.setattr(
        Assistant, "__init__", lambda self, *given: (made.append(given), start(self, *given))[0]
    )
    args = [*args, "generation.max_new_tokens=16", "evaluation.base_max_new_tokens=4"]
    assert inference.main([*args, "--base", "quantos clientes?"]) == 0
    output = capsys.readouterr().out
    assert "SQL:" in output or "não escreveu nenhuma consulta" in output
    config, adapter = made[0]
    assert adapter is None and config.prompt.schema_in_prompt
    assert config.generation.max_new_tokens == 4, "o mesmo limite da avaliação"


def test_table_cells_cannot_control_the_terminal():
    rows = [("\x1b[2Jx\n", ":smile: [red]"), (None, 1234.5), (b"\x00", float("inf"))]
    text = format_table("SELECT * FROM t", Result(["a\x07", "[b]"], rows))
    assert "\x1b" not in text and "\x07" not in text
    assert all(
        word in text for word in ("sem valor", "1.234,50", ":smile: [red]", "[b]", "3 linhas")
    )


def test_the_terminal_names_columns_and_writes_money_as_the_page_does():
    text = format_table("SELECT AVG(preco) FROM produtos", Result(["AVG(preco)"], [(1234.5,)]))
    assert "média de preço" in text and "R$\xa01.234,50" in text


def test_a_long_result_says_how_much_is_hidden():
    rows = [(i,) for i in range(2500)]
    text = format_table("SELECT * FROM t", Result(["n"], rows, truncated=True))
    assert "… 20 de mais de 2.500 linhas" in text and "\n24" not in text
    assert format_table("SELECT * FROM t", Result(["n"], [])) == "Nenhuma linha."
