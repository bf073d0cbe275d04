"""Dia 5: a quantização à mão contra o bitsandbytes, as técnicas e a lição num modelo minúsculo."""

import json
import sys
from types import SimpleNamespace

import armadilha
import bitsandbytes
import exemplo_03_quantizacao as lesson
import medir_quantizado
import motor_llama_cpp
import pytest
import quantizacao_a_mao as hand
import relatorio_quantizacao as report
import tecnicas
import torch
import utils  # noqa: F401  (antes do torch)
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = lesson.__file__
needs_llama_cpp = pytest.mark.skipif(
    motor_llama_cpp.missing() is not None, reason="pede o pacote xllamacpp (extra [cpu])"
)


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return torch.randn(64, 576)


def test_nf4_agrees_with_bitsandbytes(weight):
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, absmax = hand.nf4(weight)
    torch.testing.assert_close(hand.nf4_levels(), state.code, rtol=0, atol=1e-6)
    assert torch.equal(hand.pack4(codes), packed.reshape(-1))
    assert torch.equal(absmax, state.absmax)


def test_packing_round_trip(weight):
    codes, _ = hand.nf4(weight)
    assert torch.equal(hand.unpack4(hand.pack4(codes)), codes.reshape(-1))


def test_an_outlier_hurts_one_scale_more_than_one_per_row(weight):
    weight[0, 0] = 200
    errors = []
    for rows in (False, True):
        codes, scale = hand.int8(weight, rows)
        errors.append(hand.relative_error((codes * scale)[1:], weight[1:]))
    assert errors[1] < errors[0] / 5


def test_gptq_loses_less_output_than_rounding(weight):
    x = torch.randn(2000, 576) @ torch.randn(576, 576)  # entradas correlacionadas
    losses = []
    for codes, scales in (hand.gptq(weight, x.T @ x, 4, 64), hand.rtn(weight, 4, 64)):
        assert codes.min() >= -8 and codes.max() <= 7
        losses.append((x @ (codes * scales.repeat_interleave(64, 1) - weight).T).norm())
    assert losses[0] < losses[1]


def test_gptq_is_rounding_when_inputs_are_uncorrelated(weight):
    codes, scales = hand.gptq(weight, torch.eye(576), 4, 64)
    expected, same_scales = hand.rtn(weight, 4, 64)
    assert torch.equal(codes, expected) and torch.equal(scales, same_scales)


def test_bits_per_weight():
    assert tecnicas.TECHNIQUES["bnb-nf4"].bits_per_weight == 4.5
    assert tecnicas.TECHNIQUES["gptq-4bit-g64"].bits_per_weight == 4.25


def test_bad_group_and_bad_folder_are_refused(weight, tmp_path, monkeypatch):
    with pytest.raises(utils.UserError, match="grupos de 128"):
        hand.gptq(weight, torch.eye(576), 4, 128)
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(tmp_path)])
    with pytest.raises(utils.UserError, match="config.json"):
        lesson.main()


def test_double_quantization_agrees_with_bitsandbytes_and_comes_back():
    """Com 1024 blocos: os mesmos códigos a menos de empates, e o erro de 8 bits na volta."""
    torch.manual_seed(1)
    weight = torch.randn(256, 256)
    _, absmax = hand.nf4(weight)
    _, state = bitsandbytes.functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    levels = state.state2.code
    codes, second, mean = hand.double_quantize(absmax, levels)
    assert (codes == state.absmax).float().mean() > 0.98
    torch.testing.assert_close(second, state.state2.absmax)
    torch.testing.assert_close(mean, state.offset)
    back = hand.undo_double(codes, second, mean, levels)
    assert back.shape == absmax.shape and hand.relative_error(back, absmax) < 0.01


def test_double_quantization_of_a_short_block():
    """Menos de 256 escalas: o bloco incompleto não muda o tamanho."""
    levels = torch.linspace(-1, 1, 256)
    absmax = torch.rand(10) + 1
    codes, second, mean = hand.double_quantize(absmax, levels)
    assert codes.shape == (10,) and second.shape == (1,)
    torch.testing.assert_close(
        hand.undo_double(codes, second, mean, levels), absmax, atol=0.005, rtol=0
    )


