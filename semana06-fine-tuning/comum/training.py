"""O que todo treino daqui divide: o que entra na perda, a perda só da resposta, lotes parecidos."""

import random
from collections.abc import Sequence

from comum.models import autocast, check_length
from comum.template import Messages, chat_text
from comum.terminal import UserError

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100  # rótulo que a entropia cruzada do torch deixa de fora
DIVERGED = "a perda deixou de ser um número: diminua o learning_rate."

# O learning_rate que o LoRA costuma pedir, do menor ao maior, a partir de tantos parâmetros: 2e-4 é
# o do artigo do QLoRA para 7 bilhões (Dettmers et al., 2023, tabela 9); o dos pequenos, medimos.
LORA_RATES = {5 * 10**9: (1e-4, 2e-4), 10**9: (2e-4, 5e-4), 0: (1e-3, 4e-3)}
LARGE = 10**9  # parâmetros: daqui em diante, quem usa 4 bits não tem memória para as ativações


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, turns: Messages, answer: str
) -> tuple[list[int], list[int]]:
    """Tokens do prompt (`turns` e a marca de que é a vez do modelo) e da resposta, com o seu fim.

    Raises:
        UserError: o template escreve o prompt de um jeito no treino e de outro no uso, ou o par
            não cabe no modelo.
    """
    prompt = chat_text(tokenizer, turns, add_generation_prompt=True)
    full = chat_text(tokenizer, [*turns, {"role": "assistant", "content": answer}])
    if not full.startswith(prompt):
        raise UserError(
            "o template de chat deste modelo escreve o prompt de um jeito no treino e de outro na "
            "geração; escolha outro modelo ou corrija o template."
        )
    answered = full[len(prompt) :].rstrip("\n")
    pair = tokenizer([prompt, answered], add_special_tokens=False).input_ids
    check_length(tokenizer, sum(map(len, pair)))
    return tuple(pair)


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
    logits = causal.get_output_embeddings()(hidden[:, :-1][learned]).float()
    # Depois da camada de saída, o Gemma 2 ainda comprime os logits, e o Granite os divide.
    if cap := getattr(causal.config, "final_logit_softcapping", None):
        logits = cap * (logits / cap).tanh()
    if scale := getattr(causal.config, "logits_scaling", None):
        logits = logits / scale
    return logits, following[learned]


def answer_loss(
    model: PreTrainedModel | PeftModel, batch: dict[str, torch.Tensor], mixed: bool = False
) -> torch.Tensor:
    """Entropia cruzada média dos tokens da resposta, a mesma de `model(**batch).loss`.

    Args:
        mixed: faz as contas pesadas na precisão que rende aqui, como em todo treino.
    """
    with autocast(mixed):
        return functional.cross_entropy(*answer_logits(model, batch))


def lora_rates(parameters: int) -> tuple[float, float]:
    """O menor e o maior learning_rate que se costuma dar ao LoRA num modelo deste tamanho."""
    return next(rates for least, rates in LORA_RATES.items() if parameters >= least)


def recomputes_activations(model: PreTrainedModel, load_in_4bit: bool) -> bool:
    """Diz se vale refazer as ativações na volta: tempo por memória (gradient checkpointing)."""
    return load_in_4bit and model.num_parameters() >= LARGE


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
