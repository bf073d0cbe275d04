"""Números como se escrevem no Brasil e tabelas que mostram o que recebem."""

from comum import numbers, tables
from comum.results import Score

import pytest
from matplotlib.figure import Figure

SCORE = Score(value=0.8294, ci95=(0.786, 0.8656), n=340)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.decimal(1234567.891, 2), "1.234.567,89"),
        (numbers.decimal(1234.56, 1, " MiB"), "1.234,6 MiB"),
        (numbers.decimal(0.04), "0"),
        (numbers.decimal(None, 2), "–"),
        (numbers.percent(0.97351), "97,4%"),
        (numbers.percent(None), "–"),
        (numbers.signed(1.24, 1), "+1,2"),
        (numbers.signed(-0.36, 1, "%"), "−0,4%"),
        (numbers.signed(0), "0"),
        (numbers.signed(None), "–"),
        (numbers.interval(SCORE, 1, 100), "82,9 [78,6; 86,6]"),
        (numbers.interval(None), "–"),
        (numbers.general(0.004), "0,004"),
        (numbers.general(2e-4), "0,0002"),
        (numbers.general(16), "16"),
        (numbers.p_value(0.115318), "0,12"),
        (numbers.p_value(0.00312), "0,0031"),
        (numbers.p_value(4e-9), "< 0,001"),
        (numbers.p_value(1.0), "1"),
    ],
)
def test_numbers_are_written_as_in_brazil(shown, expected):
    assert shown == expected


def test_an_interval_from_a_single_case_is_not_shown():
    assert numbers.interval(Score(value=2.6, ci95=(2.6, 2.6), n=1), 1) == "2,6"
    assert numbers.interval(Score(value=2.6, ci95=(2.59, 2.61), n=9), 1) == "2,6 [2,6; 2,6]"


def test_the_terminal_table_keeps_brackets_and_aligns(capsys):
    tables.show(["nota", "valor"], [["BLEU", "8,31 [7,90; 8,77]"], ["x", 3]], "Título")
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "Título"
    first, second = (next(line for line in lines if key in line) for key in ("BLEU", "x "))
    assert first.endswith("8,31 [7,90; 8,77]") and len(first) == len(second)


def test_a_table_wider_than_the_terminal_becomes_two(monkeypatch):
    monkeypatch.setattr(tables, "PIPED_WIDTH", 40)
    names = ["técnica", "quantidade", "perplexidade", "verossimilhança"]
    shown = tables.text(names, [["NF4", 1, 2, 3]])
    assert all(name in shown for name in names), "nenhum título se parte"
    assert shown.count("NF4") == 2 and max(map(len, shown.splitlines())) <= 40


def test_the_markdown_table_keeps_what_it_is_given():
    rows = [["a | b", "1,50", "sim"], ["c", "–", ""], ["longa como ela só", "10", "< 3"]]
    assert tables.markdown(["nome", "valor", "texto"], rows) == (
        "| nome | valor | texto |\n"
        "|:---|---:|:---|\n"
        "| a \\| b | 1,50 | sim |\n"
        "| c | – | |\n"
        "| longa como ela só | 10 | < 3 |"
    )
    assert tables.markdown(["só", "título"], []).split("\n")[0] == "| só | título |"


def test_the_axes_of_a_figure_have_decimal_commas_and_keep_their_names():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [2.0, 2.5])
    right.bar(["a", "b"], [1, 2])
    numbers.comma_axes(figure)
    figure.canvas.draw()
    assert {"2,1", "2,2"} <= {label.get_text() for label in left.get_yticklabels()}
    assert [label.get_text() for label in right.get_xticklabels()] == ["a", "b"]