def test_a_missing_library_is_reported_with_its_command(monkeypatch):
    monkeypatch.setattr(tecnicas.importlib.util, "find_spec", lambda name: None)
    assert "pip install compressed-tensors" in tecnicas.missing(tecnicas.TECHNIQUES["rtn-4bit-g64"])
    assert "pip install" in tecnicas.missing(tecnicas.TECHNIQUES["gguf-q4_k_m"])
    assert tecnicas.missing(tecnicas.TECHNIQUES["fp32"]) is None


@pytest.mark.parametrize(
    "name", ["fp32", "bf16", "bnb-int8", "bnb-nf4", "rtn-4bit-g32", "gguf-q8_0"]
)
def test_predicted_bytes_match_the_saved_file(wide_llama, tmp_path, name):
    """A conta de bits por peso dá o arquivo, a menos do cabeçalho e das tabelas do formato."""
    if why := tecnicas.missing(tecnicas.TECHNIQUES[name]):
        pytest.skip(why)
    model = AutoModelForCausalLM.from_pretrained(wide_llama)
    predicted = tecnicas.predicted_bytes(model, tecnicas.TECHNIQUES[name])
    tecnicas.save(name, str(wide_llama), None, tmp_path / name)
    files = [*(tmp_path / name).glob("*.safetensors"), *(tmp_path / name).glob("*.gguf")]
    found = sum(f.stat().st_size for f in files)
    overhead = 30_000 if name.startswith(("bnb", "gguf", "rtn")) else 4_000
    assert predicted["disco"] * 0.99 <= found <= predicted["disco"] + overhead
    if name.startswith("gguf"):
        return
    AutoTokenizer.from_pretrained(wide_llama).save_pretrained(tmp_path / name)
    loaded = medir_quantizado.load(tmp_path / name)
    assert medir_quantizado.resident_bytes(loaded) == pytest.approx(predicted["memoria"], rel=0.03)


@needs_llama_cpp
def test_llama_cpp_gives_the_logits_of_transformers(wide_llama, tmp_path):
    """f16 no llama.cpp contra float32 no transformers: tokens, distribuições e resposta gulosa."""
    tecnicas.write_gguf(str(wide_llama), "f16", tmp_path / "f16")
    engine = motor_llama_cpp.LlamaCpp(tmp_path / "f16" / tecnicas.GGUF_NAME)
    tokenizer = AutoTokenizer.from_pretrained(wide_llama)
    text = "<|im_start|>user\nquanto custa o frete em 2024?<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert engine.tokenize(text) == ids
    model = AutoModelForCausalLM.from_pretrained(wide_llama).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)
    found = engine(input_ids=torch.tensor([ids])).logits.log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    greedy = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
    stop = tokenizer.eos_token_id
    assert engine.greedy(ids, 6, stop) == [t for t in greedy.tolist() if t != stop]
    # Num lote, cada sequência só vê a si mesma, e um token a mais continua o que já foi lido.
    engine.resize(2, 64)
    both = torch.tensor([ids, ids[::-1]]).numpy()
    engine.decode(both[:, :-1], 0, last_only=True)
    last = engine.decode(both[:, -1:], len(ids) - 1, last_only=True)[0, -1].log_softmax(-1)
    torch.testing.assert_close(last, expected[0, -1], atol=2e-3, rtol=0)
    engine.close()


@needs_llama_cpp
def test_a_broken_gguf_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF estragado")
    with pytest.raises(motor_llama_cpp.LlamaCppError, match="não conseguiu abrir"):
        motor_llama_cpp.LlamaCpp(tmp_path / "m.gguf")


def test_what_is_left_of_the_training(weight):
    """Na grade de origem um passo miúdo se apaga; numa grade que não muda nada, fica inteiro."""
    old = [hand.q4_1(weight)]
    new = [old[0] + 1e-4 * torch.randn_like(weight)]
    assert armadilha.kept(old, new, lambda w: w) == pytest.approx(1)
    assert abs(armadilha.kept(old, new, hand.q4_1)) < 0.5
    assert armadilha.moved_steps(old, old) == 0


