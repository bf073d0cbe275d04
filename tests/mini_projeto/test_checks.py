"""Conferir fora daqui e sortear adiante não mudam nada além do tempo."""

import multiprocessing
import multiprocessing.connection
import os
import random
import shutil

from comum.terminal import UserError

import pytest

from loja_sql.questions import checks
from loja_sql.questions.checks import Checks
from loja_sql.questions.reading import read_questions
from loja_sql.questions.sieve import Sieve
from loja_sql.questions.splits import WRITTEN
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import Database, TrustedDatabase

QUERIES = [
    "SELECT COUNT(*) FROM clientes",
    "SELECT nome FROM clientes WHERE uf = 'XX'",
    "SELECT nome FROM produtos ORDER BY preco DESC LIMIT 3",
    "SELECT nome FROM produtos ORDER BY categoria LIMIT 3",
    "SELECT x FROM y",
    "não é SQL (",
]


@pytest.mark.parametrize("kind", [Database, TrustedDatabase])
def test_a_query_is_judged_alike_here_and_in_another_process(shop_11, kind):
    with Checks([kind(shop_11)]) as checker:
        checker.all(QUERIES, "teste")
        found = list(map(checker.problem, QUERIES))
    assert found == [reference_problem(sql, [Database(shop_11)]) for sql in QUERIES]
    assert [not problem for problem in found] == [True, False, True, False, False, False]


def test_what_differs_only_in_values_from_one_that_served_is_still_executed(shop_11):
    with Checks([TrustedDatabase(shop_11)]) as checker:
        assert checker.problem("SELECT nome FROM clientes WHERE uf = 'SP'") is None
        assert checker.problem("SELECT nome FROM clientes WHERE uf = 'XX'") == "resultado vazio"
        assert checker.problem("SELECT id, 1 FROM pedidos ORDER BY 1 LIMIT 3") is None
        assert "empate" in checker.problem("SELECT id, 1 FROM pedidos ORDER BY 2 LIMIT 3")


def test_drawing_ahead_gives_what_drawing_one_at_a_time_gives(shop_11, monkeypatch):
    """As recusas inclusive, e o sorteio de quem vem depois."""
    rows = read_questions(WRITTEN["written"], "written", [])[:300:3]
    outcomes = []
    for ahead in (1, 8):
        monkeypatch.setattr(checks, "AHEAD", ahead)
        rng = random.Random(7)
        with Checks([TrustedDatabase(shop_11)]) as checker:
            sieve = Sieve(checker)
            written = sieve.checked(rows, "teste")
            made = [sieve.varied(written, 2, rng), sieve.recombined(written, 10, rng)]
            made.append(sieve.generated(30, 5))
        outcomes.append((made, sieve.rejected, rng.random()))
    assert outcomes[0] == outcomes[1]
    made, rejected, _ = outcomes[0]
    assert all(made) and any("tentativa" in item.where for item in rejected)


@pytest.mark.parametrize("half_open", [False, True])
def test_a_process_that_dies_is_told_in_a_sentence(shop_11, monkeypatch, half_open):
    """Também com a outra ponta do cano ainda aberta, como no Windows quando ele morre ao nascer."""
    pipe, copies = multiprocessing.connection.Pipe, []

    def kept(duplex: bool) -> tuple:
        ours, theirs = pipe(duplex)
        copies.append(os.dup(theirs.fileno()))
        return ours, theirs

    if half_open:
        monkeypatch.setattr(multiprocessing.connection, "Pipe", kept)
    with Checks([TrustedDatabase(shop_11)]) as checker:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        with pytest.raises(UserError, match="morreu"):
            checker.problem(QUERIES[0])
    for copied in copies:
        os.close(copied)
    assert bool(copies) == half_open


def test_an_error_in_a_process_is_the_error_of_who_asked(tmp_path, shop_11):
    moved = shutil.copy(shop_11, tmp_path / "loja.sqlite")
    with Checks([TrustedDatabase(moved)]) as checker:
        moved.unlink()
        with pytest.raises(UserError, match="banco de dados não encontrado"):
            checker.problem(QUERIES[0])


def test_the_processes_end_with_the_checking(shop_11):
    with Checks([TrustedDatabase(shop_11)]) as checker:
        assert checker.problem(QUERIES[0]) is None
        assert multiprocessing.active_children()
    for process in multiprocessing.active_children():
        process.join(10)
    assert not multiprocessing.active_children()
