"""A incerteza das medidas: intervalo de Wilson, teste de McNemar e bootstrap, pelas bibliotecas.

As mesmas contas, escritas por extenso, estão na lição do dia 6.
"""

import math
from collections.abc import Callable, Sequence

from comum.results import Paired, Score

import numpy
from sacrebleu.metrics import BLEU
from scipy.stats import binomtest

RESAMPLES = 1000


def proportion(flags: Sequence[bool]) -> Score:
    """Fração de acertos com o intervalo de 95% de Wilson (1927)."""
    hits, total = sum(flags), len(flags)
    if not total:
        return Score(value=0.0, ci95=(0.0, 1.0), n=0)
    found = binomtest(hits, total).proportion_ci(method="wilson")
    return Score(value=hits / total, ci95=(found.low, found.high), n=total)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Teste exato de McNemar (1947) para duas variantes sobre as mesmas perguntas.

    Só contam as discordâncias: se as variantes valem o mesmo, cada uma cai para um lado ou para o
    outro com chance 1/2.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    p = binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return Paired(only_first=only_first, only_second=only_second, p_value=float(p))


def ratio(above: Sequence[float], below: Sequence[float], transform: Callable = float) -> Score:
    """Razão de somas, com bootstrap percentil sobre as unidades (Efron e Tibshirani, 1993).

    As unidades são as conversas ou perguntas: tokens de uma mesma resposta não são independentes.
    Com a diferença de duas variantes em `above`, é o bootstrap pareado (Koehn, 2004).

    Args:
        above: numerador de cada unidade, [n]; below: denominador, [n].
        transform: função crescente aplicada à razão (exp, para a perplexidade).
    """
    above, below = numpy.asarray(above, dtype=float), numpy.asarray(below, dtype=float)
    picks = numpy.random.default_rng(0).integers(0, len(above), (RESAMPLES, len(above)))
    low, high = numpy.quantile(above[picks].sum(1) / below[picks].sum(1), [0.025, 0.975])
    value = transform(above.sum() / below.sum())
    return Score(value=value, ci95=(transform(low), transform(high)), n=len(above))


def mean(values: Sequence[float]) -> Score:
    """Média com o intervalo de bootstrap."""
    return ratio(values, numpy.ones(len(values)))


def perplexity(nats: Sequence[float], units: Sequence[float]) -> Score:
    """Exponencial da surpresa média por unidade (token ou byte); uma entrada por conversa."""
    return ratio(nats, units, math.exp)


def bleu(answers: list[str], references: list[str]) -> Score:
    """BLEU do sacreBLEU (Post, 2018), de 0 a 100, com o intervalo de bootstrap e a assinatura."""
    metric = BLEU()
    score = metric.corpus_score(answers, [references], n_bootstrap=RESAMPLES)
    # O intervalo dele é simétrico, e perto de 100 passaria do que a nota pode ser.
    interval = max(0.0, score._mean - score._ci), min(100.0, score._mean + score._ci)
    signature = str(metric.get_signature())
    return Score(value=score.score, ci95=interval, n=len(answers), signature=signature)
