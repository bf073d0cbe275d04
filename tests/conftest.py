"""Modelos minúsculos feitos na hora: os testes rápidos não dependem de pesos de verdade."""

import gc
import json
import os
import tempfile
from pathlib import Path

# Antes de comum e do trackio: nenhum teste escreve nos resultados de quem os roda.
os.environ["SEMANA06_RESULTADOS"] = tempfile.mkdtemp(prefix="resultados-")
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")

import comum  # noqa: F401, E402  (antes do torch)

import pytest  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from loja_sql.shop import DATA_DIR, create_shop  # noqa: E402

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def pytest_collection_finish() -> None:
    """Tira o que os imports deixaram da vista do coletor de lixo.

    Cada treino o chama três vezes, e percorrer as bibliotecas custava um terço dos testes.
    """
    gc.collect()
    gc.freeze()


def _trained_tokenizer(vocab_size: int) -> Tokenizer:
    """BPE de bytes, treinado nas perguntas do próprio repositório."""
    lines = (DATA_DIR / "perguntas_validacao.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in json.loads(line).values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Pasta com um Llama de 2 camadas e um tokenizador com template de chat."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(600),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_llama(tiny_llama, tmp_path_factory) -> Path:
    """Um Llama de largura 64: cabe nos grupos do GPTQ e nos blocos do NF4 e do GGUF."""
    folder = tmp_path_factory.mktemp("largo")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(
        tiny_llama, hidden_size=64, intermediate_size=128, head_dim=16
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory) -> Path:
    """Pasta com um GPT-2 de 1 camada, sem template de chat e sem token de preenchimento."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(600),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shop_11(tmp_path_factory) -> Path:
    """A loja da semente 11, gerada uma vez."""
    return create_shop(tmp_path_factory.mktemp("loja") / "loja_11.sqlite", 11)
