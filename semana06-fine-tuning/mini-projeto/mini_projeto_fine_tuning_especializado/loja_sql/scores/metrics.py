"""Estatística da avaliação: intervalo de Wilson, teste de McNemar e bootstrap."""

import math
import random

from sacrebleu.metrics import BLEU
from scipy.stats import binomtest

Z95 = 1.959963984540054
BOOTSTRAP_SAMPLES = 2000


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Intervalo de 95% de uma proporção (Wilson, 1927), como frações entre 0 e 1.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if total == 0:
        return 0.0, 1.0
    p = successes / total
    denominator = 1 + Z95**2 / total
    center = (p + Z95**2 / (2 * total)) / denominator
    margin = Z95 / denominator * math.sqrt(p * (1 - p) / total + Z95**2 / (4 * total**2))
    return max(0.0, center - margin), min(1.0, center + margin)


def proportion(flags: list[bool]) -> dict:
    """Resumo de acertos: contagens, fração e intervalo de Wilson."""
    low, high = wilson(sum(flags), len(flags))
    return {
        "acertos": sum(flags),
        "total": len(flags),
        "valor": sum(flags) / len(flags) if flags else 0.0,
        "ic95": [low, high],
    }


def mcnemar(first: list[bool], second: list[bool]) -> dict:
    """Teste exato de McNemar para duas variantes sobre as mesmas perguntas.

    Só contam as discordâncias: sob a hipótese de empate, cada uma cai para um lado ou para o outro
    com chance 1/2 (McNemar, 1947).

    Returns:
        `so_primeira` e `so_segunda` (acertos exclusivos) e `p_valor` bilateral.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    p_value = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return {"so_primeira": only_first, "so_segunda": only_second, "p_valor": float(p_value)}


def bleu(answers: list[str], references: list[str]) -> dict:
    """BLEU do conjunto, de 0 a 100, com intervalo de 95% por bootstrap sobre as perguntas.

    Para SQL é só um apoio: duas consultas iguais em efeito podem ter BLEU baixo, e o contrário.
    """
    metric = BLEU()
    score = metric.corpus_score(answers, [references], n_bootstrap=BOOTSTRAP_SAMPLES)
    interval = [score._mean - score._ci, score._mean + score._ci]
    return {"valor": score.score, "ic95": interval, "assinatura": str(metric.get_signature())}


def perplexity(losses: list[tuple[float, int]], seed: int = 0) -> dict:
    """Perplexidade por token com intervalo de 95% por bootstrap sobre as perguntas.

    Args:
        losses: por pergunta, (soma das perdas em nats, número de tokens).
    """
    rng = random.Random(seed)

    def value(sample: list[tuple[float, int]]) -> float:
        return math.exp(sum(s for s, _ in sample) / sum(n for _, n in sample))

    draws = sorted(
        value(rng.choices(losses, k=len(losses))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    low = draws[int(0.025 * BOOTSTRAP_SAMPLES)]
    high = draws[int(0.975 * BOOTSTRAP_SAMPLES) - 1]
    return {"valor": value(losses), "ic95": [low, high], "tokens": sum(n for _, n in losses)}
