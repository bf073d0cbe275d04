"""O GGUF escrito: o que se lê de volta, no transformers e no llama.cpp, é o modelo da pasta."""

import ctypes
import json
import shutil

from comum import gguf as ours
from comum import llama_cpp
from comum.decoding import stream
from comum.gguf import write
from comum.paths import DEFAULT_MODEL
from comum.terminal import UserError

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

needs_llama_cpp = pytest.mark.skipif(
    llama_cpp.missing() is not None, reason="pede o pacote do llama.cpp"
)
ready = pytest.mark.skipif(
    not DEFAULT_MODEL.is_dir(), reason="modelo não preparado: rode `make setup`"
)


@pytest.mark.parametrize(
    ("file_type", "tolerance"), [("f16", 1e-3), ("q8_0", 0.01), ("q4_0", 0.12)]
)
def test_transformers_reads_back_the_same_weights(tiny_llama, tmp_path, file_type, tolerance):
    """O leitor do transformers é de outros autores: desfaz a troca das linhas de q e k sozinho."""
    write(tiny_llama, tmp_path / "m.gguf", file_type)
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
    write(tiny_llama, tmp_path / "m.gguf", "f16")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    template = AutoTokenizer.from_pretrained(tiny_llama).chat_template
    assert fields["tokenizer.chat_template"].contents() == template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


def test_the_llama_cpp_recipe():
    """SmolLM2 (largura 576) e um modelo de largura 512: blocos de 256 só onde cabem."""
    names = [
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.0.ffn_down.weight",
        "blk.4.ffn_down.weight",
        "blk.0.attn_norm.weight",
    ]
    config = {"num_hidden_layers": 30, "tie_word_embeddings": True}

    def recipe(width, inner, file_type):
        shapes = [(100, width), (width, width), (width, inner), (width, inner), (width,)]
        pairs = zip(names, shapes, strict=True)
        return [ours.kind_of(name, shape, file_type, config) for name, shape in pairs]

    assert recipe(576, 1536, "q4_k_m") == [Kind.Q8_0, Kind.Q5_0, Kind.Q6_K, Kind.Q4_K, Kind.F32]
    assert recipe(512, 1024, "q4_k_m") == [Kind.Q6_K, Kind.Q4_K, Kind.Q6_K, Kind.Q4_K, Kind.F32]
    assert recipe(576, 1536, "q4_0") == [Kind.Q8_0, *[Kind.Q4_0] * 3, Kind.F32]
    assert recipe(40, 40, "q8_0") == [*[Kind.F16] * 4, Kind.F32]


@needs_llama_cpp
def test_llama_cpp_and_gguf_quantize_alike():
    """A função tirada da biblioteca é chamada certo: nos tipos que os dois têm, bytes iguais."""

    def quantize(kind):
        shape = gguf.quant_shape_to_byte_shape(weight.shape, kind)
        return llama_cpp.quantize(weight, kind, shape)

    weight = numpy.random.default_rng(0).normal(size=(6, 512)).astype(numpy.float32)
    for kind in (Kind.Q8_0, Kind.Q4_0, Kind.Q5_0):
        assert numpy.array_equal(quantize(kind), gguf.quants.quantize(weight, kind)), kind
    for kind, tolerance in ((Kind.Q4_K, 0.09), (Kind.Q6_K, 0.02)):
        back = gguf.quants.dequantize(quantize(kind), kind)
        assert numpy.linalg.norm(back - weight) < tolerance * numpy.linalg.norm(weight), kind


