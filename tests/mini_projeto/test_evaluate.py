"""evaluate.py, inference.py e metrics.py: notas, intervalos, terminal e arquivos."""

import json
import math
import os
import shutil
from pathlib import Path

import dashboard
import evaluate
import inference
import pytest
import train
from loja_sql.config import UserError, load_config, run_main
from loja_sql.model.memory import STATUS, MemoryGrowth
from loja_sql.prompt import messages
from loja_sql.questions.retrieval import Bm25
from loja_sql.scores.metrics import bleu, mcnemar, perplexity, proportion, wilson


@pytest.fixture
def trained(project, monkeypatch):
    args, folder = project
    train.main([*args, "training.max_steps=2"])
    monkeypatch.setattr(evaluate, "RESULTS_DIR", folder / "resultados")
    return args, folder


def test_wilson_matches_published_values():
    # Newcombe (1998), tabela I: 81 de 263 -> 0,2553 a 0,3662.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_mcnemar_counts_only_disagreements():
    first = [True] * 5 + [True] + [False] * 9
    second = [True] * 5 + [False] + [True] * 9
    result = mcnemar(first, second)
    assert (result["so_primeira"], result["so_segunda"]) == (1, 9)
    assert result["p_valor"] == pytest.approx(22 / 1024)  # 2·(C(10,0)+C(10,1))/2^10
    assert mcnemar([True], [True])["p_valor"] == 1.0


def test_perplexity_weights_by_token():
    result = perplexity([(math.log(2) * 3, 3), (math.log(8) * 1, 1)])
    assert result["valor"] == pytest.approx(math.exp((3 * math.log(2) + math.log(8)) / 4))
    assert result["ic95"][0] <= result["valor"] <= result["ic95"][1]


def test_proportion_of_nothing_says_it_knows_nothing():
    assert proportion([])["ic95"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "sql"),
    [("SELECT 1", "SELECT 1"), ("```sql\nSELECT 1;\n```\nExplanation", "SELECT 1"),
     ("SELECT 1; DROP TABLE clientes", "SELECT 1"), ("```sqlite\nSELECT 2```", "SELECT 2"),
     ("", "")],
)  # fmt: skip
def test_extract_sql(answer, sql):
    assert evaluate.extract_sql(answer) == sql


def test_evaluation_writes_scores_and_one_line_per_question(trained, capsys):
    args, folder = trained
    assert evaluate.main(args) == 0
    summary = json.loads((folder / "resultados" / "mini_projeto_lora_teste.json").read_text())
    text = (folder / "resultados" / "mini_projeto_lora_teste.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert set(summary["variantes"]) == {evaluate.BASE, evaluate.TUNED}
    assert len(lines) == 2 * 6
    for name, variant in summary["variantes"].items():
        mine = [line for line in lines if line["variant"] == name]
        accuracy = variant["acuracia_execucao"]
        assert accuracy["acertos"] == sum(line["correct"] for line in mine)
        assert accuracy["total"] == 6
        assert variant["perplexidade_do_gabarito"]["valor"] > 1
    assert "mcnemar_base_treinado" in summary
    assert summary["configuracao"]["training"]["max_steps"] == 6
    assert "acurácia de execução" in capsys.readouterr().out


def test_latency_and_memory_are_measured_in_a_process_of_their_own(trained):
    args, _ = trained
    assert evaluate.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="falta de memória"):
        evaluate.in_own_process(os.abort)
    with pytest.raises(UserError, match="bf16 não está exportada"):
        evaluate.in_own_process(
            evaluate.answer_alone, load_config(None, args), Path("nada"), "bf16", ["a"], 4, "x"
        )
    measured = [
        evaluate.in_own_process(
            evaluate.answer_alone, load_config(None, args), None, None, ["quantos?"] * 3, 4, "x"
        )
        for _ in range(2)
    ]
    for alone, memory in measured:
        assert alone["perguntas"] == 3 and 0 < alone["p50_s"] <= alone["p95_s"]
        assert memory is None or 0 < memory < 200e6, "o modelo minúsculo, sem as bibliotecas"


