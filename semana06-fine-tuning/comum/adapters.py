"""Um adaptador LoRA treinado pelo laço mais simples: para comparar dados, e não treinos."""

import math
import random
import time
from itertools import chain, count, islice
from types import SimpleNamespace

from comum.models import compute_dtype, fix_seeds, grad_scaler, load_model
from comum.terminal import UserError, progress
from comum.training import DIVERGED, answer_loss, pad, similar_lengths

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import get_cosine_schedule_with_warmup


def lora(plan: SimpleNamespace) -> PeftModel:
    """O modelo congelado, com um adaptador de posto r em toda camada linear."""
    fix_seeds(plan.seed)  # antes do adaptador: a matriz A nasce sorteada
    model = load_model(plan.model, compute_dtype())
    shape = {"r": plan.r, "lora_alpha": 2 * plan.r, "target_modules": "all-linear"}
    return get_peft_model(model, LoraConfig(**shape, task_type="CAUSAL_LM"))


def fit(model, rows: list[dict], rates: dict, epochs: float, plan, loss_of=None) -> float:
    """O laço de treino; devolve os segundos.

    Args:
        rates: o learning_rate de cada trecho do nome de um parâmetro ("" para os outros).
        loss_of: a perda de uma lista de linhas; sem ela, a dos tokens da resposta.
    """
    scaler, steps = grad_scaler(), math.ceil(len(rows) / plan.batch_size * epochs)

    def loss_on_answers(some: list[dict]) -> torch.Tensor:
        batch = pad(some, 0)  # a máscara de atenção esconde o preenchimento
        batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
        return answer_loss(model, batch, mixed=True)

    groups = {key: {"params": [], "lr": rate} for key, rate in rates.items()}
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            groups[next(key for key in rates if key in name)]["params"].append(weights)
    optimizer = torch.optim.AdamW(groups.values(), weight_decay=0.0)  # poucos pesos, e já regulados
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    # Cada passada sorteia os lotes de novo; num lote, linhas de comprimento parecido.
    rng, lengths = random.Random(plan.seed), [len(row["input_ids"]) for row in rows]
    passes = (similar_lengths(lengths, plan.batch_size, rng) for _ in count())
    started = time.perf_counter()
    model.train()
    for chosen in progress(islice(chain.from_iterable(passes), steps), "Treinando", "passo", steps):
        # O autocast já põe o adaptador na precisão das contas; a cópia que o peft faria sobra.
        with disable_input_dtype_casting(model):
            loss = (loss_of or loss_on_answers)([rows[place] for place in chosen])
        if not loss.isfinite():
            raise UserError(DIVERGED)
        scaler.scale(loss).backward()  # só o adaptador recebe gradiente; a base está congelada
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # um lote não desfaz os outros
        scaler.step(optimizer)
        scaler.update()
        schedule.step()  # sobe em 5% dos passos, desce em cosseno
        optimizer.zero_grad()
    return time.perf_counter() - started
