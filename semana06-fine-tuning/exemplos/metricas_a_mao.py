"""As medidas, escritas por extenso e comparadas com as das bibliotecas.

Cada uma traz um exemplo que se confere com lápis e papel. Depois de entendidas, use as bibliotecas:
elas tratam os casos raros e dizem com que parâmetros mediram.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
import utils
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

Z = 1.959963984540054  # quantil 97,5% da normal
RESAMPLES = 1000
ROUGE = ("rouge1", "rouge2", "rougeL")


# --- perplexidade ---------------------------------------------------------------------------------


def perplexity(nats: Sequence[float], units: int) -> float:
    """Exponencial da surpresa média por unidade (tokens ou bytes): e^(soma / unidades).

    Exemplo: três tokens com probabilidades 1/2, 1/4 e 1/8 somam ln 64 nats. Por token, 64^(1/3) =
    4: o modelo hesita como quem escolhe entre 4. Se o texto tem 6 bytes, 64^(1/6) = 2 por byte.

    >>> round(perplexity([math.log(2), math.log(4), math.log(8)], 3), 6)
    4.0
    """
    return math.exp(sum(nats) / units)


# --- BLEU, chrF, ROUGE ----------------------------------------------------------------------------


def ngrams(items: Sequence, n: int) -> Counter:
    """Quantas vezes aparece cada sequência de `n` itens."""
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def bleu(answers: list[str], references: list[str], tokenize: Callable = str.split) -> float:
    """BLEU de um conjunto (Papineni et al., 2002), de 0 a 100, com a suavização do sacreBLEU.

    Exemplo: "o prazo é de 30 dias" (6 palavras) contra "o prazo de troca é de 30 dias" (8).
    Acertam 6 de 6 palavras, 4 de 5 pares, 2 de 4 trios e 1 de 3 quartetos; média geométrica
    (1 x 0,8 x 0,5 x 0,333)^(1/4) = 0,6043. A resposta é curta: e^(1 - 8/6) = 0,7165. BLEU = 43,30.

    >>> round(bleu(["o prazo é de 30 dias"], ["o prazo de troca é de 30 dias"]), 2)
    43.3
    """
    hits, totals, length, wanted = [0] * 4, [0] * 4, 0, 0
    for answer, reference in zip(answers, references, strict=True):
        said, right = tokenize(answer), tokenize(reference)
        length, wanted = length + len(said), wanted + len(right)
        for n in range(1, 5):
            hits[n - 1] += (ngrams(said, n) & ngrams(right, n)).total()
            totals[n - 1] += max(0, len(said) - n + 1)
    if not hits[0]:
        return 0.0
    logs, halving = 0.0, 1
    for hit, total in zip(hits, totals, strict=True):
        if not total:
            return 0.0  # nenhuma resposta tem quatro palavras
        if not hit:
            halving *= 2  # sem acerto: conta meio, um quarto … (Chen e Cherry, 2014, método 3)
        logs += math.log((hit or 1 / halving) / total)
    brevity = 1.0 if length >= wanted else math.exp(1 - wanted / length)
    return 100 * brevity * math.exp(logs / 4)


def chrf(answers: list[str], references: list[str]) -> float:
    """chrF de um conjunto (Popović, 2015), de 0 a 100: n-gramas de letras, sem os espaços.

    Exemplo: "nao" contra "não": 2 de 3 letras, 0 de 2 pares, 0 de 1 trio; a precisão média é
    (2/3 + 0 + 0) / 3 = 0,2222, a cobertura também, e o F delas é 22,22.

    >>> round(chrf(["nao"], ["não"]), 2)
    22.22
    """
    pairs = zip(answers, references, strict=True)
    return chrf_of([chrf_counts(answer, reference) for answer, reference in pairs])


def chrf_counts(answer: str, reference: str, order: int = 6) -> numpy.ndarray:
    """Acertos, n-gramas ditos e n-gramas certos, para n de 1 a `order`: [3, order]."""
    said, right = "".join(answer.split()), "".join(reference.split())
    counts = numpy.zeros((3, order))
    for n in range(1, order + 1):
        one, two = ngrams(said, n), ngrams(right, n)
        counts[:, n - 1] = (one & two).total(), one.total(), two.total()
    return counts


def chrf_of(counts: list[numpy.ndarray], beta: int = 2) -> float:
    """O chrF das contagens somadas; `beta` 2 dá à cobertura o dobro do peso da precisão."""
    hits, said, right = numpy.sum(counts, axis=0)
    orders = (said > 0) & (right > 0)
    if not hits.any():
        return 0.0
    precision = (hits[orders] / said[orders]).mean()
    recall = (hits[orders] / right[orders]).mean()
    return float(100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


class WordTokenizer:
    """Palavras em minúsculas, com acentos; o da rouge-score só vê a-z e 0-9, e "avó" vira "av"."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F de ROUGE-1, ROUGE-2 e ROUGE-L (Lin, 2004) de uma resposta, de 0 a 1.

    Exemplo, com as frases do BLEU: palavras 6/6 e 6/8, F = 0,857; pares 4/5 e 4/7, F = 0,667; a
    maior subsequência comum tem 6 palavras, F = 0,857.

    >>> {k: round(v, 3) for k, v in
    ...  rouge("o prazo é de 30 dias", "o prazo de troca é de 30 dias").items()}
    {'rouge1': 0.857, 'rouge2': 0.667, 'rougeL': 0.857}
    """
    said, right = (WordTokenizer().tokenize(text) for text in (answer, reference))
    found = {}
    for n in (1, 2):
        one, two = ngrams(said, n), ngrams(right, n)
        found[f"rouge{n}"] = _f1((one & two).total(), one.total(), two.total())
    found["rougeL"] = _f1(longest_common(said, right), len(said), len(right))
    return found


def longest_common(left: Sequence, right: Sequence) -> int:
    """Tamanho da maior subsequência comum, linha a linha da tabela de Wagner e Fischer (1974)."""
    row = [0] * (len(right) + 1)
    for one in left:
        above = row
        row = [0]
        for place, other in enumerate(right, 1):
            row.append(above[place - 1] + 1 if one == other else max(above[place], row[-1]))
    return row[-1]


def _f1(hits: int, said: int, right: int) -> float:
    return 2 * hits / (said + right) if hits else 0.0


# --- classificação --------------------------------------------------------------------------------


def exact_match(answers: list[str], references: list[str]) -> list[bool]:
    """Acerto quando são iguais, sem contar maiúsculas, pontuação e espaços a mais."""
    tokenizer = WordTokenizer()
    return [tokenizer.tokenize(a) == tokenizer.tokenize(r)
            for a, r in zip(answers, references, strict=True)]  # fmt: skip


def accuracy(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Fração de acertos."""
    return sum(t == p for t, p in zip(true, predicted, strict=True)) / len(true)