@pytest.fixture(scope="module")
def llama_256(tiny_llama, tmp_path_factory):
    """Largura 256: a que os blocos do Q4_K_M pedem."""
    folder = tmp_path_factory.mktemp("largura-256")
    config = AutoConfig.from_pretrained(
        tiny_llama, hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@needs_llama_cpp
def test_q4_k_m_is_written(llama_256, tmp_path):
    write(llama_256, tmp_path / "m.gguf", "q4_k_m")
    kinds = {t.tensor_type for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds == {Kind.F32, Kind.Q4_K, Kind.Q6_K}
    llama_cpp.LlamaCpp(tmp_path / "m.gguf").close()


def test_without_llama_cpp_the_message_says_how_to_get_it(llama_256, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "PACKAGE", "pacote_que_nao_existe")
    with pytest.raises(UserError, match="pip install"):
        write(llama_256, tmp_path / "m.gguf", "q4_k_m")
    assert not list(tmp_path.iterdir())


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "falta config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "falta tokenizer.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "estragado"),
        (lambda f: (f / "model.safetensors").unlink(), "0 tensores"),
        (lambda f: change_config(f, model_type="gpt2"), "a arquitetura é gpt2"),
        (lambda f: change_config(f, quantization_config={}), "já estão quantizados"),
        (lambda f: change_config(f, rope_parameters={"rope_type": "llama3"}), "escalado"),
    ],
)
def test_a_folder_it_cannot_write_is_refused(tiny_llama, tmp_path, change, message):
    folder, output = tmp_path / "modelo", tmp_path / "saida"
    shutil.copytree(tiny_llama, folder)
    output.mkdir()
    change(folder)
    with pytest.raises(UserError, match=message):
        write(folder, output / "m.gguf", "q8_0")
    assert not list(output.iterdir())


def tokens_of(engine, text: str) -> list[int]:
    """Os tokens do texto pelo tokenizador que está no GGUF."""
    vocabulary = ctypes.c_void_p(engine.lib.llama_model_get_vocab(engine.model))
    content, tokens = text.encode(), (ctypes.c_int32 * 100)()
    room = len(content), tokens, len(tokens)
    count = engine.lib.llama_tokenize(vocabulary, content, *room, False, True)
    return tokens[:count]


def growing(tokenizer, tokens: list[int]) -> list[str]:
    """O texto depois de cada token, como `stream` o dá: um token trocado aparece."""
    ends = range(1, len(tokens) + 1)
    return [tokenizer.decode(tokens[:end], skip_special_tokens=True).strip() for end in ends]


@needs_llama_cpp
def test_llama_cpp_gives_the_logits_of_transformers(wide_llama, tmp_path):
    """f16 no llama.cpp contra float32 no transformers: tokens, distribuições e resposta gulosa."""
    write(wide_llama, tmp_path / "m.gguf", "f16")
    engine = llama_cpp.LlamaCpp(tmp_path / "m.gguf")
    tokenizer = AutoTokenizer.from_pretrained(wide_llama)
    text = "<|im_start|>user\nquanto custa o frete em 2024?<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokens_of(engine, text) == ids
    model = AutoModelForCausalLM.from_pretrained(wide_llama).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)
    found = engine(input_ids=torch.tensor([ids])).logits.log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    greedy = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
    stop = tokenizer.eos_token_id
    answer = growing(tokenizer, [t for t in greedy.tolist() if t != stop])
    assert [*stream(engine, tokenizer, text, 6)] == answer
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
    with pytest.raises(UserError, match="não conseguiu abrir"):
        llama_cpp.LlamaCpp(tmp_path / "m.gguf")


@ready
@pytest.mark.model
def test_the_packaged_model_gets_the_tokenizer_of_its_own_gguf(tmp_path):
    """O tokenizador que se escreve da pasta é o do GGUF de que ela veio."""
    import preparar_modelo

    write(DEFAULT_MODEL, tmp_path / "m.gguf", "q8_0")
    found = gguf.GGUFReader(tmp_path / "m.gguf")
    packaged = gguf.GGUFReader(preparar_modelo.find_gguf())
    names = ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id")
    keys = [f"tokenizer.ggml.{name}" for name in names]
    keys += ["llama.rope.freq_base", "llama.rope.dimension_count", "llama.attention.head_count_kv"]
    for key in keys:
        assert found.fields[key].contents() == packaged.fields[key].contents(), key
    shapes = [{t.name: list(t.shape) for t in reader.tensors} for reader in (found, packaged)]
    assert shapes[0] == shapes[1]


@needs_llama_cpp
@ready
@pytest.mark.model
def test_llama_cpp_answers_as_transformers_does(tmp_path):
    """O GGUF f16 do modelo base, lido pelo llama.cpp, dá a resposta gulosa do transformers."""
    write(DEFAULT_MODEL, tmp_path / "m.gguf", "f16")
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
    expected = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    stop = tokenizer.eos_token_id
    answer = growing(tokenizer, [token for token in expected if token != stop])
    engine = llama_cpp.LlamaCpp(tmp_path / "m.gguf")
    assert [*stream(engine, tokenizer, prompt, 12)] == answer
