"""Dia 4: o LoRA à mão contra a fórmula e contra o peft; as corridas; o plano de memória."""

import json
import subprocess
import sys

import corrida
import estudo_lora
import exemplo_02_lora_peft as lesson
import medidas
import plano_memoria
import pytest
import torch
import utils  # noqa: F401  (antes do torch)
from torch import nn
from transformers import DataCollatorForSeq2Seq

LLAMA_2_7B = "meta-llama/Llama-2-7b-hf"


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2"])
def tiny(request):
    return str(request.getfixturevalue(request.param))


def test_the_whole_lesson_as_a_subprocess(lesson_process, tiny, tmp_path):
    done = lesson_process(lesson.__file__, "--quick", "--model", tiny,
                          "--output", tmp_path / "modelos")  # fmt: skip
    shown = done.stdout
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "perplexidade por token: o LoRA fica" in shown
    assert shown.count("[certo]") == 4 and "ERRADO" not in shown
    result = json.loads((tmp_path / "resultados" / "dia4_lora_quick.json").read_text("utf-8"))
    full, lora = result["corridas"]["full"], result["corridas"]["lora"]
    assert full["parametros"]["treinaveis"] == full["parametros"]["total"]
    assert lora["parametros"]["treinaveis"] < full["parametros"]["treinaveis"]
    assert lora["memoria_mib"]["otimizador"] < full["memoria_mib"]["otimizador"]
    assert (tmp_path / "modelos" / "lora" / "adapter_model.safetensors").is_file()
    assert lora["disco_mib"] < full["disco_mib"]


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


def test_the_checks_fail_when_lora_is_wrong(tiny_llama, monkeypatch):
    """Uma conferência que não pode falhar não confere nada."""
    model = utils.load_model(str(tiny_llama))
    monkeypatch.setattr(lesson.HandLora, "merged", lambda self: self.linear.weight)
    checks = lesson.check_by_hand(model, lesson.first_linear(model)[1])
    assert list(checks.values()) == [True, False, True, True]


@pytest.mark.parametrize("method", ["full", *corrida.VARIANTS])
def test_every_method_learns(tiny_llama, method):
    run = corrida.Run(
        model=str(tiny_llama), method=method, learning_rate=1e-2, epochs=2, train_examples=32,
        test_examples=4, answers=False, r=4, alpha=8,
    )  # fmt: skip
    result = corrida.execute(run)
    losses = result["treino"]["perdas"]
    assert len(losses) == 8 and sum(losses[-2:]) < sum(losses[:2])
    assert result["metricas"]["teste_perplexidade_token"]["n"] == 4


def test_the_same_seed_gives_the_same_run(tiny_llama):
    run = corrida.Run(model=str(tiny_llama), train_examples=16, test_examples=2, answers=False)
    first, second = (corrida.execute(run)["treino"]["perdas"] for _ in range(2))
    assert first == second


def test_an_unknown_method_is_one_sentence(tiny_llama):
    with pytest.raises(utils.UserError, match="método desconhecido: lorra"):
        corrida.Run(model=str(tiny_llama), method="lorra")


def test_llama_2_7b_has_the_published_size():
    shape = plano_memoria.shape_of(plano_memoria.config_of(LLAMA_2_7B))
    assert shape.total == 6_738_415_616


def test_the_lora_paper_numbers_come_out():
    """GPT-3 175B, r=4 em q e v: de 350 GB a 35 MB por checkpoint (Hu et al., 2021, §4.2)."""
    width, layers = 12_288, 96
    adapter = layers * 2 * 4 * (width + width)
    assert 2 * adapter / 2**20 == pytest.approx(35, rel=0.05)
    assert pytest.approx(350) == 2 * 175e9 / 1e9


def test_the_qlora_paper_numbers_come_out():
    """Quantização dupla: de 0,5 para 0,127 bit por parâmetro (Dettmers et al., 2023, seção 3)."""
    assert pytest.approx(0.127, abs=5e-4) == plano_memoria.NF4_BITS - 4
    assert 32 / 64 == 0.5


@pytest.mark.model
@pytest.mark.parametrize("mode", plano_memoria.STORED)
def test_the_memory_of_the_default_model_is_predicted_within_a_tenth(mode, monkeypatch):
    """Prevista e medida, com e sem bf16, no modelo de verdade."""
    monkeypatch.setattr(utils, "gains_from_bf16", lambda: mode.endswith("bf16"))
    method = "full" if mode.startswith("completo") else "lora"
    run = corrida.Run(model=str(utils.DEFAULT_MODEL), method=method, batch_size=2)
    model = corrida.prepare(run, steps=1)
    tokenizer = utils.load_tokenizer(run.model)
    conversations = utils.read_conversations(utils.DATA_DIR / "atendimento_treino.jsonl", 2)
    rows = [medidas.encode(tokenizer, messages) for messages in conversations]
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)
    memory = corrida.memory_of(model, collator, rows, run)
    for part, predicted in memory["previsto"].items():
        assert memory["medido"][part] == pytest.approx(predicted, rel=0.1), part


