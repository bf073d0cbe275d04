"""Dia 5: a quantização à mão contra o bitsandbytes, as técnicas e a lição num modelo minúsculo."""

import importlib.util

from comum.memory import resident_bytes
from comum.paths import RESULTS_DIR
from comum.results import Day5, Score, Speed, Technique
from comum.terminal import UserError, conclude

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import exemplo_03_quantizacao as lesson
from dia5 import findings, measuring
from dia5.measuring import RECIPES, relative_error


@pytest.fixture
def weight():
    return torch.randn(256, 576, generator=torch.Generator().manual_seed(0))


def test_rounding_by_hand_agrees_with_bitsandbytes(weight):
    checks = lesson.eight_bits(weight) | lesson.four_bits(weight)
    assert len(checks) == 6 and all(checks.values()), checks


def test_an_outlier_hurts_one_scale_more_than_one_per_row(weight):
    weight[0, 0] = 200
    errors = []
    for per_row in (False, True):
        codes, scale = lesson.int8(weight, per_row)
        errors.append(relative_error((codes * scale)[1:], weight[1:]))
    assert errors[1] < errors[0] / 5


def test_nf4_comes_back_and_refuses_what_does_not_fit(weight):
    back = lesson.dequantize_nf4(*lesson.quantize_nf4(weight), weight.shape)
    assert relative_error(back, weight) < 0.1
    with pytest.raises(UserError, match="blocos de 64"):
        lesson.quantize_nf4(weight[:1, :60])


def test_double_quantization_of_a_short_block():
    """Menos de 256 escalas: o bloco incompleto não muda o tamanho, e o erro é o de 8 bits."""
    levels, absmax = torch.linspace(-1, 1, 256), torch.rand(10) + 1
    codes, second, mean = lesson.double_quantize(absmax, levels)
    assert codes.shape == (10,) and second.shape == (1,)
    torch.testing.assert_close(levels[codes.long()] * second + mean, absmax, atol=0.005, rtol=0)


def test_a_failed_check_stops_the_lesson(capsys):
    with pytest.raises(UserError, match="conferência"):
        conclude({"certa": True, "errada": False})
    assert "[ERRADO] errada" in capsys.readouterr().out


def test_a_missing_library_becomes_an_absent_row(tiny_llama, weight, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    gone = ("bitsandbytes", "xllamacpp")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find(name)
    )
    assert lesson.eight_bits(weight) == lesson.four_bits(weight) == {}
    wanted = {"bnb-int8": {}, "gguf-q4_k_m": {}}
    rows, absent = measuring.quantize_and_measure(None, str(tiny_llama), tmp_path, wanted, {})
    assert not rows and absent.keys() == wanted.keys()
    assert all("python -m pip install" in why for why in absent.values())
    assert capsys.readouterr().out.count("pip install bitsandbytes") >= 2


def test_a_folder_of_someone_else_with_the_name_of_a_technique_stays(tiny_llama, tmp_path):
    thesis = tmp_path / "bf16" / "tese.txt"
    thesis.parent.mkdir()
    thesis.write_text("capítulo 1")
    with pytest.raises(UserError, match="não foi feita por este programa"):
        measuring.quantize_and_measure(None, str(tiny_llama), tmp_path, {"bf16": {}}, {})
    assert thesis.is_file()


def test_a_model_without_plain_linear_layers_is_refused(tiny_gpt2, tmp_path):
    folders = ["--model", str(tiny_gpt2), "--output", str(tmp_path)]
    with pytest.raises(UserError, match="as camadas do modelo são Conv1D"):
        lesson.main(lesson.arguments(folders))


@pytest.mark.parametrize(
    "name", ["fp32", "bf16", "bnb-int8", "bnb-nf4", "bnb-fp4-double", "rtn-4bit-g32", "gguf-q8_0"]
)
def test_predicted_bytes_match_the_saved_file(wide_llama, tmp_path, name):
    """A conta de bits por peso dá o arquivo, a menos do cabeçalho e das tabelas do formato."""
    if why := measuring.missing(RECIPES[name]):
        pytest.skip(why)
    model = AutoModelForCausalLM.from_pretrained(wide_llama)
    predicted = measuring.predicted_bytes(model, RECIPES[name])
    (tmp_path / name).mkdir()
    lesson.quantize_and_save(str(wide_llama), [], name, tmp_path / name)
    found = measuring.weights_bytes(tmp_path / name)
    overhead = 30_000 if name.startswith(("bnb", "gguf", "rtn")) else 4_000
    disk = predicted["predicted_disk_bytes"]
    assert disk * 0.99 <= found <= disk + overhead
    if not name.startswith("gguf"):
        resident = resident_bytes(measuring.load(tmp_path / name))
        # Em CPU a escala dupla é desfeita ao carregar: 16 bits por bloco, ou 32 onde não há bf16.
        room = 0.15 if "double" in name else 0.03
        assert resident == pytest.approx(predicted["predicted_memory_bytes"], rel=room)


def test_what_is_left_of_the_training(weight):
    """Na grade de origem um passo miúdo se apaga; numa grade que não muda nada, fica inteiro."""
    old = lesson.q4_1(weight)
    pairs = [(old, old + 1e-4 * torch.randn_like(weight))]
    assert measuring.kept_share(pairs, lambda w: w) == pytest.approx(1)
    assert abs(measuring.kept_share(pairs, lesson.q4_1)) < 0.5
    assert measuring.moved_steps(old, old) == 0


