"""Dia 4: o LoRA à mão contra a fórmula e contra o peft; os treinos; o plano; o estudo."""

import argparse
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from comum import conversations, memory_plan, models, sft
from comum.conversations import DATA_DIR, read_conversations
from comum.labels import HYPERPARAMETERS
from comum.models import linears_of, load_tokenizer
from comum.paths import DEFAULT_MODEL, REFERENCE_DIR
from comum.results import Day4, Day4Study, Score, TrainingRun
from comum.terminal import UserError, run_main

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config

import exemplo_02_lora_peft as lesson
from dia4 import estudo, runs

LLAMA_2_7B = "meta-llama/Llama-2-7b-hf"


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def tiny(request) -> str:
    return str(request.getfixturevalue(request.param))


def settings(model, method="lora", *extra) -> argparse.Namespace:
    """As opções de um treino chamado direto, neste processo."""
    args = lesson.arguments(["--quick", "--no-answers", "--model", str(model), *extra])
    args.output = Path(args.output) if "--output" in extra else Path("/nao/usada")
    return lesson.settings_of(args, method, args.learning_rate or 4e-3)


def built(model, method: str, folder: Path, count: int = 3) -> tuple:
    """O que a lição monta antes de treinar: opções, tokenizador, conversas e o SFTTrainer."""
    run = settings(model, method, "--output", str(folder))
    tokenizer = load_tokenizer(run.model)
    texts = read_conversations(DATA_DIR / "atendimento_treino.jsonl", count)
    return run, tokenizer, texts, lesson.build_trainer(run, tokenizer, texts)


def first_layer(model):
    one = AutoModelForCausalLM.from_pretrained(model, num_hidden_layers=1)
    return one, next(iter(linears_of(one).values()))


def test_the_whole_lesson_side_by_side(results, tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lesson, "alone", lambda function, *arguments: function(*arguments))
    command = ["--quick", "--model", str(tiny_llama), "--output", str(tmp_path), "--name", "minha"]
    lesson.main(lesson.arguments(command))
    shown = capsys.readouterr().out
    assert "perplexidade por token: LoRA fica" in shown
    assert shown.count("[certo]") == 4 and "ERRADO" not in shown and "conferir.py dia4" in shown
    result = Day4.load(results / "dia4_lora_quick_minha.json")
    full, lora = result.runs["full"], result.runs["lora"]
    assert full.trainable_parameters == full.total_parameters > lora.trainable_parameters
    assert lora.memory_measured.optimizer < full.memory_measured.optimizer
    assert lora.memory_measured.optimizer == pytest.approx(lora.memory_predicted.optimizer)
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
    assert lora.disk_mib < full.disk_mib and len(lora.answers) == len(conversations.PROMPTS)


def test_without_answers_no_question_is_shown(results, tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lesson, "alone", lambda function, *arguments: function(*arguments))
    command = ["--quick", "--only-lora", "--no-answers", "--model", str(tiny_llama)]
    lesson.main(lesson.arguments([*command, "--output", str(tmp_path)]))
    assert conversations.PROMPTS[0] not in capsys.readouterr().out


def test_a_conversation_that_brings_its_system_does_not_get_ours():
    said = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    found = lesson.prompt_completion(said)
    assert found == {"prompt": said[:-1], "completion": said[-1:]}


def test_the_script_trains_in_a_process_of_its_own(lesson_process, tiny_gpt2, tmp_path):
    arguments = ["--quick", "--only-lora", "--model", tiny_gpt2, "--output", tmp_path]
    lesson_process(tmp_path, lesson, *arguments)
    lora = Day4.load(tmp_path / "dia4_lora_quick.json").runs["lora"]
    assert lora.peak_mib > lora.idle_mib > 0 and lora.steps == 2


def test_hand_lora_starts_silent_and_merges_exactly():
    torch.manual_seed(0)
    linear = nn.Linear(12, 20)
    layer = lesson.HandLora(linear, r=3, alpha=6)
    x = torch.randn(5, 12)
    assert torch.equal(layer(x), linear(x))
    with torch.no_grad():
        layer.B.normal_()
    assert not torch.allclose(layer(x), linear(x))
    merged = nn.functional.linear(x, layer.merged(), linear.bias)
    torch.testing.assert_close(merged, layer(x), rtol=1e-5, atol=1e-5)
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B"}