def row(size, score, speed):
    rates = {"prefill": 1.0, "decode": speed}
    scores = {"perplexidade_token": {"valor": score, "ic95": [score, score]}}
    return {"bytes_em_disco": size, "bytes_na_memoria": size,
            "velocidade": {"lote_1": rates, "lote_8": rates}, "metricas": scores}  # fmt: skip


def test_the_guide_follows_from_the_numbers():
    rows = {"fp32": row(400, 8.0, 10), "bf16": row(200, 8.0, 20), "bnb-int8": row(100, 8.1, 5),
            "gguf-q4_0": row(50, 8.7, 60), "bnb-nf4": row(60, 12.0, 90)}  # fmt: skip
    assert report.pareto(rows) == ["bf16", "bnb-int8", "gguf-q4_0"]
    assert list(report.choices(rows).values()) == [
        "bf16", "bnb-int8", "gguf-q4_0", "gguf-q4_0", "gguf-q4_0"
    ]  # fmt: skip
    relative = report.ratios(rows)["gguf-q4_0"]
    assert relative["fp32"]["aceleracao"] == 6 and relative["bf16"]["memoria"] == 0.25
    assert "0,25X a velocidade" in " ".join(report.guide(rows, {}))


def test_the_day_3_model_is_made_when_missing(tmp_path, monkeypatch):
    """Sem modelos/dia3, a lição chama o dia 3 uma vez, e depois usa o que ele gravou."""
    calls = []

    def train(script, *values):
        calls.append((script, *map(str, values)))
        folder = values[values.index("--output") + 1]
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(lesson, "MODELS", tmp_path)
    monkeypatch.setattr(lesson, "run", train)
    args = SimpleNamespace(model=None, base="base", quick=True)
    assert lesson.trained_model(args) == lesson.trained_model(args) == tmp_path / "dia3-curto"
    assert len(calls) == 1 and calls[0][-1] == "--quick" and "base" in calls[0]


def test_quick_end_to_end(tiny_llama, tmp_path, lesson_process):
    """Largura 32: o GPTQ usa grupos de 32, o NF4 é recusado com o motivo, o resto é medido."""
    done = lesson_process(SCRIPT, "--quick", "--model", tiny_llama, "--base", tiny_llama,
                          "--output", tmp_path / "dia5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "resultados" / "dia5_quantizacao_quick.json").read_text("utf-8"))
    assert list(found["tecnicas"]) == ["fp32", "bnb-int8", "gptq-4bit-g32"]
    assert "blocos de 64" in found["ausentes"]["bnb-nf4-dupla"]
    assert all(found["conferencias"].values()) and found["conferencias"]
    fp32, gptq = found["tecnicas"]["fp32"], found["tecnicas"]["gptq-4bit-g32"]
    assert fp32["metricas"]["kl_fp32"]["valor"] == pytest.approx(0, abs=1e-4)
    assert gptq["metricas"]["kl_fp32"]["valor"] > 0
    assert gptq["bytes_em_disco"] < fp32["bytes_em_disco"]
    assert "it/s" not in done.stdout + done.stderr, "barra de progresso em inglês"
    assert (tmp_path / "resultados" / "dia5_troca_quick.png").is_file()


def test_without_bitsandbytes_the_lesson_goes_on(
    tiny_llama, tmp_path, lesson_process, monkeypatch
):
    """Uma máquina sem a biblioteca: as linhas dela aparecem como ausentes, com o comando."""
    (tmp_path / "sem").mkdir()
    (tmp_path / "sem" / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: (\n"
        "    None if name == 'bitsandbytes' else find(name, package))\n"
        "sys.modules['bitsandbytes'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sem"))
    done = lesson_process(SCRIPT, "--quick", "--model", tiny_llama, "--base", tiny_llama,
                          "--output", tmp_path / "dia5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("python -m pip install bitsandbytes") >= 2
    found = json.loads((tmp_path / "resultados" / "dia5_quantizacao_quick.json").read_text("utf-8"))
    assert set(found["ausentes"]) == {"bnb-int8", "bnb-nf4-dupla"}
    assert set(found["tecnicas"]) == {"fp32", "gptq-4bit-g32"}


@pytest.mark.parametrize("option", ["--nada", "--model"])
def test_bad_arguments_end_in_one_sentence(lesson_process, option):
    done = lesson_process(SCRIPT, option)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Erro:")
