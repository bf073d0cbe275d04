"""Dia 6, medidas: as nossas contra as do sacreBLEU, do scikit-learn e do SciPy."""

import doctest
import random

from comum import results
from comum.conversations import DATA_DIR, read_conversations
from comum.terminal import UserError

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import f1_score

import exemplo_04_dataset_preparation as lesson
from dia6 import measures as ours
from dia6 import texts as repairs


@pytest.fixture(scope="module")
def texts():
    """Respostas de verdade e versões mexidas delas: palavras trocadas, cortadas, repetidas."""
    conversations = read_conversations(DATA_DIR / "atendimento_teste.jsonl", 40)
    references = [messages[-1]["content"] for messages in conversations]
    rng = random.Random(2)
    answers = []
    for number, text in enumerate(references):
        words = text.split()
        if number % 4 == 0:
            words = words[: len(words) // 2]
        elif number % 4 == 1:
            rng.shuffle(words)
        elif number % 4 == 2:
            words = references[number - 1].split()
        answers.append(" ".join(words))
    return answers, references


def agree_with_sacrebleu(answers, references) -> tuple[float, float]:
    """BLEU e chrF, conferidos com os padrões do sacreBLEU, os da linha de comando."""
    bleu = ours.bleu(answers, references, lambda text: Tokenizer13a()(text).split())
    chrf = ours.chrf([*map(ours.chrf_counts, answers, references)])
    for found, library in ((bleu, sacrebleu.corpus_bleu), (chrf, sacrebleu.corpus_chrf)):
        assert found == pytest.approx(library(answers, [references]).score, abs=1e-6)
    return bleu, chrf


def test_bleu_and_chrf_are_those_of_sacrebleu(texts):
    assert all(10 < score < 90 for score in agree_with_sacrebleu(*texts))


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("o prazo", "o prazo de troca"),
        ("a b c d e f", "a b x y z w"),
        ("sim", "não sei dizer agora"),
        ("é isso mesmo, sim senhor", "é isso mesmo, sim"),
    ],
)
def test_the_rare_cases_agree_too(answer, reference):
    """Sem quatro palavras, sem acerto numa ordem, sem acerto nenhum, resposta comprida demais."""
    agree_with_sacrebleu([answer], [reference])


def test_rouge_is_that_of_the_library_with_accents_kept(texts):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=ours.WordTokenizer())
    for answer, reference in zip(*texts, strict=True):
        library = scorer.score(reference, answer)
        found = ours.rouge(answer, reference)
        assert found == pytest.approx({name: score.fmeasure for name, score in library.items()})


def test_accents_are_letters():
    assert ours.WordTokenizer().tokenize("A avó não é ação!") == ["a", "avó", "não", "é", "ação"]
    default = RougeScorer(["rouge1"]).score("é o avô", "é a avó")["rouge1"].fmeasure
    assert default > ours.rouge("é a avó", "é o avô")["rouge1"] == pytest.approx(1 / 3)


def test_classification_scores_are_those_of_scikit_learn():
    rng = random.Random(4)
    labels = ["troca", "frete", "garantia", "produto"]
    for _ in range(20):
        true = rng.choices(labels[:3], k=30)
        predicted = rng.choices(labels, k=30)
        library = f1_score(true, predicted, average="macro", zero_division=0)
        assert ours.macro_f1([*zip(true, predicted, strict=True)]) == pytest.approx(library)


@pytest.mark.parametrize(("hits", "total"), [(0, 9), (3, 7), (50, 97), (12, 12)])
def test_wilson_is_that_of_scipy(hits, total):
    library = binomtest(hits, total).proportion_ci(method="wilson")
    assert ours.wilson(hits, total) == pytest.approx((library.low, library.high))


@pytest.mark.parametrize(("alone", "other"), [(0, 0), (1, 6), (5, 5), (20, 3)])
def test_mcnemar_is_the_exact_binomial_test(alone, other):
    wanted = binomtest(alone, alone + other).pvalue if alone + other else 1.0
    assert ours.mcnemar(alone, other) == pytest.approx(wanted)


def test_bootstrap_agrees_with_scipy_within_its_own_noise():
    rng = random.Random(5)
    rows = [rng.gauss(3, 2) for _ in range(120)]
    found = ours.bootstrap(ours.mean, rows)
    library = bootstrap((rows,), lambda x, axis: x.mean(axis=axis), method="percentile",
                        n_resamples=5000, rng=1).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(sum(rows) / 120)
    assert found.ci95 == pytest.approx((library.low, library.high), abs=0.1)


def test_a_paired_bootstrap_sees_what_separate_intervals_hide():
    """Dois modelos que sobem e descem juntos: a diferença é certa, os intervalos se tocam."""
    rng = random.Random(8)
    base = [rng.gauss(0.5, 0.2) for _ in range(80)]
    better = [value + 0.02 + rng.gauss(0, 0.01) for value in base]
    one, two = ours.bootstrap(ours.mean, base), ours.bootstrap(ours.mean, better)
    assert one.ci95[1] > two.ci95[0]
    gain = ours.bootstrap(ours.mean, [b - a for a, b in zip(base, better, strict=True)])
    assert gain.ci95[0] > 0


@pytest.mark.parametrize("module", [ours, repairs])
def test_the_worked_examples_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_a_wrong_measure_stops_the_lesson(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(ours, "wilson", lambda hits, total: (0.5, 0.9))
    with pytest.raises(UserError, match="Wilson"):
        lesson.main(lesson.arguments(["--only", "metrics"]))
    assert not list(tmp_path.iterdir())
