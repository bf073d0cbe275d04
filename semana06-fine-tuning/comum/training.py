"""O que todo treino daqui divide: o que entra na perda, a perda só da resposta, lotes parecidos."""

import random
from collections.abc import Sequence

from comum.template import Messages, chat_text
from comum.terminal import UserError

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100  # rótulo que a entropia cruzada do torch deixa de fora
DIVERGED = "a perda deixou de ser um número, e nada se salvou: diminua --learning-rate."


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, turns: Messages, answer: str
) -> tuple[list[int], list[int]]:
    """Tokens do prompt (`turns` e a marca de que é a vez do modelo) e da resposta, com o seu fim.

    Raises:
        UserError: o template escreve o prompt de um jeito no treino e de outro no uso.
    """
    prompt = chat_text(tokenizer, turns, add_generation_prompt=True)
    full = chat_text(tokenizer, [*turns, {"role": "assistant", "content": answer}])
    if not full.startswith(prompt):
        raise UserError(
            "o template de chat deste modelo escreve o prompt de um jeito no treino e de outro na "
            "geração; escolha outro modelo ou corrija o template."
        )
    answered = full[len(prompt) :].rstrip("\n")
    return tuple(tokenizer([prompt, answered], add_special_tokens=False).input_ids)


def masked(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    """Uma linha de treino: -100 no prompt, o próprio token na resposta e no fim dela."""
    ids = prompt + answer
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [IGNORED] * len(prompt) + answer,
    }


def pad(rows: Sequence[dict[str, list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Um lote [exemplos, comprimento], preenchido à direita até o maior exemplo."""
    width = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}
    return {
        key: torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])
        for key, fill in fills.items()
    }


def answer_logits(
    model: PreTrainedModel | PeftModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Os logits dos tokens da resposta e os tokens certos: [n, vocabulário] e [n].

    Só as posições com rótulo passam pela camada de saída. Ela tem o tamanho do vocabulário, e os
    logits do prompt, que a perda ignora, custariam quase metade do tempo e da memória do passo.

    Args:
        batch: `input_ids`, `attention_mask` e `labels`, todos [exemplos, comprimento].
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.get_decoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    following = batch["labels"][:, 1:]  # a posição t prevê o token t + 1
    learned = following != IGNORED
    return causal.get_output_embeddings()(hidden[:, :-1][learned]).float(), following[learned]


def answer_loss(
    model: PreTrainedModel | PeftModel, batch: dict[str, torch.Tensor], mixed: bool = False
) -> torch.Tensor:
    """Entropia cruzada média dos tokens da resposta, a mesma de `model(**batch).loss`.

    Args:
        mixed: faz as contas pesadas em bf16; os pesos que treinam continuam em float32.
    """
    with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
        return functional.cross_entropy(*answer_logits(model, batch))


def similar_lengths(
    lengths: Sequence[int], size: int, rng: random.Random, pool: int = 8, short_last: bool = False
) -> list[list[int]]:
    """Uma passada em lotes de exemplos de comprimento parecido: menos preenchimento.

    Só grupos de `pool` lotes, sorteados, são ordenados, e a ordem dos lotes é sorteada: o
    `group_by_length` do Trainer desfila cada grupo do mais longo ao mais curto, e o modelo
    acompanha o desfile (medimos o dobro da perda logo depois dos lotes mais curtos).

    Args:
        size: exemplos por lote; `short_last` deixa no fim o lote incompleto.
    """
    order = rng.sample(range(len(lengths)), len(lengths))
    batches = []
    for start in range(0, len(order), pool * size):
        near = sorted(order[start : start + pool * size], key=lengths.__getitem__)
        batches += [near[i : i + size] for i in range(0, len(near), size)]
    incomplete = [batches.pop()] if short_last and len(batches[-1]) < size else []
    rng.shuffle(batches)
    return batches + incomplete
