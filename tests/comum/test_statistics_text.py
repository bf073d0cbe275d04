"""Incerteza e comparação de textos: as contas das bibliotecas batem com as conhecidas."""

import json
import math
import subprocess
import sys

from comum import statistics
from comum.results import Score
from comum.text import fold, jaccard, without_accents, words

import numpy
import pytest


def test_wilson_is_the_published_one():
    # Wilson (1927) para 8 de 10: 0,4902 a 0,9433.
    found = statistics.proportion([True] * 8 + [False] * 2)
    assert (found.value, found.n) == (0.8, 10)
    assert found.ci95 == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert statistics.proportion([]).ci95 == (0, 1)
    assert statistics.proportion([False] * 340).ci95[0] == 0


def test_mcnemar_counts_only_what_differs():
    first = [True] * 1 + [False] * 6 + [True] * 50
    second = [False] * 1 + [True] * 6 + [True] * 50
    found = statistics.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 6)
    assert found.p_value == pytest.approx(0.125)  # 2 (C(7,0) + C(7,1)) / 2^7
    assert statistics.mcnemar(first, first).p_value == 1


def test_bootstrap_holds_the_value_and_repeats_with_the_seed():
    rng = numpy.random.default_rng(0)
    nats, tokens = rng.uniform(20, 40, 90), rng.integers(10, 20, 90)
    found = statistics.perplexity(nats, tokens)
    assert found == statistics.perplexity(nats, tokens)
    assert found.value == pytest.approx(math.exp(nats.sum() / tokens.sum()))
    assert found.ci95[0] < found.value < found.ci95[1]
    fewer = statistics.perplexity(nats[:20], tokens[:20])
    assert fewer.ci95[1] - fewer.ci95[0] > found.ci95[1] - found.ci95[0]
    # Médias de 90 notas: perto de 95% dos intervalos contêm a verdadeira.
    draws = rng.normal(0, 1, (200, 90))
    intervals = [statistics.mean(draw).ci95 for draw in draws]
    assert 0.9 <= numpy.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


def test_bleu_is_the_score_of_the_command_line_of_sacrebleu(tmp_path):
    said = "O prazo de troca é de 30 dias corridos.", "O frete sai grátis acima de R$ 199."
    right = "O prazo de troca é de 30 dias, com etiqueta.", "O frete é grátis a partir de R$ 199."
    for name, lines in (("saida", said), ("referencia", right)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "referencia", "-i", tmp_path / "saida"]
    done = subprocess.run([*command, "-m", "bleu", "-w", "6"], capture_output=True, text=True)
    shown, found = json.loads(done.stdout), statistics.bleu(list(said), list(right))
    assert found.value == pytest.approx(shown["score"], abs=1e-5) and shown["score"] > 10
    # A nossa assinatura só acrescenta o bootstrap (bs e seed).
    assert set(shown["signature"].split("|")) <= set(found.signature.split("|"))


def test_apart_only_when_the_intervals_do_not_touch():
    low, middle, high = (Score(value=x, ci95=(x - 1, x + 1)) for x in (1, 3, 5.1))
    assert not low.apart(middle) and low.apart(high)
    assert high.apart(low)


def test_folding_forgets_case_accents_and_variants_alone():
    assert fold("São PAULO, 1º lugar") == fold("sao paulo, 1o lugar") != fold("sao paulos")
    assert without_accents("Ação já! Ñ 1º") == "Acao ja! N 1º"
    assert words("O café_da-manhã às 8h30") == ["o", "cafe", "da", "manha", "as", "8h30"]


def test_jaccard():
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard({1}, {1}) == 1 and jaccard(set(), set()) == 0
