"""Quanto espera quem pergunta sozinho, e quanta memória o modelo toma, num processo só dele.

Noutro processo, que já usou o torch, o llama.cpp demora quase o dobro.
"""

import statistics
import time
from pathlib import Path

from comum import process
from comum.memory import MemoryGrowth
from comum.results import Latency
from comum.terminal import progress

from loja_sql.config import Config
from loja_sql.model.engines import Engine
from loja_sql.scores.variants import Variant, open_variant


def measure(variant: Variant, prompts: list[str]) -> tuple[Latency, int | None]:
    """Responde os prompts um a um: (latência, bytes que o modelo acrescentou ao processo).

    Raises:
        UserError: o processo morreu, quase sempre por falta de memória.
    """
    # Só o que cabe no pickle: os exemplos e a reescrita de uma variante são funções.
    place = variant.config, variant.adapter, variant.form
    return process.alone(answer_alone, *place, prompts, variant.label)


def answer_alone(
    config: Config, adapter: Path | None, form: str | None, prompts: list[str], label: str
) -> tuple[Latency, int | None]:
    """O que `measure` faz, no processo de quem a chama.

    As bibliotecas, comuns a todas as variantes, já estão na memória e não contam. A memória é a de
    responder; o pico de carregar o modelo, que passa, não entra.
    """
    memory = MemoryGrowth()
    engine = open_variant(config, adapter, form)
    memory.restart_peak()
    latency = one_by_one(engine, prompts, config.generation.max_new_tokens, label)
    grown = memory.peak()
    engine.close()
    return latency, grown


def one_by_one(engine: Engine, prompts: list[str], max_new_tokens: int, label: str) -> Latency:
    """A espera por resposta, com o prompt; a primeira só aquece o motor e não conta."""
    for _ in engine.stream(prompts[0], max_new_tokens):
        pass
    seconds, tokens = [], 0
    for prompt in progress(prompts, f"Uma a uma ({label})", "pergunta"):
        started, answer = time.perf_counter(), ""
        for answer in engine.stream(prompt, max_new_tokens):  # noqa: B007  (fica a última)
            pass
        seconds.append(time.perf_counter() - started)
        tokens += len(engine.tokenizer(answer, add_special_tokens=False).input_ids)
    ranked = sorted(seconds)
    return Latency(
        questions=len(ranked),
        p50_s=statistics.median(ranked),
        p95_s=ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))],
        tokens_per_second=tokens / sum(ranked),
    )
