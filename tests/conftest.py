"""Modelos minúsculos feitos na hora: os testes rápidos não dependem de pesos de verdade."""

import json
import subprocess
import sys
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import pytest
import torch
from loja_sql.shop import DATA_DIR, create_shop
from loja_sql.sql.features import difficulty, kind
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _trained_tokenizer(vocab_size: int) -> Tokenizer:
    """BPE de bytes, treinado nas perguntas do próprio repositório."""
    lines = (DATA_DIR / "perguntas_validacao.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in json.loads(line).values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Pasta com um Llama de 2 camadas e um tokenizador com template de chat."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained_tokenizer(600),
        bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
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
        bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=2048,
                   bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def lesson_process(tmp_path):
    """Roda uma lição como quem a digita, num processo só dela, com os resultados em `tmp_path`."""

    def run(script: str, *arguments) -> subprocess.CompletedProcess:
        start = (
            "import runpy, sys; from pathlib import Path; script, results = sys.argv[1:3]; "
            "sys.path.insert(0, str(Path(script).parent)); import utils; "
            "utils.RESULTS_DIR = Path(results); sys.argv[:3] = [script]; "
            "runpy.run_path(script, run_name='__main__')"
        )
        command = [sys.executable, "-c", start, script, tmp_path / "resultados", *arguments]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def shop_11(tmp_path_factory) -> Path:
    """A loja da semente 11, gerada uma vez."""
    return create_shop(tmp_path_factory.mktemp("loja") / "loja_11.sqlite", 11)


@pytest.fixture
def project(tmp_path, tiny_llama, shop_11):
    """Tudo pronto para treinar o Llama minúsculo em 24 perguntas; devolve (args, pasta).

    `args` são os pares chave=valor a passar a qualquer script.
    """
    data = tmp_path / "dados"
    data.mkdir()
    (data / "loja_11.sqlite").symlink_to(shop_11)
    lines = (DATA_DIR / "perguntas_curadas.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if len(row["sql"]) < 90][:36]
    for name, part in (("treino", rows[:24]), ("validacao", rows[24:30]), ("teste", rows[30:])):
        text = "".join(
            json.dumps({"id": f"{name}-{i}", "source": "curada", "kind": kind(row["sql"]),
                        "difficulty": difficulty(row["sql"]), **row}) + "\n"
            for i, row in enumerate(part)
        )  # fmt: skip
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")
    args = [
        f"model.name={tiny_llama}", f"data.output_dir={data}", "database.seeds=[11]",
        f"training.output_dir={tmp_path / 'lora'}", "training.max_steps=6", "training.eval_steps=3",
        "training.early_stopping_patience=9", "training.batch_size=4", "lora.r=4",
        "generation.max_new_tokens=8", "evaluation.base_max_new_tokens=8",
        # A mesma conta em toda máquina; os testes de bf16 pedem bf16.
        "training.precision=fp32",
    ]  # fmt: skip
    return args, tmp_path
