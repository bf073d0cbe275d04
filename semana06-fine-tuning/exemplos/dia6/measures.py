"""As medidas, escritas por extenso, e os classificadores que elas comparam.

Cada medida traz um exemplo que se confere com lápis e papel. Depois de entendidas, use as
bibliotecas: elas tratam os casos raros e dizem com que parâmetros mediram.
"""

import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from comum import models, statistics, tables, training
from comum.labels import CLASSIFIERS
from comum.numbers import decimal, interval, p_value, signed
from comum.results import BeforeAfter, Classification, Classifier, Score
from comum.scoring import answer_sums
from comum.terminal import UserError

import numpy
import torch
from numpy import mean
from peft import LoraConfig, get_peft_model
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from transformers import AutoModelForSequenceClassification

from dia6.dataset import sample

# --- medir um texto -----------------------------------------------------------------------------

Z = 1.959963984540054  # quantil 97,5% da normal
RESAMPLES = 1000


def perplexity(nats: Sequence[float], units: int) -> float:
    """Exponencial da surpresa média por unidade (tokens ou bytes): e^(soma / unidades).

    Três tokens com probabilidades 1/2, 1/4 e 1/8 somam ln 64 nats. Por token, 64^(1/3) = 4: o
    modelo hesita como quem escolhe entre 4. Se o texto tem 6 bytes, 64^(1/6) = 2 por byte.

    >>> round(perplexity([math.log(2), math.log(4), math.log(8)], 3), 6)
    4.0
    """
    return math.exp(sum(nats) / units)


def ngrams(items: Sequence, n: int) -> Counter:
    """Quantas vezes aparece cada sequência de `n` itens."""
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def bleu(answers: list[str], references: list[str], tokenize: Callable = str.split) -> float:
    """BLEU de um conjunto (Papineni et al., 2002), de 0 a 100, com a suavização do sacreBLEU.

    "o prazo é de 30 dias" (6 palavras) contra "o prazo de troca é de 30 dias" (8): acertam 6 de 6
    palavras, 4 de 5 pares, 2 de 4 trios e 1 de 3 quartetos; média geométrica
    (1 x 0,8 x 0,5 x 0,333)^(1/4) = 0,6043. A resposta é curta: e^(1 - 8/6) = 0,7165.

    >>> round(bleu(["o prazo é de 30 dias"], ["o prazo de troca é de 30 dias"]), 2)
    43.3
    """
    pairs = [(tokenize(a), tokenize(r)) for a, r in zip(answers, references, strict=True)]
    length, wanted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    logs, halving = 0.0, 1
    for n in range(1, 5):
        hits = sum((ngrams(said, n) & ngrams(right, n)).total() for said, right in pairs)
        total = sum(max(0, len(said) - n + 1) for said, _ in pairs)
        if not total or (n == 1 and not hits):
            return 0.0
        if not hits:
            halving *= 2  # sem acerto: conta meio, um quarto … (Chen e Cherry, 2014, método 3)
        logs += math.log((hits or 1 / halving) / total)
    brevity = 1.0 if length >= wanted else math.exp(1 - wanted / length)
    return 100 * brevity * math.exp(logs / 4)


def chrf_counts(answer: str, reference: str, order: int = 6) -> numpy.ndarray:
    """Acertos, n-gramas ditos e n-gramas certos, de 1 a `order` letras sem espaços: [3, order]."""
    said, right = "".join(answer.split()), "".join(reference.split())
    pairs = [(ngrams(said, n), ngrams(right, n)) for n in range(1, order + 1)]
    return numpy.array([[(a & b).total(), a.total(), b.total()] for a, b in pairs], float).T


