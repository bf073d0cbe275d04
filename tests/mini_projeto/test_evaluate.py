"""evaluate.py: notas, intervalos, variantes, o que se junta e o que se recusa."""

import json
import shutil
import sys
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

from comum import decoding, results
from comum.files import read_jsonl
from comum.numbers import interval
from comum.paths import REFERENCE_DIR
from comum.results import Evaluation, Latency
from comum.terminal import run_main

import pytest

import evaluate
from loja_sql.config import load_config
from loja_sql.model.summary import read_summary
from loja_sql.prompt import Context, messages
from loja_sql.questions.retrieval import Bm25
from loja_sql.questions.splits import load_split
from loja_sql.scores import latency, overview, variants
from loja_sql.scores.variants import BASE, TUNED


def run(folder: Path, args: list[str], *options: object, name: str = "lora_test"):
    """Roda evaluate.py e devolve (o resultado, as linhas), que ficam em `folder`.

    A latência, que pede um processo por variante, tem o seu teste.
    """
    found = Latency(questions=2, p50_s=0.25, p95_s=0.5, tokens_per_second=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "RESULTS_DIR", folder)
        patch.setattr(latency, "measure", lambda variant, prompts: (found, 10**7))
        assert evaluate.main([*args, *map(str, options)]) == 0
    path = folder / f"mini_projeto_{name}.json"
    lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return Evaluation.load(path), [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def measured(trained, tmp_path_factory) -> tuple[Path, str]:
    """O modelo sem treino e o treinado, medidos uma vez: (pasta dos resultados, o que se viu)."""
    folder = tmp_path_factory.mktemp("medido")
    with redirect_stdout(StringIO()) as shown:
        run(folder, trained[0])
    return folder, shown.getvalue()


@pytest.fixture
def measure(measured, tmp_path, monkeypatch):
    """`run` numa pasta que já tem o que se mediu; devolve (o resultado, as linhas)."""
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    return partial(run, tmp_path)


def test_evaluation_writes_scores_and_one_line_per_question(measured):
    folder, shown = measured
    path = folder / "mini_projeto_lora_test.json"
    found, lines = Evaluation.load(path), read_jsonl(path.with_suffix(".jsonl"))
    assert list(found.variants) == [BASE, TUNED] and len(lines) == 2 * 6
    for name, variant in found.variants.items():
        mine = [line for line in lines if line["variant"] == name]
        accuracy = variant.execution_accuracy
        assert accuracy.n == 6 and accuracy.value * 6 == sum(line["correct"] for line in mine)
        assert variant.gold_perplexity.value > 1
        assert sum(variant.error_causes.values()) == sum(not line["correct"] for line in mine)
    keys = {"id", "variant", "question", "gold", "predicted", "correct", "error", "exact", "kind"}
    assert set(lines[0]) == keys | {"declined", "difficulty", "cause"}
    assert found.base_against_trained and found.config["training"]["max_steps"] == 6
    assert found.training.steps == 6 and found.command.startswith("python evaluate.py")
    assert "acurácia de execução" in shown and "McNemar" in shown and "10 MB" in shown


def test_latency_and_memory_are_measured_in_a_process_of_their_own(trained, capsys):
    """O modelo minúsculo, sem as bibliotecas, cabe em 200 MB."""
    config = load_config(None, trained[0])
    alone, memory = latency.measure(
        variants.choose(config, evaluate.arguments(["--only", "untrained"]))[0], ["quantos?"] * 3
    )
    assert alone.questions == 3 and 0 < alone.p50_s <= alone.p95_s
    assert memory is None or 0 < memory < 200e6
    assert "Uma a uma" not in capsys.readouterr().out, "a barra é a do outro processo"


def test_gold_answers_score_one_hundred_percent(trained, measure, monkeypatch):
    """A nota vem da execução: respostas iguais ao gabarito acertam tudo, e só elas."""
    args, _ = trained
    rows = load_split(load_config(None, args), "test")

    def oracle(model, tokenizer, prompts, *_):
        yield [(i, row["sql"]) for i, row in enumerate(rows)]

    monkeypatch.setattr(decoding, "generate", oracle)
    found, _ = measure(args, "--only", "trained")
    assert found.variants[TUNED].execution_accuracy.value == 1


def test_own_questions_are_scored_and_bad_rows_reported(trained, measure, tmp_path, capsys):
    args, _ = trained
    path = tmp_path / "minhas.jsonl"
    path.write_text(
        '{"question": "quantos clientes?", "sql": "SELECT COUNT(*) FROM clientes"}\n'
        '{"question": "sem sql"}\nisto não é json\n'
        '{"question": "vazia", "sql": "SELECT nome FROM clientes WHERE uf = \'ZZ\'"}\n',
        encoding="utf-8",
    )
    options = ("--questions", path, "--only", "trained")
    found, _ = measure(args, *options, name="lora_minhas")
    errors = capsys.readouterr().err
    assert "minhas.jsonl:2" in errors and "minhas.jsonl:3" in errors
    assert "minhas.jsonl:4): resultado vazio" in errors
    assert found.variants[TUNED].execution_accuracy.n == 1 and found.questions == str(path)
    namesake = path.rename(tmp_path / "test.jsonl")
    other, _ = measure(args, "--questions", namesake, *options[2:], name="lora_perguntas_test")
    assert other.questions == str(namesake)
    kept = Evaluation.load(tmp_path / "mini_projeto_lora_test.json")
    assert kept.questions == "test", "o nome do arquivo não é o da divisão"


COUNT = "SELECT COUNT(*) FROM clientes"
NAMES = "SELECT nome FROM vendedores"
JUDGED = [  # referência, resposta, acertou, causa
    ([COUNT, NAMES], NAMES, True, None),
    ([COUNT, NAMES], "SELECT 1", False, "tabela errada"),
    ([COUNT, "NÃO SEI"], "NÃO SEI", True, None),
    (COUNT, COUNT, True, None),
    (COUNT, "não sei.", False, "recusou sem motivo"),
    ("não sei", "NÃO SEI", True, None),
    ("NÃO SEI", COUNT, False, "devia recusar"),
    ("NÃO SEI", "nada disso", False, "devia recusar"),
]


def test_any_reading_is_right_and_declines_are_counted_on_both_sides(
    trained, measure, monkeypatch, tmp_path, capsys
):
    path = tmp_path / "minhas.jsonl"
    rows = [{"question": f"pergunta {i}?", "sql": row[0]} for i, row in enumerate(JUDGED)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = [(i, row[1]) for i, row in enumerate(JUDGED)]
    monkeypatch.setattr(decoding, "generate", lambda *_: iter([answers]))
    options = ("--questions", path, "--only", "trained")
    found, lines = measure(trained[0], *options, name="lora_minhas")
    assert [(line["correct"], line["cause"]) for line in lines] == [row[2:] for row in JUDGED]
    scores = found.variants[TUNED]
    assert (scores.execution_accuracy.value, scores.execution_accuracy.n) == (3 / 5, 5)
    assert (scores.declined_right.value, scores.declined_right.n) == (1 / 3, 3)
    assert (scores.declined_wrong.value, scores.declined_wrong.n) == (1 / 5, 5)
    assert scores.valid_sql.value == 3 / 5 and sum(scores.error_causes.values()) == 4
    assert sum(part.n for part in scores.by_kind.values()) == 5
    shown = capsys.readouterr().out
    assert "5 perguntas e 3 que o banco não responde" in shown and "33,3 [6,1; 79,2]" in shown


def test_questions_without_any_answer_cannot_be_scored(trained, tmp_path, capsys):
    path = tmp_path / "minhas.csv"
    path.write_text("question,sql\nqual o lucro?,não sei\n", encoding="utf-8")
    assert run_main(evaluate.main, [*trained[0], "--questions", str(path)]) == 2
    assert "nenhuma pergunta aproveitável que o banco responda" in capsys.readouterr().err


def test_a_limited_evaluation_takes_questions_from_the_whole_file():
    rows = list(range(340))
    chosen = variants.spread(rows, 40)
    assert len(set(chosen)) == 40 and chosen == sorted(chosen)
    assert chosen[0] == 0 and chosen[-1] > 330
    assert variants.spread(rows, None) == variants.spread(rows, 999) == rows


def test_examples_in_the_prompt_come_from_training_and_the_nearest_come_last(trained, measure):
    args, _ = trained
    found, _ = measure(args, "--only", "untrained", "--only", "examples", "--few-shot", 2)
    plain, fixed, similar = (part.prompt_tokens for part in found.variants.values())
    assert plain < min(fixed, similar)
    config = load_config(None, args)
    row = load_split(config, "train")[3]
    variant = variants.choose(
        config, evaluate.arguments(["--only", "examples", "--few-shot", "2"])
    )[1]
    shown = variant.examples(row["question"])
    assert shown[-1] == (row["question"], row["sql"]) and len(shown) == 2
    turns = messages(config, "e agora?", Context("", lambda question: ()), shown)
    assert [t["role"] for t in turns] == ["system", *["user", "assistant"] * 2, "user"]


def test_bm25_prefers_rare_words_in_common_and_ignores_accents():
    index = Bm25(["quantos clientes há em Goiás", "quantos pedidos há", "quantos clientes há"])
    assert index.nearest("pedidos?", 1) == [1]
    assert index.nearest("clientes de goias", 2) == [0, 2]
    assert Bm25([]).nearest("nada", 3) == []


def test_adding_a_variant_keeps_what_was_measured(trained, measure, capsys):
    args, _ = trained
    found, lines = measure(args, "--only", "untrained", "--add")
    assert list(found.variants) == [BASE, TUNED] and found.base_against_trained
    assert len(lines) == 12, "refeita, não repetida"
    first, second = found.command.split(" && ")
    assert first.endswith("--add") and "--add" not in second
    other = [*args, "--only", "untrained", "--add", "evaluation.limit=3"]
    assert run_main(evaluate.main, other) == 2
    assert "outras perguntas" in capsys.readouterr().err


def test_after_another_training_only_the_untrained_measures_stay(
    trained, measure, tmp_path, capsys
):
    args, adapter = trained
    other = shutil.copytree(adapter, tmp_path / "lora")
    summary = read_summary(other).model_copy(update={"steps": 1})
    (other / "training.json").write_text(summary.model_dump_json(), encoding="utf-8")
    args = [*args, f"training.output_dir={other}"]
    found, _ = measure(args, "--only", "trained", "--add")
    assert "só as medidas do modelo sem treino" in capsys.readouterr().out
    assert list(found.variants) == [BASE, TUNED]
    assert found.training.steps == found.variants[TUNED].training.steps == 1


def test_wordings_ask_the_same_questions_without_accents_and_with_a_typo(trained, measure):
    args, _ = trained
    _, lines = measure(args, "--add", "--only", "wordings", "--wordings")
    asked: dict = {}
    for line in lines:
        asked.setdefault(line["variant"], {})[line["id"]] = line["question"]
    _, clean, plain, wrong = asked.values()
    assert list(asked)[1:] == [TUNED, "treinado, sem acentos", "treinado, com erro de digitação"]
    assert all(text.isascii() or "–" in text for text in plain.values())
    assert sum(wrong[i] != clean[i] for i in clean) >= len(clean) - 1


def test_other_trainings_are_measured_on_the_same_questions(
    trained, measure, wide_llama, tmp_path, capsys
):
    args, adapter = trained
    full = shutil.copytree(wide_llama, tmp_path / "full")
    shutil.copy(adapter / "effective_config.yaml", full)
    summary = read_summary(adapter).model_copy(update={"method": "full"})
    (full / "training.json").write_text(summary.model_dump_json(), encoding="utf-8")
    found, _ = measure(args, "--add", "--only", "others", "--also", full)
    _, lora, other = found.variants.values()
    assert list(found.variants) == [BASE, TUNED, f"{TUNED}, full"]
    assert (lora.training.method, other.training.method) == ("lora", "full")
    assert other.weights_bytes == (full / "model.safetensors").stat().st_size
    assert lora.weights_bytes > other.weights_bytes
    assert found.against_trained.keys() == {f"{TUNED}, full"}
    shutil.copytree(full, tmp_path / "outra" / "full")
    twice = [*args, "--also", str(full), "--also", str(tmp_path / "outra" / "full")]
    assert run_main(evaluate.main, twice) == 2
    assert "nomes diferentes" in capsys.readouterr().err


def test_exported_forms_are_measured_and_the_missing_ones_named(exported, measure, capsys):
    args, folder = exported
    found, _ = measure(args, "--only", "forms", "--forms", "bf16,gptq,bf16")
    (name, form), *others = found.variants.items()
    assert name == f"{TUNED}, bf16" and not others
    weights = next((folder / "exported" / "bf16").glob("*.safetensors"))
    assert form.engine == "transformers bf16" and form.weights_bytes == weights.stat().st_size
    assert "A forma gptq não está exportada" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "forms"], "nenhuma variante"),
        (["--also", "/tmp"], "não é uma saída de train.py"),
        (["database.seeds=[99]"], "banco de dados não encontrado"),
        (["--split", "generated_test"], "Prepare os dados"),
        (["--questions", "nada.csv"], "não existe"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(trained, options, message, capsys):
    assert run_main(evaluate.main, [*trained[0], *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--split", "teste"], ["--few-shot", "-1"], ["--forms", "q9"], ["--name", "a/b"]]
)
def test_bad_options_end_with_code_two(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(options)
    assert stopped.value.code == 2 and "Erro" in capsys.readouterr().err


def test_our_published_scores_are_still_read_and_shown(capsys):
    found = Evaluation.load(REFERENCE_DIR / "mini_projeto_pronto_test.json")
    overview.show(found)
    shown = capsys.readouterr().out
    assert all(name in shown for name in found.variants)
    ours = found.variants["treinado"]
    assert interval(ours.execution_accuracy, 1, 100) in shown
    assert f"{ours.training.minutes:.0f} min" in shown and "transformers bfloat16" in shown
    right = round(ours.execution_accuracy.value * ours.execution_accuracy.n)  # o base não acerta
    assert f"McNemar, treinado: perde 0 da base, ganha {right} " in shown


def test_a_wide_result_still_fits_a_narrow_terminal(monkeypatch, capsys):
    found = Evaluation.load(REFERENCE_DIR / "mini_projeto_pronto_test.json")
    found.variants = dict(list(found.variants.items())[:4])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    overview.show(found)
    lines = capsys.readouterr().out.split("McNemar")[0].splitlines()
    assert max(map(len, lines)) <= 80
