"""export.py e engines.py: fusão fiel, formas que recarregam, o mesmo texto em todo motor."""

import json
import struct
import subprocess
import sys

import evaluate
import export
import inference
import pytest
import torch
import train
from loja_sql.config import UserError, load_config, run_main
from loja_sql.model import card as model_card
from loja_sql.model import engines, gptq
from loja_sql.model.drafts import count_ngrams, write_drafts
from loja_sql.model.loading import generate, load_model, load_tokenizer, stream
from loja_sql.prompt import encode_pair, render
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

QUESTIONS = ["quantos clientes?", "liste os produtos de livros", "faturamento de 2024 por mês"]


@pytest.fixture
def trained(project, wide_llama, monkeypatch):
    """Um adaptador que mudou o modelo de verdade, e a configuração dele."""
    args, folder = project
    args = [*args, f"model.name={wide_llama}", "training.learning_rate=1.0e-2",
            "generation.max_new_tokens=16"]  # fmt: skip
    train.main(args)
    for module in (evaluate, model_card):
        monkeypatch.setattr(module, "RESULTS_DIR", folder / "resultados")
    return args, load_config(None, args)


def exported(args, forms):
    assert export.main([*args, "--forms", forms]) == 0
    return engines.exported_forms(load_config(None, args).output_dir)


def answers(engine, config):
    prompts = [render(engine.tokenizer, config, q, "") for q in QUESTIONS]
    found = dict(pair for batch in engine.generate(prompts, 16, 2) for pair in batch)
    streamed = [list(engine.stream(p, 16))[-1:] for p in prompts]
    assert [s[0] if s else "" for s in streamed] == [found[i] for i in range(3)]
    return [found[i] for i in range(3)]


def test_merging_keeps_the_logits_and_is_in_full_precision(trained, capsys):
    args, config = trained
    paths = exported(args, "bf16")
    manifest = json.loads((config.output_dir / "exportado" / "exportado.json").read_text())
    assert manifest["fusao"]["maior_diferenca"] <= export.LOGITS_TOLERANCE
    assert manifest["fusao"]["mesmos_tokens"] == 1.0
    assert "os logits mudam no máximo" in capsys.readouterr().out
    reference = load_model(config, config.output_dir)
    loaded = AutoModelForCausalLM.from_pretrained(paths["bf16"], dtype=torch.float32)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight.bfloat16().float())


def test_merging_that_changes_the_logits_writes_nothing(trained, monkeypatch, capsys):
    args, config = trained
    monkeypatch.setattr(export, "LOGITS_TOLERANCE", -1.0)
    assert run_main(export.main, [*args, "--forms", "bf16"]) == 2
    assert "nada foi gravado" in capsys.readouterr().err
    assert not (config.output_dir / "exportado" / "bf16").exists()


