"""Confere as consultas fora daqui, enquanto quem as lê ou sorteia segue adiante.

Executar uma consulta nos bancos leva milissegundos, e são dezenas de milhares: cada núcleo confere
as suas, num processo próprio.
"""

import multiprocessing
import os
import queue
import random
import signal
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from comum.terminal import UserError, progress

from loja_sql.questions.reading import Row
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import AT_ONCE, Database, TrustedDatabase
from loja_sql.sql.features import Shape, remember, shape, without_values

AHEAD = 8  # linhas que se sorteiam adiante da que se examina

BROKEN = (
    "um dos processos que conferem as consultas não nasceu, ou morreu: falta memória, ou há "
    "processos demais. Feche outros programas e repita."
)
Worker = tuple[Connection, BaseProcess]  # um processo que confere, e o cano até ele
Found = tuple[str | None, Shape | None]  # o que há de errado com a consulta ou, se nada, o feitio


class Checks:
    """O que há de errado com cada consulta; a mesma serve a muitas perguntas e se confere uma vez.

    Um `Database` já tem os seus processos, e bastam threads que os esperem; um `TrustedDatabase`
    executa no processo em que está, e por isso cada thread conversa com um em que se abriu outro.
    Threads e processos vivem enquanto dura o `with`. Os de um ProcessPoolExecutor ficariam vivos
    depois de um SIGTERM a este; os daqui veem o cano fechar-se, e saem.
    """

    def __init__(self, databases: list[Database]) -> None:
        self.databases = databases
        self._known: dict[str, str | None] = {}
        self._coming: dict[str, Future[Found]] = {}
        self._familiar: set[str] = set()  # as que serviram, sem os valores
        self._idle: queue.SimpleQueue[Worker] | None = None  # os processos à espera

    def __enter__(self) -> "Checks":
        workers = min(AT_ONCE, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(workers)
        if all(isinstance(bank, TrustedDatabase) for bank in self.databases):
            self._idle = queue.SimpleQueue()
            self._start(workers)
        return self

    def _start(self, workers: int) -> None:
        """Inicia os processos: do zero, que um bifurcado herdaria threads e conexões pela metade.

        Onde isso se herda, já nascem surdos ao Ctrl-C, que é de quem espera.
        """
        fresh = multiprocessing.get_context("spawn")
        banks = [(bank.path, bank.time_limit) for bank in self.databases]
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(workers):
                ours, theirs = fresh.Pipe()
                process = fresh.Process(target=_serve, args=(theirs, banks), daemon=True)
                process.start()
                theirs.close()
                self._idle.put((ours, process))
        except OSError as error:
            raise UserError(BROKEN) from error
        finally:
            signal.signal(signal.SIGINT, heard)

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while self._idle is not None and not self._idle.empty():
            self._idle.get()[0].close()  # do outro lado, é o fim

    def all(self, queries: Iterable[str], label: str) -> None:
        """Confere as que ainda não se conhecem, com uma barra de progresso."""
        new = [sql for sql in dict.fromkeys(queries) if sql not in self._known]
        for sql in new:
            self.begin(sql)
        for sql in progress(new, label, "consulta"):
            self.problem(sql)

    def begin(self, sql: str) -> None:
        """Põe uma consulta na fila, sem esperar."""
        if sql not in self._known and sql not in self._coming:
            self._coming[sql] = self._threads.submit(self._check, sql)

    def problem(self, sql: str) -> str | None:
        """O que há de errado com a consulta; None se ela serve.

        Raises:
            UserError: o processo que a conferia morreu.
        """
        self.begin(sql)
        if sql in self._coming:
            self._known[sql], its_shape = self._coming.pop(sql).result()
            if its_shape is not None:
                remember(sql, its_shape)
                self._familiar.add(without_values(sql))
        return self._known[sql]

    def _check(self, sql: str) -> Found:
        request = (sql, without_values(sql) in self._familiar)
        if self._idle is None:
            return _found(self.databases, *request)
        line, process = worker = self._idle.get()
        try:
            line.send(request)
            # No Windows, o cano de um que morre ao nascer não se fecha deste lado.
            if line not in wait([line, process.sentinel]):
                raise EOFError
            answer = line.recv()
        except (EOFError, OSError) as error:
            raise UserError(BROKEN) from error
        finally:
            self._idle.put(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(line: Connection, banks: list[tuple[Path, float]]) -> None:
    """Um processo que confere: responde às consultas que chegam, até quem as manda se ir."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # no Windows, não se herda
    databases: list[Database] = []
    with suppress(EOFError, OSError):
        while True:
            request = line.recv()
            try:
                databases = databases or [TrustedDatabase(path, limit) for path, limit in banks]
                answer = _found(databases, *request)
            except Exception as error:  # quem espera sabe o que dizer dela
                answer = error
            line.send(answer)


def _found(databases: list[Database], sql: str, familiar: bool) -> Found:
    problem = reference_problem(sql, databases, familiar)
    return problem, None if problem or familiar else shape(sql)


class Draws:
    """Linhas que se sorteiam adiante da vez, e cujas consultas já se conferem enquanto isso.

    O que uma linha sorteia pode depender de a anterior ter servido: quem a recusa volta o sorteio
    ao ponto em que ela saiu (`rewind`), e o resultado é o de sortear uma de cada vez.

    Args:
        draw: a linha de cada posição, sorteada com `rng`; None se não deu.
        count: quantas posições há.
    """

    def __init__(
        self, checks: Checks, rng: random.Random, draw: Callable[[int], Row | None], count: int
    ) -> None:
        self.count = count
        self._checks, self._rng, self._draw = checks, rng, draw
        self._ahead: deque[tuple[Row | None, object]] = deque()
        self._state = rng.getstate()

    def take(self, place: int) -> Row | None:
        """A linha de uma posição: a primeira, a seguinte à última tirada ou, recusada, a mesma."""
        for later in range(place + len(self._ahead), min(place + AHEAD, self.count)):
            row = self._draw(later)
            if row is not None:
                self._checks.begin(row.sql)
            self._ahead.append((row, self._rng.getstate()))
        row, self._state = self._ahead.popleft()
        return row

    def rewind(self) -> None:
        """Desfaz o que se sorteou depois da última linha tirada."""
        self._ahead.clear()
        self._rng.setstate(self._state)