def chrf(counts: Sequence[numpy.ndarray], beta: int = 2) -> float:
    """chrF (Popović, 2015), de 0 a 100; `beta` 2 dá à cobertura o dobro do peso da precisão.

    "nao" contra "não": 2 de 3 letras, 0 de 2 pares, 0 de 1 trio; a precisão média é
    (2/3 + 0 + 0) / 3 = 0,2222, a cobertura também, e o F delas é 22,22.

    >>> round(chrf([chrf_counts("nao", "não")]), 2)
    22.22
    """
    hits, said, right = numpy.sum(counts, axis=0)
    orders = (said > 0) & (right > 0)
    if not hits.any():
        return 0.0
    precision, recall = ((hits[orders] / side[orders]).mean() for side in (said, right))
    return float(100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


class WordTokenizer:
    """Palavras em minúsculas, com acentos; o da rouge-score só vê a-z e 0-9, e "avó" vira "av"."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F de ROUGE-1, ROUGE-2 e ROUGE-L (Lin, 2004) de uma resposta, de 0 a 1.

    Com as frases do BLEU: palavras 6/6 e 6/8, F = 0,857; pares 4/5 e 4/7, F = 0,667; a maior
    subsequência comum tem 6 palavras, F = 0,857.

    >>> found = rouge("o prazo é de 30 dias", "o prazo de troca é de 30 dias")
    >>> [round(value, 3) for value in found.values()]
    [0.857, 0.667, 0.857]
    """
    said, right = (WordTokenizer().tokenize(text) for text in (answer, reference))
    row = [0] * (len(right) + 1)  # a tabela de Wagner e Fischer (1974), linha a linha
    for one in said:
        above, row = row, [0]
        for place, other in enumerate(right, 1):
            row.append(above[place - 1] + 1 if one == other else max(above[place], row[-1]))
    found = {}
    for n in (1, 2):
        one, two = ngrams(said, n), ngrams(right, n)
        found[f"rouge{n}"] = f1((one & two).total(), one.total(), two.total())
    return found | {"rougeL": f1(row[-1], len(said), len(right))}


def f1(hits: int, said: int, right: int) -> float:
    """A média harmônica de precisão (hits / said) e cobertura (hits / right)."""
    return 2 * hits / (said + right) if hits else 0.0


def macro_f1(pairs: list[tuple[str, str]]) -> float:
    """Média do F de cada rótulo, dos pares (certo, previsto): os raros pesam como os frequentes.

    Certos T T T F F G, previstos T T F F G G: T tem F = 0,8; F, 0,5; G, 0,667. Média: 0,656.
    """
    scores = []
    for label in sorted({name for pair in pairs for name in pair}):
        hits = sum(t == p == label for t, p in pairs)
        right, said = (sum(pair[side] == label for pair in pairs) for side in (0, 1))
        scores.append(f1(hits, said, right))
    return sum(scores) / len(scores)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Intervalo de 95% de uma proporção (Wilson, 1927): com 8 de 10, de 0,490 a 0,943.

    z² = 3,84; centro (0,8 + 1,92/10) / 1,384 = 0,717; meia largura 1,96 √(0,016 + 0,0096) / 1,384.
    """
    share, scale = hits / total, 1 + Z**2 / total
    center = (share + Z**2 / (2 * total)) / scale
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / scale
    return center - half, center + half


def mcnemar(only_first: int, only_second: int) -> float:
    """Valor p do teste exato de McNemar (1947): só contam os casos em que um acerta e o outro não.

    Sozinhos, 1 contra 6: se fossem iguais, seriam 7 moedas, e p = 2 x (1 + 7) / 2⁷ = 0,125.
    """
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**total)


def bootstrap(score: Callable, rows: list) -> Score:
    """Intervalo percentil (Efron e Tibshirani, 1993): sorteia as linhas com reposição e mede."""
    rng = random.Random(0)  # a mesma medida, o mesmo intervalo
    drawn = sorted(score(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return Score(value=score(rows), ci95=(low, high), n=len(rows))


class Check(NamedTuple):
    """Uma medida num exemplo de lápis e papel: a conta, o valor da nossa e o da biblioteca."""

    name: str
    hand: str
    ours: float
    library: float


def checks() -> list[Check]:
    """Todas as medidas nos exemplos pequenos, ao lado das bibliotecas."""
    answer, reference = "o prazo é de 30 dias", "o prazo de troca é de 30 dias"
    true, said = list("TTTFFG"), list("TTFFGG")
    pairs = list(zip(true, said, strict=True))
    chances = torch.tensor([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8]]).double()
    loss = torch.nn.functional.cross_entropy(chances.log(), torch.zeros(3, dtype=torch.long))
    rouge_says = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=WordTokenizer())
    rouge_says, ours = rouge_says.score(reference, answer), rouge(answer, reference)
    hand = {"rouge1": "P 6/6, C 6/8", "rouge2": "P 4/5, C 4/7", "rougeL": "subsequência de 6"}
    table = confusion_matrix(true, said, labels=list("FG"))
    f1_says = f1_score(true, said, average="macro")
    wilson_says = binomtest(8, 10).proportion_ci(method="wilson").low
    mcnemar_says = binomtest(1, 7).pvalue
    nats, chances_hand = [math.log(2), math.log(4), math.log(8)], "p = 1/2, 1/4, 1/8: 64^(1/3) = 4"
    bleu_says = BLEU().corpus_score([answer], [[reference]]).score
    chrf_says = CHRF().corpus_score(["nao"], [["não"]]).score
    rows = [
        ("perplexidade por token", chances_hand, perplexity(nats, 3), math.exp(loss)),
        ("BLEU", "(6/6·4/5·2/4·1/3)^¼ · e^(1−8/6)", bleu([answer], [reference]), bleu_says),
        ("chrF", "nao/não: (2/3 + 0 + 0)/3", chrf([chrf_counts("nao", "não")]), chrf_says),
        *((name, hand[name], ours[name], rouge_says[name].fmeasure) for name in hand),
        ("acurácia", "4 de 6", sum(t == p for t, p in pairs) / 6, accuracy_score(true, said)),
        ("macro-F1", "(0,8 + 0,5 + 0,667)/3 = 0,656", macro_f1(pairs), f1_says),
        ("confusão: F tido por G", "1 vez", pairs.count(("F", "G")), table[0][1]),
        ("Wilson, 8 de 10 (mínimo)", "0,717 − 0,227 = 0,490", wilson(8, 10)[0], wilson_says),
        ("McNemar, 1 contra 6 (p)", "2·(1 + 7)/2⁷ = 0,125", mcnemar(1, 6), mcnemar_says),
    ]
    return [Check(*row) for row in rows]


def show_checks(found: list[Check], wrong: list[str]) -> None:
    """A tabela, com quem não bate marcado, e a armadilha dos acentos."""
    marks = ["[ERRADO]" if check.name in wrong else "[certo]" for check in found]
    numbers = [(decimal(check.ours, 4), decimal(check.library, 4)) for check in found]
    rows = [(c.name, c.hand, *n, m) for c, n, m in zip(found, numbers, marks, strict=True)]
    tables.show(["medida", "a conta", "nossa", "biblioteca", ""], rows)
    default = RougeScorer(["rouge1"]).score("é o avô", "é a avó")["rouge1"].fmeasure
    ours = rouge("é a avó", "é o avô")["rouge1"]
    print(
        f"ROUGE-1 de “é a avó” contra “é o avô”: {decimal(default, 2)} com o tokenizador da "
        f"biblioteca, que apaga as letras com acento, e {decimal(ours, 2)} com o nosso."
    )


def similarity(answers: list[str], references: list[str]) -> dict[str, Score]:
    """BLEU, chrF e ROUGE das respostas, com intervalos."""
    references = [text.strip() for text in references]
    pairs = list(zip(answers, references, strict=True))
    rows = [rouge(*pair) for pair in pairs]
    found = {"bleu": statistics.bleu(answers, references)}
    found["chrf"] = bootstrap(chrf, [chrf_counts(*pair) for pair in pairs])
    return found | {kind: statistics.mean([row[kind] for row in rows]) for kind in rows[0]}


def before_after(asked: list, found: dict[str, tuple], taught: int, seconds: float) -> BeforeAfter:
    """Mostra e guarda o antes e o depois; `found` tem as notas e as respostas de cada um."""
    truth = [messages[-1]["content"].strip() for messages in asked]
    before, after = (notes for notes, _ in found.values())
    said = [answers for _, answers in found.values()]
    # As mesmas perguntas nos dois: sorteia-se a diferença de cada uma (Koehn, 2004).
    old, new = ([rouge(*pair)["rougeL"] for pair in zip(x, truth, strict=True)] for x in said)
    gain = bootstrap(mean, [b - a for a, b in zip(old, new, strict=True)])
    print(f"\n{taught} linhas de treino em {decimal(seconds)} s; {len(asked)} de teste")
    keys = [key for key in after if key != "next_token_accuracy"]
    tables.scores({"antes": before, "depois": after}, keys)
    print(f"ganho de ROUGE-L nas mesmas perguntas: {interval(gain, 1, 100)} pontos")
    keys = ("message", "reference", "before", "after")
    rows = zip([messages[0]["content"] for messages in asked], truth, *said, strict=True)
    examples = [dict(zip(keys, row, strict=True)) for row in rows][:3]
    for message, reference, old, new in (map(str.strip, row.values()) for row in examples):
        print(f"\n> {message}\n  certa: {reference}\n  antes: {old}\n  depois: {new}")
    sizes = {"train": taught, "test": len(asked), "train_seconds": seconds}
    scores = {"before": before, "after": after, "rougeL_gain": gain}
    return BeforeAfter(**sizes, **scores, examples=examples)


# --- seis classificadores -----------------------------------------------------------------------

# A cabeça lê este texto inteiro: o último token só da mensagem, um "?", diria pouco dela.
PROMPT = "Mensagem do cliente: {}\nAssunto:"
EMPTY = "-"  # a mensagem que não diz nada: o que o modelo responderia a ela é o seu viés


def classify(folder: Path, plan: SimpleNamespace, lora: Callable, fit: Callable) -> Classification:
    """Treina e mede os seis classificadores nas linhas gravadas em `folder`.

    Raises:
        UserError: há linhas de menos, ou um rótulo só.
    """
    train = sample(folder, "train", plan.labelled)
    test = sample(folder, "test", plan.labelled and plan.test)
    labels = sorted({row["label"] for row in train})
    if len(labels) < 2:
        raise UserError(f"{folder} só tem o rótulo {labels[0]}: não há o que classificar.")
    said, true = ([row[key] for row in test] for key in ("text", "label"))
    tokenizer = models.load_tokenizer(plan.model)
    found = {"majority": cheap(make_pipeline(DummyClassifier()), train, said)}
    found["tfidf"] = cheap(bag_of_words(), train, said)
    model = lora(plan)
    scores, weighing = clocked(lambda: likelihoods(model, tokenizer, [EMPTY, *said], labels))
    found["untrained"] = best(scores[1:], labels), 0.0, weighing, 0
    found["untrained_unbiased"] = best(scores[1:] - scores[0], labels), 0.0, weighing, 0
    rows = [encode(tokenizer, row["text"], row["label"], True) for row in train]
    seconds = fit(model, rows, {"": plan.label_learning_rate}, plan.label_epochs, plan)
    scores, weighing = clocked(lambda: likelihoods(model, tokenizer, said, labels))
    found["lora"] = best(scores, labels), seconds, weighing, model.get_nb_trainable_parameters()[0]
    found["head"] = head(train, said, labels, tokenizer, plan, fit)

    keys = ("predicted", "train_seconds", "answer_seconds", "trainable_parameters")
    hits = {name: [p == t for p, t in zip(x[0], true, strict=True)] for name, x in found.items()}
    classifiers = {
        name: Classifier(
            accuracy=statistics.proportion(hits[name]),
            macro_f1=bootstrap(macro_f1, list(zip(true, facts[0], strict=True))),
            p_against_tfidf=statistics.mcnemar(hits[name], hits["tfidf"]).p_value,
            **dict(zip(keys, facts, strict=True)),
        )
        for name, facts in found.items()
    }
    winner = max(classifiers, key=lambda name: classifiers[name].accuracy.value)
    result = Classification(
        train=len(train),
        test=len(test),
        labels=labels,
        classifiers=classifiers,
        best=winner,
        best_confusion=confusion_matrix(true, found[winner][0], labels=labels).tolist(),
    )
    show_classifiers(result)
    return result


def cheap(pipeline, train: list[dict], said: list[str]) -> tuple:
    """Treina um classificador do scikit-learn nos textos e responde."""
    texts, labels = ([row[key] for row in train] for key in ("text", "label"))
    _, seconds = clocked(lambda: pipeline.fit(texts, labels))
    predicted, answering = clocked(lambda: pipeline.predict(said).tolist())
    last = pipeline[-1]
    weights = last.coef_.size + last.intercept_.size if hasattr(last, "coef_") else 0
    return predicted, seconds, answering, weights


def bag_of_words() -> Pipeline:
    """Pedaços de palavras de 3 a 5 letras, pesados por TF-IDF, e uma regressão logística.

    Letras e C foram escolhidos na validação; com palavras inteiras, acertava um terço menos.
    """
    shape = {"analyzer": "char_wb", "ngram_range": (3, 5), "strip_accents": "unicode"}
    letters = TfidfVectorizer(sublinear_tf=True, **shape)
    return make_pipeline(letters, LogisticRegression(C=1, max_iter=1000))


def encode(tokenizer, text: str, label: str, ends: bool) -> dict[str, list[int]]:
    """A mensagem e o rótulo, que é o que se aprende; `ends` diz se o fim da resposta também."""
    pair = tokens(tokenizer, [PROMPT.format(text), f" {label}"])
    return training.masked(pair[0], pair[1] + [tokenizer.eos_token_id] * ends)


def tokens(tokenizer, said: list[str]) -> list[list[int]]:
    """Os textos em tokens; uma marca do template escrita por um cliente é só texto."""
    options = {"add_special_tokens": False, "split_special_tokens": True}
    return tokenizer(said, **options).input_ids


def likelihoods(model, tokenizer, said: list[str], labels: list[str]) -> numpy.ndarray:
    """Logaritmo da probabilidade de cada rótulo depois de cada mensagem: [mensagens, rótulos].

    O modelo não escolhe da lista: pergunta-se a ele quanto espera cada rótulo. O fim da resposta
    não entra na conta: o modelo sem treino não sabe que ela deve acabar ali.
    """
    rows = [encode(tokenizer, text, label, False) for text in said for label in labels]
    nats = answer_sums(model, rows, tokenizer.pad_token_id, batch_size=40)[:, 0]
    return -nats.reshape(len(said), len(labels))


def head(train, said, labels, tokenizer, plan: SimpleNamespace, fit: Callable) -> tuple:
    """Troca a saída do modelo por uma camada de `len(labels)` saídas, lida no último token."""
    models.fix_seeds(plan.seed)
    shape = {"num_labels": len(labels), "pad_token_id": tokenizer.pad_token_id}
    shape["dtype"] = models.compute_dtype()
    base = AutoModelForSequenceClassification.from_pretrained(plan.model, **shape)
    adapter = {"r": plan.r, "lora_alpha": 2 * plan.r, "target_modules": "all-linear"}
    model = get_peft_model(base, LoraConfig(**adapter, task_type="SEQ_CLS")).to(models.device())
    models.train_in_float32(model)  # a cabeça nova veio na precisão da base

    def logits(rows: list[dict]) -> torch.Tensor:
        batch = training.pad(rows, tokenizer.pad_token_id)
        inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
        with models.autocast():
            return model(**inputs).logits.float()

    def loss_of(rows: list[dict]) -> torch.Tensor:
        classes = torch.tensor([row["class"] for row in rows], device=model.device)
        return torch.nn.functional.cross_entropy(logits(rows), classes)

    @torch.inference_mode()
    def answer() -> list[str]:
        model.eval()
        batches = [logits(asked[i : i + 32]).cpu().numpy() for i in range(0, len(asked), 32)]
        return best(numpy.concatenate(batches), labels)

    taught, asked = (
        [training.masked(ids, []) for ids in tokens(tokenizer, [*map(PROMPT.format, some)])]
        for some in ([row["text"] for row in train], said)
    )
    for encoded, row in zip(taught, train, strict=True):
        encoded["class"] = labels.index(row["label"])
    # A cabeça parte de pesos sorteados e o adaptador, de um modelo que já lê: cada um no seu passo.
    rates = {"lora_": plan.adapter_learning_rate, "": plan.head_learning_rate}
    seconds = fit(model, taught, rates, plan.head_epochs, plan, loss_of)
    predicted, answering = clocked(answer)
    return predicted, seconds, answering, model.get_nb_trainable_parameters()[0]


def best(scores: numpy.ndarray, labels: list[str]) -> list[str]:
    """O rótulo de maior nota em cada linha."""
    return [labels[place] for place in scores.argmax(axis=1)]


def clocked(work: Callable) -> tuple:
    """O resultado de `work()` e os segundos que levou."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def show_classifiers(found: Classification) -> None:
    """A tabela, as confusões do melhor e o que os números permitem dizer sobre o custo."""
    sizes = f"{found.train} mensagens de treino, {found.test} de teste"
    print(f"\n{sizes}, {len(found.labels)} assuntos")
    table = []
    for name, entry in found.classifiers.items():
        scores = (interval(score, 1, 100) for score in (entry.accuracy, entry.macro_f1))
        seconds = (decimal(s, 1, " s") for s in (entry.train_seconds, entry.answer_seconds))
        table.append([CLASSIFIERS[name], *scores, *seconds, p_value(entry.p_against_tfidf)])
    header = ["(intervalos de 95%)", "acurácia (%)", "macro-F1 (%)", "treino", "resposta", "p"]
    tables.show(header, table)
    print("p: teste de McNemar contra o TF-IDF, nas mesmas mensagens\n")
    tfidf = found.classifiers["tfidf"]
    for name in ("lora", "head"):
        entry = found.classifiers[name]
        points = signed(100 * (entry.accuracy.value - tfidf.accuracy.value), 1)
        chance = "pode ser" if entry.p_against_tfidf >= 0.05 else "dificilmente é"
        cost = decimal(entry.train_seconds / max(tfidf.train_seconds, 1e-3))
        print(
            f"{CLASSIFIERS[name]}: {points} pontos sobre o TF-IDF ({chance} acaso), "
            f"por {cost} vezes o tempo de treino"
        )
    print(f"\nconfusões de {CLASSIFIERS[found.best]}:")
    for true, row in zip(found.labels, found.best_confusion, strict=True):
        pairs = zip(found.labels, row, strict=True)
        wrong = [f"{label} ({count})" for label, count in pairs if count and label != true]
        if wrong:
            print(f"  {true} foi tido por {', '.join(wrong)}")
