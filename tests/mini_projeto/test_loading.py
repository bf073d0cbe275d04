"""loading.py: o que se carrega é o que foi treinado, inteiro ou fundido, e responde igual."""

import json

import comum  # noqa: F401  (antes do torch)
from comum import decoding
from comum.decoding import GROUPED_ATTENTION
from comum.terminal import UserError

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, LlamaForCausalLM

from loja_sql.config import load_config, untrained
from loja_sql.model.loading import load_model, with_adapter
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import Context, encode_pair, render

CONTEXT = Context(
    "CREATE TABLE clientes (id INTEGER, nome TEXT, uf TEXT); " * 8, lambda question: ()
)
QUESTIONS = ["quantos clientes?", "liste os nomes dos clientes de Minas Gerais em ordem", "oi"]


def test_the_merged_adapter_answers_as_the_plain_one_does(trained):
    args, folder = trained
    config = load_config(None, [*args, "prompt.schema_in_prompt=true"])
    tokenizer, merged = load_tokenizer(config, folder), load_model(config, folder)
    assert not isinstance(merged, PeftModel)
    assert merged.config._attn_implementation == GROUPED_ATTENTION
    apart = with_adapter(config, load_model(config), folder).eval()
    prompts = [render(tokenizer, config, question, CONTEXT) for question in QUESTIONS]
    first, second = (
        [pair for batch in decoding.generate(model, tokenizer, prompts, 12, 2) for pair in batch]
        for model in (merged, apart)
    )
    assert first == second


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_precision_is_the_one_asked_for(tiny_llama, precision, dtype):
    config = load_config(None, [f"model.name={tiny_llama}", f"training.precision={precision}"])
    assert str(load_model(config).dtype) == f"torch.{dtype}"
    assert load_model(config, dtype=torch.float32).dtype == torch.float32


def test_an_adapter_stays_apart_from_a_base_in_4_bits(trained):
    args, folder = trained
    config = load_config(None, [*args, "model.load_in_4bit=true", "training.precision=bf16"])
    model = load_model(config, folder)
    assert isinstance(model, PeftModel)
    base = model.get_base_model()
    plain = [base.model.embed_tokens.weight, base.model.norm.weight, base.lm_head.weight]
    assert {weight.dtype for weight in plain} == {torch.bfloat16}, "só as lineares vão a 4 bits"


def test_a_folder_without_a_trained_model_says_so(tiny_llama, tmp_path):
    config = load_config(None, [f"model.name={tiny_llama}"])
    with pytest.raises(UserError, match="não tem um modelo treinado"):
        load_model(config, tmp_path)
    with pytest.raises(UserError, match="não consegui carregar"):
        load_model(load_config(None, [f"model.name={tmp_path}"]))


def test_the_plain_template_goes_with_the_training(tiny_llama, tmp_path):
    config = load_config(None, [f"model.name={tiny_llama}", "prompt.template=plain"])
    tokenizer = load_tokenizer(config)
    assert render(tokenizer, config, " quantos? ", CONTEXT) == "SQL\nquantos?\n"
    prompt, answer = encode_pair(tokenizer, config, "quantos?", "SELECT 1", CONTEXT)
    assert tokenizer.decode(prompt) == "SQL\nquantos?\n"
    assert answer[-1] == tokenizer.eos_token_id
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(load_config(None, []), tmp_path).chat_template == tokenizer.chat_template
    assert load_tokenizer(untrained(config)).chat_template != tokenizer.chat_template


@pytest.mark.parametrize(
    "kind", ["outra largura", "outra arquitetura", "cortado", "base mais alta", "base mais baixa"]
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    copied, tiny_llama, tiny_gpt2, tmp_path, kind
):
    """Do que falta numa base mais alta o peft só avisaria; do que sobra numa mais baixa, nada."""
    args, folder = copied
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    original = load_config(None, args)
    base = {"outra largura": tiny_llama, "outra arquitetura": tiny_gpt2}.get(kind)
    if kind == "cortado":
        weights.write_bytes(weights.read_bytes()[:500])
    if layers := {"base mais alta": 3, "base mais baixa": 1}.get(kind):
        found = json.loads(settings.read_text())
        short = {name.rpartition(".")[2] for name in found["target_modules"]}
        found["target_modules"] = sorted(short)  # como os de um modelo de verdade
        settings.write_text(json.dumps(found))
        base = tmp_path / "base"
        shape = AutoConfig.from_pretrained(original.model_path, num_hidden_layers=layers)
        LlamaForCausalLM(shape).save_pretrained(base)
        load_tokenizer(original).save_pretrained(base)
    config = load_config(None, [*args, f"model.name={base or original.model_path}"])
    with pytest.raises(UserError, match="é de outro modelo, ou está estragado"):
        load_model(config, folder)


def test_render_ends_where_the_answer_begins(tiny_llama):
    config = load_config(None, [f"model.name={tiny_llama}", "prompt.template=model"])
    assert render(load_tokenizer(config), config, "  quantos clientes?  ", CONTEXT) == (
        "<|im_start|>system\nSQL<|im_end|>\n<|im_start|>user\nquantos clientes?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
