"""model.py e prompt.py: o mesmo prompt em todo lugar, respostas iguais com e sem atalhos."""

import math

import pytest
import torch
from loja_sql.config import load_config
from loja_sql.model.loading import (
    GROUPED_ATTENTION,
    SharedPrefix,
    answer_losses,
    generate,
    load_model,
    load_tokenizer,
)
from loja_sql.prompt import render

SCHEMA = "CREATE TABLE clientes (id INTEGER, nome TEXT, uf TEXT); " * 8
QUESTIONS = ["quantos clientes?", "liste os nomes dos clientes de Minas Gerais em ordem", "oi"]


def config_for(folder, *extra):
    return load_config(None, [f"model.name={folder}", *extra])


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def loaded(request):
    folder = request.getfixturevalue(request.param)
    config = config_for(folder, "prompt.schema_in_prompt=true")
    return config, load_tokenizer(config), load_model(config)


def one_by_one(model, tokenizer, text: str, new: int) -> str:
    """Geração gulosa sem lote, sem preenchimento e sem cache: a referência."""
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(new):
        with torch.inference_mode():
            following = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        if following == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following.view(1, 1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_batched_generation_with_shared_prefix_equals_one_by_one(loaded):
    config, tokenizer, model = loaded
    prompts = [render(tokenizer, config, q, SCHEMA) for q in QUESTIONS]
    assert SharedPrefix(model, tokenizer(prompts, add_special_tokens=False).input_ids).size > 64
    answers = dict(pair for batch in generate(model, tokenizer, prompts, 12, 2) for pair in batch)
    assert [answers[i] for i in range(3)] == [one_by_one(model, tokenizer, p, 12) for p in prompts]


def test_one_new_token_attends_as_the_library_does(tiny_llama):
    model = load_model(config_for(tiny_llama, "training.precision=fp32"))
    assert model.config._attn_implementation == GROUPED_ATTENTION
    ids = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(6))
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, 2:5] = 0  # preenchimento no começo e no meio, como em SharedPrefix
    logits = []
    for implementation in (GROUPED_ATTENTION, "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            first = model(input_ids=ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
            second = model(input_ids=ids[:, 8:], attention_mask=mask,
                           past_key_values=first.past_key_values)  # fmt: skip
        logits.append(second.logits)
    torch.testing.assert_close(*logits)


def test_answer_losses_equal_the_plain_forward(loaded):
    config, tokenizer, model = loaded
    pairs = []
    for question, sql in zip(QUESTIONS, ["SELECT 1", "SELECT nome FROM clientes", "SELECT 2"],
                             strict=True):  # fmt: skip
        prompt = render(tokenizer, config, question, SCHEMA)
        pairs.append(tuple(tokenizer([prompt, sql], add_special_tokens=False).input_ids))
    found = {i: (s, n) for b in answer_losses(model, tokenizer, pairs, 2) for i, s, n in b}
    for index, (prompt, answer) in enumerate(pairs):
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.inference_mode():
            mean = model(input_ids=ids, labels=labels).loss.item()
        total, count = found[index]
        assert count == len(answer)
        assert math.isclose(total / count, mean, rel_tol=1e-4)


def test_pad_is_never_the_end_of_answer(loaded):
    _, tokenizer, _ = loaded
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_render_ends_where_the_answer_begins(tiny_llama):
    config = config_for(tiny_llama)
    text = render(load_tokenizer(config), config, "  quantos clientes?  ", SCHEMA)
    assert text == (
        "<|im_start|>system\nSQL<|im_end|>\n<|im_start|>user\nquantos clientes?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