def confusion(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> list:
    """Linha: o rótulo certo; coluna: o previsto."""
    counts = Counter(zip(true, predicted, strict=True))
    return [[counts[t, p] for p in labels] for t in labels]


def macro_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Média do F de cada rótulo: os raros pesam como os frequentes.

    Exemplo: certos T T T F F G, previstos T T F F G G. T: precisão 2/2, cobertura 2/3, F = 0,8.
    F: 1/2 e 1/2, F = 0,5. G: 1/2 e 1/1, F = 0,667. Média: 0,656.

    >>> round(macro_f1("TTTFFG", "TTFFGG"), 3)
    0.656
    """
    pairs = list(zip(true, predicted, strict=True))
    scores = []
    for label in sorted({*true, *predicted}):
        hits = sum(t == p == label for t, p in pairs)
        said, right = sum(p == label for _, p in pairs), sum(t == label for t, _ in pairs)
        scores.append(_f1(hits, said, right))
    return sum(scores) / len(scores)


# --- incerteza ------------------------------------------------------------------------------------


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Intervalo de 95% de uma proporção (Wilson, 1927).

    Exemplo, 8 de 10: z² = 3,84; centro (0,8 + 1,92/10) / 1,384 = 0,717; meia largura
    1,96 x √(0,016 + 0,0096) / 1,384 = 0,227. De 0,490 a 0,943.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    share, scale = hits / total, 1 + Z**2 / total
    center = (share + Z**2 / (2 * total)) / scale
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / scale
    return max(0.0, center - half), min(1.0, center + half)


def proportion(flags: Sequence[bool]) -> dict:
    """Fração de acertos com o intervalo de Wilson."""
    return {"valor": sum(flags) / len(flags), "ic95": list(wilson(sum(flags), len(flags))),
            "n": len(flags)}  # fmt: skip


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Valor p do teste exato de McNemar (1947): só contam os casos em que um acerta e o outro não.

    Exemplo: o primeiro acerta sozinho 1 vez, o segundo 6. Se fossem iguais, seriam 7 moedas:
    p = 2 x (1 + 7) / 2⁷ = 0,125.
    """
    only_first = sum(f and not s for f, s in zip(first, second, strict=True))
    only_second = sum(s and not f for f, s in zip(first, second, strict=True))
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**total)


