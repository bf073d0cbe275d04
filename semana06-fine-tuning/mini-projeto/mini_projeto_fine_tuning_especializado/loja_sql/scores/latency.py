"""Quanto espera quem pergunta sozinho, e quanta memória o modelo toma, num processo só dele."""

import statistics
import time
from dataclasses import replace

from comum import process
from comum.memory import MemoryGrowth
from comum.results import Latency
from comum.terminal import UserError, progress

from loja_sql.model import transformers_engine  # noqa: F401  (as bibliotecas, antes de medir)
from loja_sql.scores.variants import Variant


def measure(variant: Variant, prompts: list[str]) -> tuple[Latency, int | None]:
    """Responde um a um: (latência, bytes do modelo no processo); UserError se falta memória."""
    # As funções que montaram os prompts não cabem no pickle.
    bare = replace(variant, examples=None, reword=str)
    try:
        return process.alone(_one_by_one, bare, prompts)
    except process.Died as error:
        kept = f"O que já se mediu está gravado: basta --add --only {variant.group}."
        raise UserError(f"{error} {kept}") from error


def _one_by_one(variant: Variant, prompts: list[str]) -> tuple[Latency, int | None]:
    # As bibliotecas, comuns a todas as variantes, já estão na memória e não contam.
    memory = MemoryGrowth()
    engine, limit = variant.open(), variant.config.generation.max_new_tokens
    memory.restart_peak()  # o pico de carregar o modelo passa; o que conta é o de responder
    list(engine.stream(prompts[0], limit))  # só aquece o motor
    seconds, tokens = [], 0
    for prompt in progress(prompts, f"Uma a uma ({variant.label})", "pergunta"):
        started = time.perf_counter()
        answer = ["", *engine.stream(prompt, limit)][-1]
        seconds.append(time.perf_counter() - started)
        tokens += len(engine.tokenizer(answer, add_special_tokens=False).input_ids)
    grown = memory.peak()
    engine.close()
    ranked = sorted(seconds)
    return Latency(
        questions=len(ranked),
        p50_s=statistics.median(ranked),
        p95_s=ranked[int(0.95 * len(ranked))],
        tokens_per_second=tokens / sum(ranked),
    ), grown
