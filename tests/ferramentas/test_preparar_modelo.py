"""preparar_modelo.py e o modelo que ele prepara."""

from comum.files import sha256
from comum.paths import DEFAULT_MODEL
from comum.terminal import UserError, run_main

import pytest

import preparar_modelo as prepare

ready = pytest.mark.skipif(
    not prepare.is_ready(DEFAULT_MODEL), reason="modelo não preparado: rode `make setup`"
)


def test_corrupted_file_is_refused(tmp_path):
    path = tmp_path / "modelo.gguf"
    path.write_bytes(b"GGUF corrompido")
    with pytest.raises(UserError, match="SHA-256"):
        prepare.check(path)
    prepare.check(path, sha256(path))


def test_missing_package_names_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(prepare, "PACKAGE", "pacote_que_nao_existe")
    assert run_main(prepare.main, ["--output", str(tmp_path / "saida")]) == 2
    assert prepare.INSTALL_COMMAND in capsys.readouterr().err
    assert not (tmp_path / "saida").exists()


@ready
@pytest.mark.model
def test_second_call_does_nothing(capsys):
    def stamps():
        return sorted((p.name, p.stat().st_mtime_ns) for p in DEFAULT_MODEL.iterdir())

    before = stamps()
    assert prepare.main([]) == 0
    assert "já está pronto" in capsys.readouterr().out
    assert stamps() == before


@ready
@pytest.mark.model
def test_weights_equal_those_of_the_gguf():
    """Conferência independente: a biblioteca gguf desfaz a quantização e dá os mesmos pesos."""
    import numpy
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    tensors = {t.name: t for t in GGUFReader(prepare.find_gguf()).tensors}
    with safe_open(DEFAULT_MODEL / "model.safetensors", "np") as weights:
        for source, target in pairs.items():
            expected = dequantize(tensors[source].data, tensors[source].tensor_type)
            numpy.testing.assert_allclose(weights.get_tensor(target), expected, atol=1e-6)


@ready
@pytest.mark.model
def test_special_tokens_and_template():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.eos_token_id) == 2  # cada <|im_end|> é um token só
    sample = "SELECT * FROM pedidos WHERE data = '2024-03-15' -- ação, preço , fim ."
    assert tokenizer.decode(tokenizer(sample).input_ids) == sample
    # O modelo foi pré-treinado com um token por algarismo.
    assert len(tokenizer("2024").input_ids) == 4