def bootstrap(score: Callable[[list], float], rows: list, seed: int = 0) -> dict:
    """Intervalo percentil (Efron e Tibshirani, 1993): sorteia as linhas com reposição e mede.

    Para comparar dois modelos nas mesmas perguntas, cada linha traz os dois e `score` é a
    diferença: é o bootstrap pareado (Koehn, 2004).
    """
    rng = random.Random(seed)
    drawn = sorted(score(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return {"valor": score(rows), "ic95": [low, high], "n": len(rows)}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- à mão e pela biblioteca ----------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Uma medida: a conta à mão, o que a nossa função dá e o que a biblioteca dá."""

    name: str
    by_hand: str
    ours: float
    library: float

    @property
    def agrees(self) -> bool:
        return math.isclose(self.ours, self.library, rel_tol=1e-6, abs_tol=1e-9)


ANSWER, REFERENCE = "o prazo é de 30 dias", "o prazo de troca é de 30 dias"
TRUE, PREDICTED = "TTTFFG", "TTFFGG"


def checks() -> list[Check]:
    """Todas as medidas nos exemplos pequenos, ao lado das bibliotecas."""
    chances = torch.tensor([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8]])
    loss = torch.nn.functional.cross_entropy(chances.log(), torch.zeros(3, dtype=torch.long))
    nats = [math.log(2), math.log(4), math.log(8)]
    scorer = RougeScorer(list(ROUGE), tokenizer=WordTokenizer())
    library = scorer.score(REFERENCE, ANSWER)
    ours = rouge(ANSWER, REFERENCE)
    first, second = [True] + [False] * 6, [False] + [True] * 6
    interval = binomtest(8, 10).proportion_ci(method="wilson")
    hand = {"rouge1": "P 6/6, C 6/8", "rouge2": "P 4/5, C 4/7", "rougeL": "subsequência de 6"}
    return [
        Check("perplexidade por token", "p = 1/2, 1/4, 1/8: 64^(1/3) = 4", perplexity(nats, 3),
              round(math.exp(loss.item()), 5)),
        Check("BLEU", "(6/6·4/5·2/4·1/3)^¼ · e^(1−8/6) = 43,30", bleu([ANSWER], [REFERENCE]),
              BLEU().corpus_score([ANSWER], [[REFERENCE]]).score),
        Check("chrF", "“nao”/“não”: (2/3 + 0 + 0)/3 = 22,22", chrf(["nao"], ["não"]),
              CHRF().corpus_score(["nao"], [["não"]]).score),
        *(Check(name, hand[name], ours[name], library[name].fmeasure) for name in ROUGE),
        Check("acurácia", "4 de 6", accuracy(TRUE, PREDICTED),
              accuracy_score(list(TRUE), list(PREDICTED))),
        Check("macro-F1", "(0,8 + 0,5 + 0,667)/3 = 0,656", macro_f1(TRUE, PREDICTED),
              f1_score(list(TRUE), list(PREDICTED), average="macro")),
        Check("confusão: F tido por G", "1 vez", confusion(TRUE, PREDICTED, "FGT")[0][1],
              confusion_matrix(list(TRUE), list(PREDICTED), labels=list("FGT"))[0][1]),
        Check("Wilson, 8 de 10 (mínimo)", "0,717 − 0,227 = 0,490", wilson(8, 10)[0], interval.low),
        Check("McNemar, 1 contra 6 (p)", "2·(1 + 7)/2⁷ = 0,125", mcnemar(first, second),
              binomtest(1, 7).pvalue),
    ]  # fmt: skip


def table(found: list[Check]) -> str:
    """Tabela em texto, com quem não bate marcado."""
    lines = [f"{'':<9}{'medida':<26} {'à mão':<42} {'nossa':>9} {'biblioteca':>11}"]
    for check in found:
        mark = "[certo]" if check.agrees else "[ERRADO]"
        numbers = f"{check.ours:>9.4f} {check.library:>11.4f}".replace(".", ",")
        lines.append(f"{mark:<9}{check.name:<26} {check.by_hand:<42} {numbers}")
    return "\n".join(lines)


def accent_trap() -> tuple[float, float]:
    """ROUGE-1 de "é a avó" contra "é o avô": com o tokenizador da rouge-score e com o nosso."""
    answer, reference = "é a avó", "é o avô"
    default = RougeScorer(["rouge1"]).score(reference, answer)["rouge1"].fmeasure
    return default, rouge(answer, reference)["rouge1"]


def require_agreement(found: list[Check]) -> None:
    """Para se alguma medida não é igual à da biblioteca.

    Raises:
        utils.UserError: diz qual.
    """
    wrong = [check.name for check in found if not check.agrees]
    if wrong:
        raise utils.UserError(f"medida diferente da biblioteca: {', '.join(wrong)}.")