def test_the_plan_orders_the_methods():
    shape = plano_memoria.shape_of(plano_memoria.config_of(LLAMA_2_7B))
    plans = plano_memoria.plan(shape, r=16, tokens=1024)
    assert plans["completo"]["soma"] > 80, "não cabe numa GPU de 80 GB"
    assert 13 < plans["LoRA"]["soma"] < 16 and plans["QLoRA"]["soma"] < 6
    assert plans["LoRA"]["arquivo"] == plans["QLoRA"]["arquivo"] < 0.1
    kept = plano_memoria.plan(shape, r=16, tokens=1024, checkpointing=False)
    assert kept["LoRA"]["ativações"] > 5 * plans["LoRA"]["ativações"]


def test_adapter_count_equals_the_formula_on_a_real_count(tiny):
    model = utils.load_model(tiny)
    layer = lesson.first_linear(model)[1]
    checks = lesson.check_by_hand(model, layer)
    assert all(checks.values())


def test_plan_of_an_unknown_name(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["exemplo_02.py", "--plan", "nao/existe"])
    with pytest.raises(SystemExit) as caught:
        utils.run_main(lesson.main)
    assert caught.value.code == 2 and "não achei a configuração" in capsys.readouterr().err


def test_a_run_that_dies_is_reported(tmp_path):
    settings = tmp_path / "corrida.json"
    settings.write_text(json.dumps({"model": str(tmp_path / "nada")}), encoding="utf-8")
    script = lesson.__file__.replace("exemplo_02_lora_peft", "corrida")
    done = subprocess.run([sys.executable, script, settings, tmp_path / "saida.json"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "não consegui carregar o modelo" in done.stderr


def fake_result(score, trainable=1000):
    value = {"valor": score, "ic95": [score, score], "n": 1}
    return {
        "metricas": {"validacao_perplexidade_token": value, "teste_perplexidade_token": value},
        "parametros": {"treinaveis": trainable, "total": 9},
        "treino": {"segundos": 60.0}, "memoria_mib": {"pico_do_processo": 1.0},
    }  # fmt: skip


def test_the_study_resumes_and_chooses_by_the_rule(tmp_path, monkeypatch, tiny_llama):
    """Morto no meio, não repete o que já fez; no empate a regra prefere menos parâmetros."""
    monkeypatch.setattr(utils, "RESULTS_DIR", tmp_path)
    calls = []

    def run_alone(settings):
        if len(calls) == 5:
            calls.append("morte")
            raise KeyboardInterrupt
        calls.append(settings["seed"])
        noise = 0.1 if settings["seed"] == 2 else 0.0
        score = {4: 5.02, 8: 6.0, 16: 5.5, 32: 5.0, 64: 5.4}[settings["r"]]
        return fake_result(score + noise, 100 * settings["r"])

    path = tmp_path / "estudo.yaml"
    path.write_text(
        "base: {r: 16, learning_rate: 1.0e-3}\nseeds: {quick: [1], full: [1, 2]}\n"
        "factors: {r: [{r: 4}, {r: 8}, {r: 32}, {r: 64}]}\nquick: [r]\n", encoding="utf-8",
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        estudo_lora.study(str(tiny_llama), "full", run_alone, path)
    result = estudo_lora.study(str(tiny_llama), "full", run_alone, path)
    assert len([c for c in calls if c != "morte"]) == 10, "cada corrida uma vez só"
    assert result["escolhida"]["mudanca"] == {"r": 4}, "5,02 empata com 5,00 e custa menos"
    assert "→ r=4" in estudo_lora.table(result)
    assert estudo_lora.plot(result).stat().st_size > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {rank: 3}\nseeds: {quick: [1]}\nfactors: {}\nquick: []\n", "desconhecida: rank"),
        ("base: {r: 3}\nseeds: {}\nfactors: {}\nquick: []\n", "não tem a forma esperada"),
        ("- só\n- uma lista\n", "não tem a forma esperada"),
        ("base: [", "não tem a forma esperada"),
    ],
)
def test_a_bad_study_file_is_explained(tmp_path, text, message):
    path = tmp_path / "estudo.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(utils.UserError, match=message):
        estudo_lora.load_study(path, "quick")


def test_the_study_of_the_repository_is_readable():
    for level in estudo_lora.LEVELS:
        points, seeds = estudo_lora.load_study(estudo_lora.STUDY, level)
        assert len(points) >= 5 and seeds
        for _, point in points:
            corrida.Run(**point | {"model": "x"})
    assert len(seeds) >= 2, "o estudo completo precisa de ao menos duas sementes"