def test_gold_answers_score_one_hundred_percent(trained, monkeypatch):
    """A nota vem da execução: respostas iguais ao gabarito acertam tudo, e só elas."""
    from loja_sql.model import loading as model

    args, folder = trained
    text = (folder / "dados" / "teste.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]

    def oracle(loaded, tokenizer, prompts, *_):
        yield [(i, row["sql"]) for i, row in enumerate(rows)]

    monkeypatch.setattr(model, "generate", oracle)
    summary = evaluate.evaluate(train.config_from_args(_namespace(args)))
    assert summary["variantes"][evaluate.TUNED]["acuracia_execucao"]["acertos"] == 6


def _namespace(args):
    import argparse

    return argparse.Namespace(config=None, model=None, overrides=args)


def test_own_questions_are_scored_and_bad_rows_reported(trained, capsys):
    args, folder = trained
    path = folder / "minhas.jsonl"
    path.write_text(
        '{"question": "quantos clientes?", "sql": "SELECT COUNT(*) FROM clientes"}\n'
        '{"question": "sem sql"}\nisto não é json\n'
        '{"question": "vazia", "sql": "SELECT nome FROM clientes WHERE uf = \'ZZ\'"}\n',
        encoding="utf-8",
    )
    assert evaluate.main([*args, "--questions", str(path), "--only", "treinado"]) == 0
    errors = capsys.readouterr().err
    assert "minhas.jsonl:2" in errors and "minhas.jsonl:3" in errors
    assert "resultado vazio" in errors
    summary = json.loads((folder / "resultados" / "mini_projeto_lora_minhas.json").read_text())
    assert summary["variantes"][evaluate.TUNED]["acuracia_execucao"]["total"] == 1


def test_asking_from_the_terminal(trained, capsys):
    args, _ = trained
    assert inference.main([*args, "quantos clientes temos?", "  "]) == 0
    output = capsys.readouterr().out
    assert "Pergunta: quantos clientes temos?" in output
    # Um modelo aleatório ou escreve algum SQL, ou nada: os dois têm de ficar visíveis.
    assert "SQL:" in output or "não escreveu nenhuma consulta" in output
    assert "a pergunta está vazia" in output


def test_file_of_questions_gives_one_json_line_each(trained):
    args, folder = trained
    source, target = folder / "perguntas.txt", folder / "saida" / "respostas.jsonl"
    text = "quantos clientes?\n\n" + "x" * 600 + "\nliste os produtos\n"
    source.write_text(text, encoding="utf-8")
    assert inference.main([*args, "--input", str(source), "--output", str(target)]) == 0
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [r["question"][:5] for r in records] == ["quant", "xxxxx", "liste"]
    assert all(set(r) == {"question", "sql", "columns", "rows", "error"} for r in records)
    assert "500 caracteres" in records[1]["error"]


def test_chat_loop_keeps_history_and_survives_hostile_sql(trained, monkeypatch, capsys):
    args, _ = trained
    typed = iter(["", ":ajuda", "quantos clientes?", ":sql DROP TABLE clientes",
                  ":sql SELECT COUNT(*) FROM clientes", ":historico", ":xyz", ":sair"])  # fmt: skip
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert inference.main(args) == 0
    output = capsys.readouterr().out
    assert "só consultas SELECT são permitidas" in output
    assert "600" in output and "1. quantos clientes?" in output
    assert "Não conheço o comando :xyz" in output


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--input", "nada.txt", "--output", "x"], "não encontrado"),
     (["--input", "x"], "andam juntos"),
     (["--adapter", "/nao/existe", "oi"], "não há modelo"), (["lora.rr=1", "oi"], "lora.r")],
)  # fmt: skip
def test_bad_arguments_end_with_code_two(project, extra, message, capsys):
    args, _ = project
    assert run_main(inference.main, [*args, *extra]) == 2
    assert message in capsys.readouterr().err


