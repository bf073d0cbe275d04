"""Dia 6, medidas: as nossas contra a linha de comando do sacreBLEU, scikit-learn e SciPy."""

import doctest
import json
import random
import subprocess
import sys

from comum import models, results, scoring
from comum.conversations import DATA_DIR, encode, read_conversations
from comum.terminal import UserError

import pytest
import torch
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


def sacrebleu_says(folder, answers, references, *metric) -> float:
    for name, lines in (("saida", answers), ("referencia", references)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", folder / "referencia", "-i", folder / "saida",
               "-m", *metric, "-w", "8"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout)["score"]


def test_bleu_and_chrf_are_those_of_the_command_line(tmp_path, texts):
    answers, references = texts
    bleu = ours.bleu(answers, references, lambda text: Tokenizer13a()(text).split())
    assert bleu == pytest.approx(sacrebleu_says(tmp_path, answers, references, "bleu"), abs=1e-6)
    chrf = ours.chrf([*map(ours.chrf_counts, answers, references)])
    assert chrf == pytest.approx(sacrebleu_says(tmp_path, answers, references, "chrf"), abs=1e-6)
    assert 10 < bleu < 90 and 10 < chrf < 90


@pytest.mark.parametrize(
    ("answers", "references"),
    [(["o prazo"], ["o prazo de troca"]), (["a b c d e f"], ["a b x y z w"]),
     (["sim"], ["não sei dizer agora"]), (["é isso mesmo, sim senhor"], ["é isso mesmo, sim"])],
)  # fmt: skip
def test_the_rare_cases_agree_too(tmp_path, answers, references):
    """Sem quatro palavras, sem acerto numa ordem, sem acerto nenhum, resposta comprida demais."""
    bleu = ours.bleu(answers, references, lambda text: Tokenizer13a()(text).split())
    assert bleu == pytest.approx(sacrebleu_says(tmp_path, answers, references, "bleu"), abs=1e-6)
    chrf = ours.chrf([*map(ours.chrf_counts, answers, references)])
    assert chrf == pytest.approx(sacrebleu_says(tmp_path, answers, references, "chrf"), abs=1e-6)


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


def test_perplexity_is_the_exponential_of_the_loss(tiny_llama):
    """A nossa, das surpresas de cada token, e a de comum.scoring dizem o mesmo do mesmo modelo."""
    model, tokenizer = models.load_model(str(tiny_llama)), models.load_tokenizer(str(tiny_llama))
    said = read_conversations(DATA_DIR / "atendimento_teste.jsonl", 3)
    rows = [encode(tokenizer, messages) for messages in said]
    answers = [messages[-1]["content"] for messages in said]
    scores = scoring.answer_scores(model, tokenizer, rows, answers)
    nats, tokens = [], 0
    for row in rows:
        count = sum(label >= 0 for label in row["labels"])
        batch = {key: torch.tensor([value]) for key, value in row.items()}
        nats.append(model(**batch).loss.item() * count)
        tokens += count
    size = sum(len(text.encode()) for text in answers)
    assert ours.perplexity(nats, tokens) == pytest.approx(
        scores["perplexity_token"].value, rel=1e-4
    )
    assert ours.perplexity(nats, size) == pytest.approx(scores["perplexity_byte"].value, rel=1e-4)


@pytest.mark.parametrize("module", [ours, repairs])
def test_the_worked_examples_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_the_lesson_shows_every_measure_and_stops_at_a_wrong_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    args = lesson.arguments(["--only", "metrics"])
    lesson.main(args)
    shown = capsys.readouterr().out
    assert shown.count("[certo]") == len(ours.checks()) and "[ERRADO]" not in shown
    assert json.loads((tmp_path / "dia6_metricas.json").read_text("utf-8"))["checks"]
    monkeypatch.setattr(ours, "wilson", lambda hits, total: (0.5, 0.9))
    with pytest.raises(UserError, match="Wilson"):
        lesson.main(args)