def test_the_four_checks_pass_on_real_layers(tiny):
    model, layer = first_layer(tiny)
    checks = lesson.check_by_hand(model, layer, memory_plan.config_of(tiny), settings(tiny))
    assert list(checks.values()) == [True] * 4


def test_the_checks_fail_when_lora_is_wrong(tiny_llama, monkeypatch):
    """Uma conferência que não pode falhar não confere nada."""
    model, layer = first_layer(tiny_llama)
    monkeypatch.setattr(lesson.HandLora, "merged", lambda self: self.linear.weight)
    config = memory_plan.config_of(str(tiny_llama))
    checks = lesson.check_by_hand(model, layer, config, settings(tiny_llama))
    assert list(checks.values()) == [True, False, True, True]


@pytest.mark.parametrize("method", ["full", *lesson.VARIANTS])
def test_every_method_learns(tiny_llama, tmp_path, method):
    more = ["--learning-rate", "1e-2", "--epochs", "4", "--rank", "4", "--output", str(tmp_path)]
    result = lesson.train_one(settings(tiny_llama, method, *more))
    assert result.steps == len(result.losses) == 8
    assert sum(result.losses[-2:]) < sum(result.losses[:2])
    assert result.test["perplexity_token"].n == 8 and result.seconds > 0


def test_a_single_step_already_teaches(tiny_llama, tmp_path):
    more = ["--train-examples", "4", "--output", str(tmp_path)]
    lesson.train_one(settings(tiny_llama, "lora", *more))
    trained = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in trained.items() if "lora_B" in name)


def test_the_library_learns_what_the_mask_of_day_three_says(tiny_llama, tmp_path):
    """A resposta, o fim dela e, diferença do TRL, a quebra de linha que o template põe depois."""
    _, tokenizer, texts, trainer = built(tiny_llama, "lora", tmp_path)
    rows = [conversations.encode(tokenizer, messages)["labels"] for messages in texts]
    ours, theirs = (
        sorted([token for token in labels if token >= 0] for labels in found)
        for found in (rows, trainer.train_dataset["labels"])
    )
    end = tokenizer("\n", add_special_tokens=False).input_ids
    assert theirs == [labels + end for labels in ours]