def test_base_flag_needs_no_adapter(project, capsys):
    args, _ = project
    inference.main([*args, "--base", "quantos clientes?"])
    output = capsys.readouterr().out
    assert "SQL:" in output or "não escreveu nenhuma consulta" in output


def test_missing_database_is_explained(project):
    args, folder = project
    (folder / "dados" / "loja_11.sqlite").unlink()
    with pytest.raises(UserError, match="banco de dados não encontrado"):
        evaluate.main(args)


def test_table_cells_cannot_control_the_terminal():
    from loja_sql.sql.database import Result

    text = inference.format_table(Result(["a"], [("\x1b[2Jx",), (None,), (1234.5,)]))
    assert "\x1b" not in text and "NULL" in text and "1.234,50" in text


def test_a_limited_evaluation_takes_questions_from_the_whole_file():
    rows = [{"n": i} for i in range(340)]
    chosen = [row["n"] for row in evaluate.spread(rows, 40)]
    assert len(set(chosen)) == 40 and chosen == sorted(chosen)
    assert chosen[0] == 0 and chosen[-1] > 330
    assert evaluate.spread(rows, None) == evaluate.spread(rows, 999) == rows


def test_examples_in_the_prompt_come_from_training_and_the_nearest_come_last(trained):
    args, folder = trained
    assert evaluate.main([*args, "--only", "base", "--only", "exemplos", "--few-shot", "2"]) == 0
    summary = json.loads((folder / "resultados" / "mini_projeto_lora_teste.json").read_text())
    plain, fixed, similar = summary["variantes"].values()
    assert plain["tokens_no_prompt"] < min(fixed["tokens_no_prompt"], similar["tokens_no_prompt"])
    lines = (folder / "dados" / "treino.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    config = train.config_from_args(_namespace(args))
    variant = evaluate._with_examples(config, 2)[1]
    shown = variant.examples(rows[3]["question"])
    assert shown[-1] == (rows[3]["question"], rows[3]["sql"]) and len(shown) == 2
    turns = messages(config, "e agora?", "", shown)
    assert [t["role"] for t in turns] == ["system", *["user", "assistant"] * 2, "user"]


def test_bm25_prefers_rare_words_in_common_and_ignores_accents():
    index = Bm25(["quantos clientes há em Goiás", "quantos pedidos há", "quantos clientes há"])
    assert index.nearest("pedidos?", 1) == [1]
    assert index.nearest("clientes de goias", 2) == [0, 2]
    assert Bm25([]).nearest("nada", 3) == []


def test_adding_a_variant_keeps_what_was_measured(trained, capsys):
    args, folder = trained
    evaluate.main([*args, "--only", "treinado"])
    evaluate.main([*args, "--only", "base", "--add"])
    path = folder / "resultados" / "mini_projeto_lora_teste.json"
    summary = json.loads(path.read_text())
    assert list(summary["variantes"]) == [evaluate.BASE, evaluate.TUNED]
    assert "mcnemar_base_treinado" in summary
    assert len(path.with_suffix(".jsonl").read_text().splitlines()) == 12
    evaluate.main([*args, "--only", "base", "--add"])
    assert len(path.with_suffix(".jsonl").read_text().splitlines()) == 12, "refeita, não repetida"
    other = [*args, "--only", "base", "--add", "evaluation.limit=3"]
    assert run_main(evaluate.main, other) == 2
    assert "outras perguntas" in capsys.readouterr().err


def test_after_another_training_only_the_untrained_measures_stay(trained, capsys):
    args, folder = trained
    evaluate.main(args)
    train.main([*args, "training.max_steps=1"])
    evaluate.main([*args, "--only", "treinado", "--add"])
    assert "só as medidas do modelo sem treino" in capsys.readouterr().out
    path = folder / "resultados" / "mini_projeto_lora_teste.json"
    summary = json.loads(path.read_text())
    assert summary["treino"]["passos"] == 1
    assert list(summary["variantes"]) == [evaluate.BASE, evaluate.TUNED]
    assert summary["variantes"][evaluate.TUNED]["treino"]["passos"] == 1


def test_nothing_to_measure_is_explained(trained, capsys):
    args, _ = trained
    assert run_main(evaluate.main, [*args, "--only", "formas"]) == 2
    assert "nenhuma variante" in capsys.readouterr().err


def test_wordings_ask_the_same_questions_without_accents_and_with_a_typo(trained):
    args, folder = trained
    evaluate.main([*args, "--only", "treinado", "--only", "redacoes", "--wordings"])
    text = (folder / "resultados" / "mini_projeto_lora_teste.jsonl").read_text()
    asked: dict = {}
    for line in map(json.loads, text.splitlines()):
        asked.setdefault(line["variant"], {})[line["id"]] = line["question"]
    clean, plain, wrong = asked.values()
    assert list(asked) == [evaluate.TUNED, "treinado, sem acentos",
                           "treinado, com erro de digitação"]  # fmt: skip
    assert all(text.isascii() or "–" in text for text in plain.values())
    assert sum(wrong[i] != clean[i] for i in clean) >= len(clean) - 1


def test_other_trainings_are_measured_on_the_same_questions(trained, monkeypatch, capsys):
    args, folder = trained
    monkeypatch.setattr(dashboard, "RESULTS_DIR", folder / "resultados")
    full = folder / "full"
    train.main([*args, "training.method=full", f"training.output_dir={full}",
                "training.max_steps=1"])  # fmt: skip
    evaluate.main([*args, "--only", "treinado"])
    assert evaluate.main([*args, "--add", "--only", "outros", "--also", str(full)]) == 0
    summary = json.loads((folder / "resultados" / "mini_projeto_lora_teste.json").read_text())
    variants = summary["variantes"]
    assert list(variants) == [evaluate.TUNED, f"{evaluate.TUNED}, full"]
    lora, other = variants.values()
    assert lora["treino"]["metodo"] == "lora" and other["treino"]["metodo"] == "full"
    assert other["treino"]["passos"] == 1
    assert other["bytes_dos_pesos"] == (full / "model.safetensors").stat().st_size
    assert summary["mcnemar_treinado_forma"].keys() == {f"{evaluate.TUNED}, full"}
    first, second = summary["comando"].split(" && ")
    assert "--add" not in first and second.endswith(f"--also {full}")
    curve = dashboard.page(load_config(None, args)).split("número de exemplos de treino")[1]
    assert "Um treino só" in curve, "o completo não é um ponto da curva do LoRA"
    twice = [*args, "--also", str(full), "--also", str(folder / "outra" / "full")]
    (folder / "outra").mkdir()
    shutil.copytree(full, folder / "outra" / "full")
    assert run_main(evaluate.main, twice) == 2
    assert "nomes diferentes" in capsys.readouterr().err


def test_a_folder_that_was_not_trained_is_refused(trained, capsys):
    args, folder = trained
    assert run_main(evaluate.main, [*args, "--also", str(folder)]) == 2
    assert "não é uma saída de train.py" in capsys.readouterr().err


def test_bleu_of_equal_and_of_different_answers():
    sql = "SELECT nome FROM produtos ORDER BY preco DESC LIMIT 3"
    assert bleu([sql, sql], [sql, sql])["valor"] == pytest.approx(100)
    low = bleu([sql, "SELECT 1"], [sql, "SELECT COUNT(*) FROM clientes WHERE uf = 'MG'"])
    assert 0 < low["valor"] < 100 and low["ic95"][0] <= low["valor"] <= low["ic95"][1]
    assert "tok:13a" in low["assinatura"]


@pytest.mark.skipif(not STATUS.is_file(), reason="só o Linux conta a memória do processo assim")
def test_memory_growth_sees_what_was_taken_and_forgets_earlier_peaks():
    growth = MemoryGrowth()
    block = bytearray(64 << 20)
    assert growth.peak() >= 60 << 20
    del block
    growth.restart_peak()
    assert growth.peak() < 32 << 20
