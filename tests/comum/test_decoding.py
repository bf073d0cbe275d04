"""decoding.py e o pad de models.py: as contas com lote, começo comum e atalhos são as sem eles."""

import math

import comum  # noqa: F401  (antes do torch)
from comum.decoding import GROUPED_ATTENTION, SharedPrefix, answer_losses, generate, stream
from comum.models import load_model, load_tokenizer

import pytest
import torch

SCHEMA = "CREATE TABLE clientes (id INTEGER, nome TEXT, uf TEXT); " * 8
QUESTIONS = ["quantos clientes?", "liste os nomes dos clientes de Minas Gerais em ordem", "oi"]


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def loaded(request):
    """(modelo, tokenizador, prompts), com e sem template de chat e token de preenchimento."""
    folder = str(request.getfixturevalue(request.param))
    tokenizer = load_tokenizer(folder)
    turns = [
        [{"role": "system", "content": SCHEMA}, {"role": "user", "content": question}]
        for question in QUESTIONS
    ]
    prompts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return load_model(folder), tokenizer, prompts


def one_by_one(model, tokenizer, text, new):
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


def test_batched_and_streamed_answers_equal_one_by_one(loaded):
    model, tokenizer, prompts = loaded
    assert SharedPrefix(model, tokenizer(prompts, add_special_tokens=False).input_ids).size > 64
    answers = dict(pair for batch in generate(model, tokenizer, prompts, 12, 2) for pair in batch)
    for index, prompt in enumerate(prompts):
        steps = list(stream(model, tokenizer, prompt, 12))
        expected = one_by_one(model, tokenizer, prompt, 12)
        assert answers[index] == expected == (steps[-1] if steps else "")


def test_greedy_is_greedy_whatever_the_model_publishes(tiny_llama):
    """O generation_config de alguns modelos pune quem se repete."""
    model, tokenizer = load_model(str(tiny_llama)), load_tokenizer(str(tiny_llama))
    model.generation_config.repetition_penalty = 5.0
    [[(_, answer)]] = generate(model, tokenizer, ["quantos clientes?"], 12, 1)
    assert answer == one_by_one(model, tokenizer, "quantos clientes?", 12)


def test_answer_losses_equal_the_plain_forward(loaded):
    model, tokenizer, prompts = loaded
    answers = ["SELECT 1", "SELECT nome FROM clientes", "SELECT 2"]
    pairs = [
        tuple(tokenizer([prompt, answer], add_special_tokens=False).input_ids)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found = {i: (s, n) for b in answer_losses(model, tokenizer, pairs, 2) for i, s, n in b}
    for index, (prompt, answer) in enumerate(pairs):
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.inference_mode():
            mean = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.item()
        total, count = found[index]
        assert count == len(answer)
        assert math.isclose(total / count, mean, rel_tol=1e-4)


def test_one_new_token_attends_as_the_library_does(tiny_llama):
    model = load_model(str(tiny_llama))
    ids = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(6))
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, 2:5] = 0  # preenchimento no começo e no meio, como em SharedPrefix
    logits = []
    for implementation in (GROUPED_ATTENTION, "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            first = model(input_ids=ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
            cache = first.past_key_values
            second = model(input_ids=ids[:, 8:], attention_mask=mask, past_key_values=cache)
        logits.append(second.logits)
    torch.testing.assert_close(*logits)