def test_a_quantized_base_is_refused(trained, wide_llama, tmp_path, capsys):
    args, config = trained
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    folder = tmp_path / "base-nf4"
    AutoModelForCausalLM.from_pretrained(
        wide_llama, quantization_config=options, dtype=torch.float32
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(wide_llama).save_pretrained(folder)
    effective = config.output_dir / "config_efetiva.yaml"
    effective.write_text(effective.read_text().replace(str(wide_llama), str(folder)))
    assert run_main(export.main, [*args, "--forms", "bf16"]) == 2
    assert "é quantizada" in capsys.readouterr().err


def test_an_adapter_trained_in_4_bits_merges_into_the_full_base(project, wide_llama):
    args = [*project[0], f"model.name={wide_llama}"]
    train.main([*args, "model.load_in_4bit=true", "training.max_steps=2"])
    paths = exported(args, "bf16")
    loaded = AutoModelForCausalLM.from_pretrained(paths["bf16"])
    assert getattr(loaded.config, "quantization_config", None) is None


@pytest.mark.parametrize("form", ["bf16", "nf4", "gptq"])
def test_each_folder_answers_almost_as_the_adapter(trained, form):
    args, config = trained
    exported(args, form)
    engine = engines.open_form(config, config.output_dir, form)
    reference = engines.TransformersEngine(config, config.output_dir)
    ids = reference.tokenizer(QUESTIONS[1], return_tensors="pt").input_ids
    with torch.inference_mode():
        exact, close = reference.model(ids).logits, engine.model(ids).logits.float()
    assert torch.nn.functional.cosine_similarity(exact, close, dim=-1).min() > 0.95
    assert answers(engine, config) is not None


def test_gptq_beats_plain_rounding_on_its_own_inputs():
    torch.manual_seed(0)
    weight = torch.randn(48, 128)
    inputs = torch.randn(500, 128) @ torch.randn(128, 128) / 11  # colunas correlacionadas
    rounded, scales = gptq.round_columns(weight, inputs.T @ inputs)
    scale = scales.repeat_interleave(gptq.GROUP, 1)
    nearest = (weight.reshape(48, -1, gptq.GROUP).abs().amax(2) / 7.5).repeat_interleave(64, 1)
    plain = (weight / nearest).round().clamp(-8, 7) * nearest
    error = ((rounded - weight) @ inputs.T).norm()
    assert error < 0.8 * ((plain - weight) @ inputs.T).norm()
    codes = rounded / scale
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert codes.min() >= -8 and codes.max() <= 7


def test_gptq_refuses_a_width_that_is_not_whole_groups(project, capsys):
    """A largura 32 do Llama minúsculo não cabe em grupos de 64: fica de fora, as outras seguem."""
    args, _ = project
    train.main(args)
    config = load_config(None, args)
    paths = exported(args, "gptq,bf16")
    assert set(paths) == {"bf16"}
    output = capsys.readouterr().out
    assert "gptq     falta: uma camada de largura 32" in output
    assert not list((config.output_dir / "exportado").glob(".*")), "nada pela metade"


def test_exporting_again_redoes_only_what_is_missing(trained, monkeypatch):
    args, config = trained
    exported(args, "bf16")
    monkeypatch.setattr(export, "merge", lambda *_: pytest.fail("não devia fundir de novo"))
    exported(args, "bf16")
    (config.output_dir / "exportado" / "exportado.json").write_text("{estragado")
    with pytest.raises(UserError, match="está estragado"):
        engines.exported_forms(config.output_dir)


def test_an_export_of_another_training_does_not_count(trained):
    args, config = trained
    assert "bf16" in exported(args, "bf16")
    train.main([*args, "training.learning_rate=2.0e-2"])
    assert engines.exported_forms(config.output_dir) == {}
    with pytest.raises(UserError, match="python export.py --forms bf16"):
        engines.open_form(config, config.output_dir, "bf16")


def test_the_card_says_where_it_came_from_and_brings_measured_scores(trained):
    args, config = trained
    exported(args, "bf16")
    card = config.output_dir / "exportado" / "bf16" / "README.md"
    assert "Ainda não medidas" in card.read_text("utf-8")
    evaluate.main([*args, "--only", "formas", "--forms", "bf16"])
    export.main([*args, "--forms", "bf16"])
    text = card.read_text("utf-8")
    assert text.startswith("---\n") and "execution_accuracy" in text
    assert "| treinado, bf16 | 6 |" in text


def test_evaluation_scores_the_forms_on_the_same_questions(trained, capsys):
    args, _ = trained
    exported(args, "bf16")
    evaluate.main([*args, "--forms", "bf16,nf4"])
    output = capsys.readouterr().out
    assert "A forma nf4 não está exportada" in output
    assert "McNemar, treinado, bf16" in output
    path = evaluate.RESULTS_DIR / "mini_projeto_lora_teste.json"
    part = json.loads(path.read_text())["variantes"]["treinado, bf16"]
    assert part["acuracia_execucao"]["total"] == 6 and part["bytes_dos_pesos"] > 0
    assert 0 < part["uma_a_uma"]["p50_s"] <= part["uma_a_uma"]["p95_s"]


@pytest.mark.parametrize("text", ["bf32", "bf16,,nf4"])
def test_unknown_forms_are_refused(trained, text, capsys):
    args, _ = trained
    with pytest.raises(SystemExit):
        export.main([*args, "--forms", text])
    assert "forma desconhecida" in capsys.readouterr().err


def test_streaming_equals_generating(trained):
    _, config = trained
    model, tokenizer = load_model(config, config.output_dir), load_tokenizer(config)
    prompts = [render(tokenizer, config, q, "") for q in QUESTIONS]
    whole = dict(pair for batch in generate(model, tokenizer, prompts, 16, 3) for pair in batch)
    for index, prompt in enumerate(prompts):
        steps = list(stream(model, tokenizer, prompt, 16))
        assert (steps[-1] if steps else "") == whole[index]
        assert len(steps) <= 16


def test_auto_uses_transformers_until_there_is_something_faster(trained, monkeypatch):
    args, config = trained
    assert engines.open_engine(config, config.output_dir).name == "transformers float32"
    config.generation.engine = "llamacpp"
    with pytest.raises(UserError, match="python export.py --forms q8_0"):
        engines.open_engine(config, config.output_dir)


needs_llama_cpp = pytest.mark.skipif(
    not (engines.has_llama_cpp() and export.GGUF_TOOL.is_file()),
    reason="pede o pacote xllamacpp (extra [cpu]) e ferramentas/escrever_gguf.py",
)


@needs_llama_cpp
def test_llama_cpp_answers_as_transformers_does(trained, monkeypatch):
    """O f16 e o q8_0, lidos pelo llama.cpp, dão a resposta gulosa do transformers."""
    args, config = trained
    paths = exported(args, "f16,q8_0")
    assert set(paths) == {"f16", "q8_0"}
    expected = answers(engines.TransformersEngine(config, config.output_dir), config)
    f16 = engines.open_form(config, config.output_dir, "f16")
    assert answers(f16, config) == expected
    f16.close()
    fastest = engines.open_engine(config, config.output_dir)
    assert fastest.name == "llama.cpp q8_0", "auto toma o mais rápido que houver"
    found = answers(fastest, config)
    fastest.close()
    monkeypatch.setattr(engines, "drafts_ready", lambda folder: False)
    plain = engines.open_engine(config, config.output_dir)
    assert answers(plain, config) == found, "o rascunho só adianta, não muda"
    plain.close()
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 2, (found, expected)


@needs_llama_cpp
def test_llama_cpp_gives_the_perplexity_of_transformers(trained):
    args, config = trained
    exported(args, "f16")
    engine = engines.open_form(config, config.output_dir, "f16")
    pairs = [encode_pair(engine.tokenizer, config, q, "SELECT COUNT(*) FROM clientes", "")
             for q in QUESTIONS]  # fmt: skip
    reference = engines.TransformersEngine(config, config.output_dir)
    expected, found = (
        sorted(line for batch in either.losses(pairs, 2) for line in batch)
        for either in (reference, engine)
    )
    engine.close()
    assert [(i, count) for i, _, count in found] == [(i, count) for i, _, count in expected]
    for (_, loss, count), (_, exact, _) in zip(found, expected, strict=True):
        assert loss / count == pytest.approx(exact / count, abs=5e-3)


def test_drafts_count_what_follows_each_ngram(tmp_path):
    table = count_ngrams([[1, 2, 3, 2, 3], [2, 3, 9]], range(1, 3))
    assert table[(2,)] == {3: 3} and table[(2, 3)] == {2: 1, 9: 1}
    write_drafts(tmp_path, [[7, 8, 9]])
    bigram = (tmp_path / "rascunho-bigramas.bin").read_bytes()
    assert struct.unpack("<7i", bigram) == (7, 8, -1, -1, 1, 9, 1)


@needs_llama_cpp
def test_a_prompt_that_does_not_fit_is_an_answer_not_a_crash(trained, monkeypatch):
    args, config = trained
    exported(args, "q8_0")
    monkeypatch.setattr(engines, "CONTEXT", 256)
    assistant = inference.Assistant(config, config.output_dir)
    last = list(assistant.stream("é" * 490))[-1]
    assert "o llama.cpp recusou a pergunta" in last.error
    assert list(assistant.stream("quantos clientes?"))[-1].error != last.error, "segue respondendo"
    assistant.engine.close()


@needs_llama_cpp
def test_the_modelfile_holds_the_training_prompt(trained):
    args, config = trained
    exported(args, "q8_0")
    text = (config.output_dir / "exportado" / "Modelfile").read_text("utf-8")
    prompt = render(load_tokenizer(config), config, "{{ .Prompt }}", "")
    assert f'TEMPLATE """{prompt}"""' in text and "FROM ./modelo-q8_0.gguf" in text
    assert "temperature 0" in text


def test_help_is_in_portuguese():
    done = subprocess.run([sys.executable, export.__file__, "--help"], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0 and "formas de implantação" in done.stdout