def row(size, score, speed):
    rates = Speed(prefill=1, decode=speed)
    values = {
        "scores": {"perplexity_token": Score(value=score, ci95=(score, score))},
        "speed": {"1": rates, "8": rates},
        "disk_bytes": size,
        "memory_bytes": size,
    }
    zeros = ("peak_mib", "predicted_disk_bytes", "predicted_memory_bytes", "quantize_seconds")
    return Technique(nats=[], tokens=[], answers=[], **values, **dict.fromkeys(zeros, 0))


def test_the_guide_follows_from_the_numbers():
    rows = {
        "fp32": row(400, 8.0, 10),
        "bf16": row(200, 8.0, 20),
        "bnb-int8": row(100, 8.1, 5),
        "gguf-q4_0": row(50, 8.7, 60),
        "bnb-nf4": row(60, 12.0, 90),
    }
    assert findings.pareto(rows) == ["bf16", "bnb-int8", "gguf-q4_0"]
    chosen = ["bf16", "bnb-int8", "gguf-q4_0", "gguf-q4_0", "gguf-q4_0"]
    assert list(findings.choices(rows).values()) == chosen
    assert "0,25X a velocidade" in " ".join(findings.guide(rows, {}))


def test_the_day_3_model_is_made_when_missing(tmp_path, monkeypatch):
    """Sem modelos/dia3, a lição chama o dia 3 uma vez, e depois usa o que ele gravou."""
    calls = []

    def run(command):
        calls.append(list(map(str, command)))
        folder = command[command.index("--output") + 1]
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return lesson.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(lesson, "MODELS_DIR", tmp_path)
    monkeypatch.setattr(lesson.subprocess, "run", run)
    args = lesson.arguments(["--base", "base", "--quick"])
    assert lesson.trained_model(args) == lesson.trained_model(args) == tmp_path / "dia3-curto"
    assert len(calls) == 1 and calls[0][-1] == "--quick" and "base" in calls[0]


def test_quick_end_to_end(tiny_llama, tmp_path, monkeypatch, capsys):
    """Largura 32: o GPTQ usa grupos de 32, o NF4 é recusado com o motivo, o resto é medido."""
    monkeypatch.setattr(measuring.process, "alone", lambda function, *given: function(*given))
    arguments = ["--quick"]
    for name in ("bnb-nf4-double", "gptq-4bit-g64", "gptq-8bit-g64"):
        arguments += ["--only", name]
    folders = ["--model", tiny_llama, "--base", tiny_llama, "--output", tmp_path / "dia5"]
    lesson.main(lesson.arguments([*arguments, *map(str, folders)]))
    found = Day5.load(RESULTS_DIR / "dia5_quantizacao_quick.json")
    assert list(found.techniques) == ["fp32", "gptq-4bit-g32"]
    assert "blocos de 64" in found.absent["bnb-nf4-double"]
    assert "não se divide em grupos de 64" in found.absent["gptq-8bit-g64"]
    assert not (tmp_path / "dia5" / "referencia.pt").exists()
    assert all(found.checks.values()) and len(found.checks) == 7
    fp32, gptq = found.techniques.values()
    assert fp32.scores["kl_fp32"].value == pytest.approx(0, abs=1e-4)
    assert gptq.scores["kl_fp32"].value > 0 and gptq.disk_bytes < fp32.disk_bytes
    printed = capsys.readouterr()
    assert "it/s" not in printed.out + printed.err, "barra de progresso em inglês"
    assert (RESULTS_DIR / "dia5_quantizacao_quick.png").is_file()


def test_qlora_trains_the_same_adapter_on_a_smaller_base(wide_llama, monkeypatch):
    monkeypatch.setattr(lesson, "QLORA", lesson.QLORA | {"train": 16})
    runs = [lesson.train_adapter(str(wide_llama), name, {"test": 2}) for name in ("lora", "qlora")]
    lora, qlora = runs
    assert lora.trainable_parameters == qlora.trainable_parameters
    assert lora.total_parameters == qlora.total_parameters
    parts = [run.memory_measured for run in runs]
    assert parts[0].gradients == parts[1].gradients, "adaptadores em precisões diferentes"
    for run in runs:
        for part in ("weights", "gradients", "optimizer"):
            value = getattr(run.memory_predicted, part)
            room = 0.08 if part == "weights" else 0.02  # as escalas, desfeitas em CPU
            assert getattr(run.memory_measured, part) == pytest.approx(value, rel=room), part
    assert parts[0].activations == pytest.approx(parts[1].activations, rel=0.02)
    assert lora.losses == pytest.approx(qlora.losses, abs=0.05) and lora.steps == 2
    lesson.sft.show_runs({"lora": lora, "qlora": qlora})


def test_a_gguf_is_measured_by_llama_cpp(wide_llama, tmp_path):
    if why := measuring.missing(RECIPES["gguf-q8_0"]):
        pytest.skip(why)
    (tmp_path / "gguf-q8_0").mkdir()
    lesson.quantize_and_save(str(wide_llama), [], "gguf-q8_0", tmp_path / "gguf-q8_0")
    AutoTokenizer.from_pretrained(wide_llama).save_pretrained(tmp_path / "gguf-q8_0")
    sizes = {"test": 2, "answers": 1, "repeats": 1}
    made = dict.fromkeys(
        ("predicted_disk_bytes", "predicted_memory_bytes", "quantize_seconds"), 0.0
    )
    found = measuring.measure(tmp_path / "gguf-q8_0", tmp_path / "referencia.pt", sizes, made)
    assert found.speed["8"].decode > 0 and found.memory_bytes < found.disk_bytes
