"""escrever_gguf.py: o que se lê de volta, no transformers e no llama.cpp, é o modelo da pasta."""

import importlib.util
import json
import shutil

import escrever_gguf as tool
import gguf
import numpy
import preparar_modelo as prepare
import pytest
import torch
import utils  # noqa: F401  (antes do torch)
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec(tool.LLAMA_CPP_PACKAGE) is None,
    reason="pede o pacote xllamacpp (extra [cpu])",
)
ready = pytest.mark.skipif(
    not prepare.is_ready(prepare.DEFAULT_OUTPUT), reason="modelo não preparado: rode `make setup`"
)


def run(folder, output, file_type):
    return tool.main(["--model", str(folder), "--output", str(output), "--type", file_type])


def kinds(path):
    return {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("file_type", "tolerance"), [("f16", 1e-3), ("q8_0", 0.01), ("q4_0", 0.12)]
)
def test_transformers_reads_back_the_same_weights(tiny_llama, tmp_path, file_type, tolerance):
    """O leitor do transformers é de outros autores: desfaz a troca das linhas de q e k sozinho."""
    assert run(tiny_llama, tmp_path / "m.gguf", file_type) == 0
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").state_dict()
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama).state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        error = (found[name] - weight).norm() / weight.norm()
        assert error < tolerance, (name, error)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    text = "quantos pedidos em 2024, por mês? Ação!"
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(tiny_llama)(text).input_ids
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_the_chat_template_goes_along(tiny_llama, tmp_path):
    run(tiny_llama, tmp_path / "m.gguf", "f16")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    template = AutoTokenizer.from_pretrained(tiny_llama).chat_template
    assert fields["tokenizer.chat_template"].contents() == template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


def test_the_llama_cpp_recipe():
    """SmolLM2 (largura 576) e um modelo de largura 512: blocos de 256 só onde cabem."""
    names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight",
             "blk.4.ffn_down.weight", "blk.0.attn_norm.weight"]  # fmt: skip
    config = {"num_hidden_layers": 30}

    def recipe(width, inner, file_type):
        shapes = [(100, width), (width, width), (width, inner), (width, inner), (width,)]
        tensors = {n: (s, None) for n, s in zip(names, shapes, strict=True)}
        return [tool.kind_of(n, tensors, file_type, config) for n in names]

    assert recipe(576, 1536, "q4_k_m") == [Kind.Q8_0, Kind.Q5_0, Kind.Q6_K, Kind.Q4_K, Kind.F32]
    assert recipe(512, 1024, "q4_k_m") == [Kind.Q6_K, Kind.Q4_K, Kind.Q6_K, Kind.Q4_K, Kind.F32]
    assert recipe(576, 1536, "q4_0") == [Kind.Q8_0, *[Kind.Q4_0] * 3, Kind.F32]
    assert recipe(40, 40, "q8_0") == [*[Kind.F16] * 4, Kind.F32]


@needs_llama_cpp
def test_llama_cpp_and_gguf_quantize_alike():
    """A função tirada da biblioteca é chamada certo: nos tipos que os dois têm, bytes iguais."""
    quantize = tool.llama_cpp_quantizer()
    weight = numpy.random.default_rng(0).normal(size=(6, 512)).astype(numpy.float32)
    for kind in (Kind.Q8_0, Kind.Q4_0, Kind.Q5_0):
        assert numpy.array_equal(quantize(weight, kind), gguf.quants.quantize(weight, kind)), kind
    for kind, tolerance in ((Kind.Q4_K, 0.09), (Kind.Q6_K, 0.02)):
        back = gguf.quants.dequantize(quantize(weight, kind), kind)
        assert numpy.linalg.norm(back - weight) < tolerance * numpy.linalg.norm(weight), kind


@needs_llama_cpp
def test_q4_k_m_is_written(tiny_llama, tmp_path):
    assert run(tiny_llama, tmp_path / "m.gguf", "q4_k_m") == 0
    assert set(kinds(tmp_path / "m.gguf").values()) == {Kind.F32, Kind.Q5_0, Kind.Q8_0}


def test_without_llama_cpp_the_message_says_how_to_get_it(
    tiny_llama, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tool, "LLAMA_CPP_PACKAGE", "pacote_que_nao_existe")
    assert run(tiny_llama, tmp_path / "m.gguf", "q4_k_m") == 2
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "falta config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "falta tokenizer.json"),
        (lambda f: (f / "config.json").write_text("{"), "não é um JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "estragado"),
        (lambda f: (f / "model.safetensors").unlink(), "0 tensores"),
        (lambda f: change_config(f, model_type="gpt2"), "a arquitetura é gpt2"),
        (lambda f: change_config(f, quantization_config={}), "já estão quantizados"),
        (lambda f: change_config(f, rope_parameters={"rope_type": "llama3"}), "escalado"),
    ],
)
def test_a_folder_it_cannot_write_is_refused(tiny_llama, tmp_path, capsys, change, message):
    folder, output = tmp_path / "modelo", tmp_path / "saida"
    shutil.copytree(tiny_llama, folder)
    output.mkdir()
    change(folder)
    assert run(folder, output / "m.gguf", "q8_0") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(output.iterdir())


def test_a_missing_output_folder_is_refused(tiny_llama, tmp_path, capsys):
    assert run(tiny_llama, tmp_path / "nada" / "m.gguf", "f16") == 2
    assert "não existe" in capsys.readouterr().err


@ready
@pytest.mark.model
def test_the_packaged_model_gets_the_tokenizer_of_its_own_gguf(tmp_path):
    """O tokenizador que se escreve da pasta é o do GGUF de que ela veio."""
    assert run(prepare.DEFAULT_OUTPUT, tmp_path / "m.gguf", "q8_0") == 0
    ours = gguf.GGUFReader(tmp_path / "m.gguf").fields
    theirs = gguf.GGUFReader(prepare.find_gguf()).fields
    for name in ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
        key = f"tokenizer.ggml.{name}"
        assert ours[key].contents() == theirs[key].contents(), name
    for name in ("rope.freq_base", "rope.dimension_count", "attention.head_count_kv"):
        assert ours[f"llama.{name}"].contents() == theirs[f"llama.{name}"].contents(), name
    shapes = {t.name: list(t.shape) for t in gguf.GGUFReader(prepare.find_gguf()).tensors}
    written = {t.name: list(t.shape) for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert written == shapes


@needs_llama_cpp
@ready
@pytest.mark.model
def test_llama_cpp_answers_as_transformers_does(tmp_path):
    """O GGUF f16 do modelo base, lido pelo llama.cpp, dá a resposta gulosa do transformers."""
    import xllamacpp

    run(prepare.DEFAULT_OUTPUT, tmp_path / "m.gguf", "f16")
    tokenizer = AutoTokenizer.from_pretrained(prepare.DEFAULT_OUTPUT)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(prepare.DEFAULT_OUTPUT, dtype=torch.float32)
    expected = tokenizer.decode(
        model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :],
        skip_special_tokens=True,
    )
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(tmp_path / "m.gguf")
    parameters.n_ctx, parameters.verbosity, parameters.n_gpu_layers = 256, 0, 0
    parameters.fit_params, parameters.warmup = False, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(parameters)
    request = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
    answer = server.handle_completions(request)["choices"][0]["text"]
    assert answer.strip() == expected.strip()