def test_adalora_keeps_its_penalty(tiny_llama, tmp_path):
    *_, trainer = built(tiny_llama, "adalora", tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    with torch.no_grad():
        with_penalty = trainer.compute_loss(trainer.model, dict(batch)).item()
        plain = trainer.model(**batch, fused_lm_head=True).log_probs
    assert with_penalty > -plain.sum().item() / int((batch["labels"][:, 1:] >= 0).sum()) + 1e-3


def test_the_same_seed_gives_the_same_run(tiny_llama, tmp_path):
    run = settings(tiny_llama, "lora", "--output", str(tmp_path))
    first, second = (lesson.train_one(run).losses for _ in range(2))
    assert first == second


def test_passes_and_fractions_of_passes_lose_nothing():
    texts = [[{"content": "x" * n}] for n in range(10)]
    for epochs, expected in ((1, 10), (0.5, 5), (2.5, 25)):
        run = SimpleNamespace(seed=1, batch_size=4, epochs=epochs)
        found = [len(m[0]["content"]) for m in lesson.in_similar_batches(texts, run)]
        assert len(found) == expected
        assert sorted(found[:10]) == (list(range(10)) if epochs >= 1 else sorted(set(found)))


def test_a_folder_without_weights_and_an_output_of_someone_else_are_refused(
    tmp_path, capsys, tiny_llama
):
    """As duas coisas se dizem antes do treino, e o que é de quem estuda fica onde está."""
    bare = shutil.copytree(tiny_llama, tmp_path / "modelo")
    (bare / "model.safetensors").unlink()
    assert run_main(lesson.main, lesson.arguments(["--quick", "--model", str(bare)])) == 2
    assert "a pasta não tem pesos" in capsys.readouterr().err
    thesis = tmp_path / "meus" / "lora" / "tese.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("capítulo 1")
    options = ["--quick", "--only-lora", "--model", str(tiny_llama), "--output", tmp_path / "meus"]
    assert run_main(lesson.main, lesson.arguments(list(map(str, options)))) == 2
    assert "não foi feita por este programa" in capsys.readouterr().err and thesis.is_file()


# --- a memória ----------------------------------------------------------------------------------
@pytest.mark.model
@pytest.mark.parametrize("mode", ["full bf16", "lora float32", "lora bf16"])  # dia 3: a outra
def test_the_memory_of_the_default_model_is_predicted_within_a_tenth(mode, monkeypatch, tmp_path):
    """Prevista e medida, com e sem bf16, no modelo de verdade."""
    method, precision = mode.split()
    if precision == "bf16" and models.compute_dtype() != torch.bfloat16:
        pytest.skip("este processador emula o bf16, e o passo levaria um minuto")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for module in (lesson.models, sft):
        monkeypatch.setattr(module, "compute_dtype", lambda: dtype)
    run, tokenizer, texts, trainer = built(DEFAULT_MODEL, method, tmp_path, 2)
    rows = [conversations.encode(tokenizer, messages) for messages in texts]
    with sft.disable_input_dtype_casting(trainer.model):
        batch = lesson.pad(rows, tokenizer.pad_token_id)
        measured = lesson.sft.step_memory(trainer, batch)
        predicted = sft.predicted_memory(trainer, batch, vars(run))
    for part, value in predicted:
        assert getattr(measured, part) == pytest.approx(value, rel=0.1), part


def test_recomputed_activations_are_measured_so_and_not_predicted(
    tiny_llama, tmp_path, monkeypatch
):
    """Só a medida é a de um passo como os do treino; a conta é a de quem as guarda todas."""
    found = []
    for recomputed in (False, True):
        monkeypatch.setattr(lesson, "recomputes_activations", lambda *given, x=recomputed: x)
        found.append(lesson.train_one(settings(tiny_llama, "lora", "--output", str(tmp_path))))
    kept, less = (run.memory_measured.activations for run in found)
    assert less < kept / 2 and found[0].losses == pytest.approx(found[1].losses, rel=1e-3)
    assert found[0].memory_predicted and found[1].memory_predicted is None


PUBLISHED = {  # parâmetros, dos índices de safetensors
    LLAMA_2_7B: 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "google/gemma-2-2b": 2_614_341_888,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
}


def test_the_known_models_have_the_published_sizes():
    found = {name: memory_plan.known_shape(name).total for name in memory_plan.KNOWN_SHAPES}
    assert found == PUBLISHED


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (LLAMA_2_7B, LlamaConfig()),
        ("Qwen/Qwen2.5-0.5B", Qwen2Config()),
        ("google/gemma-2-2b", Gemma2Config()),
        ("microsoft/Phi-3-mini-4k-instruct", Phi3Config(pad_token_id=0)),
    ],
)
def test_the_sizes_by_arithmetic_are_those_of_transformers(name, config, monkeypatch):
    """Todas as matrizes de cada arquitetura, num modelo de duas camadas."""
    width, inner, _, heads, keys, size, vocabulary, *options = memory_plan.KNOWN_SHAPES[name]
    two = (width, inner, 2, heads, keys, size, vocabulary, *options)
    monkeypatch.setitem(memory_plan.KNOWN_SHAPES, name, two)
    config.update({"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 2})
    config.update({"num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": size})
    config.update({"vocab_size": vocabulary, "tie_word_embeddings": "tied" in options})
    config.layer_types = ["full_attention"] * 2
    real, ours = memory_plan.shape_of(config), memory_plan.known_shape(name)
    assert sorted(real.linears.values()) == sorted(ours.linears.values())
    assert replace(real, linears={}) == replace(ours, linears={})


def test_the_plan_of_a_known_model_needs_neither_torch_nor_a_hub(tmp_path):
    code = "import sys; sys.argv = ['plano.py', '--model', 'google/gemma-2-2b']; import plano; "
    code += "plano.main(); assert not {'torch', 'transformers'} & sys.modules.keys()"
    folder = Path(estudo.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "2.614.341.888 parâmetros" in done.stdout, done.stderr


def test_a_model_nobody_knows_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="não achei a configuração.*google/gemma-2-2b"):
        memory_plan.show_plan("nao/existe", 16)


def test_the_numbers_of_the_papers_come_out():
    """GPT-3 175B, r=4 em q e v: 35 MB por checkpoint (Hu et al., 2021, §4.2); a quantização dupla
    leva 0,5 bit por parâmetro a 0,127 (Dettmers et al., 2023, seção 3)."""
    linears = {f"{layer}.{name}": (12_288, 12_288) for layer in range(96) for name in "qv"}
    assert 2 * memory_plan.Shape(175 * 10**9, linears).adapter(4) / 2**20 == pytest.approx(36)
    assert pytest.approx(0.127, abs=5e-4) == memory_plan.NF4_BITS - 4


def test_the_plan_orders_the_methods(capsys):
    shape = memory_plan.known_shape(LLAMA_2_7B)
    plans = memory_plan.plan(shape, r=16, tokens=1024, checkpointing=True)
    assert plans["todos os pesos"]["total"] > 80, "não cabe numa GPU de 80 GB"
    assert 13 < plans["LoRA"]["total"] < 16 and plans["QLoRA"]["total"] < 6
    assert plans["LoRA"]["file"] == plans["QLoRA"]["file"] < 0.1
    kept = memory_plan.plan(shape, r=16, tokens=1024, checkpointing=False)
    assert kept["LoRA"]["activations"] > 5 * plans["LoRA"]["activations"]
    memory_plan.show_plan(LLAMA_2_7B, 16)
    assert "6.738.415.616 parâmetros" in capsys.readouterr().out


@pytest.mark.parametrize(("idle", "where"), [(0.0, "no pico da GPU"), (512.0, "512 MiB de Python")])
def test_the_verdict_says_whose_peak_it_compares(capsys, idle, where):
    full, lora = Day4.load(REFERENCE_DIR / "dia4_lora.json").runs.values()
    runs.show_verdict(full, lora.model_copy(update={"idle_mib": idle}))
    shown = capsys.readouterr().out
    assert where in shown and ("Python" in shown) == bool(idle)


# --- o estudo -----------------------------------------------------------------------------------
def fake_run(score: float, trainable: int) -> TrainingRun:
    run = Day4.load(REFERENCE_DIR / "dia4_lora.json").runs["lora"]
    value = {"perplexity_token": Score(value=score, ci95=(score, score))}
    changed = {"validation": value, "test": value, "trainable_parameters": trainable}
    return run.model_copy(update=changed)


def test_the_study_resumes_and_chooses_by_the_rule(tmp_path, monkeypatch, results, capsys):
    """Morto no meio, não repete o que já fez; no empate a regra prefere menos parâmetros."""
    monkeypatch.setattr(estudo, "RESULTS_DIR", results)
    calls = []

    def lesson_of(command, env, stdout):
        """Em vez da lição: grava o resultado que ela gravaria."""
        args = lesson.arguments(command[2:])
        if len(calls) == 5:
            calls.append("morte")
            raise KeyboardInterrupt
        calls.append(args.seed)
        score = {4: 5.02, 8: 6.0, 16: 5.5, 32: 5.0, 64: 5.4}[args.r] + 0.1 * (args.seed == 2)
        runs = {"lora": fake_run(score, 100 * args.r)}
        monkeypatch.setattr("comum.results.RESULTS_DIR", Path(env["SEMANA06_RESULTADOS"]))
        Day4(model="x", seed=1, checks={}, runs=runs).save(f"dia4_lora_{args.name}")
        monkeypatch.setattr("comum.results.RESULTS_DIR", results)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(estudo, "subprocess", SimpleNamespace(run=lesson_of, DEVNULL=None))
    monkeypatch.setattr("comum.results.commit", lambda: None)
    path = tmp_path / "estudo.yaml"
    path.write_text(
        f"{BASE}seeds: {{quick: [1], full: [1, 2]}}\n"
        "factors: {r: [{r: 4}, {r: 8}, {r: 32}, {r: 64}]}\nquick: [r]\n",
        encoding="utf-8",
    )
    args = estudo.arguments(["--level", "full", "--study", str(path), "--model", "x"])
    with pytest.raises(KeyboardInterrupt):
        estudo.main(args)
    estudo.main(args)
    assert len([call for call in calls if call != "morte"]) == 10, "cada treino uma vez só"
    result = Day4Study.load(results / "dia4_estudo_full.json")
    assert result.chosen.change == {"r": 4}, "5,02 empata com 5,00 e custa menos"
    assert result.chosen.spread == pytest.approx(0.1 / math.sqrt(2))
    assert "→ r=4" in capsys.readouterr().out
    assert (results / "dia4_estudo_full.png").stat().st_size > 0


def test_a_run_of_the_study_that_dies_is_said(monkeypatch, results):
    monkeypatch.setattr(estudo, "RESULTS_DIR", results)
    dead = SimpleNamespace(run=lambda *a, **b: SimpleNamespace(returncode=1), DEVNULL=None)
    monkeypatch.setattr(estudo, "subprocess", dead)
    with pytest.raises(UserError, match="um treino do estudo não terminou"):
        estudo.train("x", {"r": 4}, 1)


BASE = (
    "base: {method: lora, r: 16, alpha: 6, dropout: 0, learning_rate: 0.1, "
    "target_modules: all-linear, epochs: 1, train_examples: 9}\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {rank: 3}\nseeds: {quick: [1]}\nfactors: {}\nquick: []\n", "desconhecida: rank"),
        ("base: {r: 3}\nseeds: {}\nfactors: {}\nquick: []\n", "não tem a forma esperada"),
        (
            "base: {r: 3, alpha: 6}\nseeds: {quick: [1]}\nfactors: {r: [{r: 4}]}\nquick: [r]\n",
            "faltam chaves em base: dropout, epochs,",
        ),
        (BASE + "seeds: {quick: [1]}\nfactors: {posto: [{r: 4}]}\nquick: [posto]\n", "há posto"),
        (BASE + "seeds: {quick: 1}\nfactors: {r: [{r: 4}]}\nquick: [r]\n", "uma lista"),
        (BASE + "seeds: {quick: [1]}\nfactors: {r: [{r: 4}]}\nquick: []\n", "ao menos um fator"),
        ("- só\n- uma lista\n", "tem de ser um mapa"),
        ("base: [", "o texto acaba antes"),
    ],
)
def test_a_bad_study_file_is_explained(tmp_path, text, message):
    path = tmp_path / "estudo.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        estudo.load_study(path, "quick")


@pytest.mark.parametrize("level", ["quick", "full"])
def test_the_lesson_takes_what_the_study_of_the_repository_asks(level, monkeypatch, results):
    """Cada configuração vira opções que a lição aceita."""
    points, seeds = estudo.load_study(estudo.STUDY, level)
    assert {factor for factor, _ in points} <= {"base", *HYPERPARAMETERS}, "um painel sem nome"
    assert len(points) >= 5 and len(seeds) >= (2 if level == "full" else 1)
    monkeypatch.setattr(estudo, "RESULTS_DIR", results)
    accepted = []

    def accept(command, **options):
        accepted.append(lesson.arguments(command[2:]))
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(estudo, "subprocess", SimpleNamespace(run=accept, DEVNULL=None))
    for _, point in points:
        with pytest.raises(UserError):
            estudo.train("x", point, seeds[0])
        args = accepted[-1]
        assert {"r": args.r, "alpha": args.alpha} == {"r": point["r"], "alpha": point["alpha"]}
        assert args.variant == point["method"] and args.train_examples == point["train_examples"]
