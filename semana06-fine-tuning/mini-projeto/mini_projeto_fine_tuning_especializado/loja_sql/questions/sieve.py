"""Os crivos: o que executa, o que não se repete e o que não se parece com o teste.

Nada some calado: cada linha recusada fica em `Sieve.rejected`, com o motivo.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from comum.terminal import progress
from comum.text import jaccard

from loja_sql.questions.generator import generate
from loja_sql.questions.grafts import graft
from loja_sql.questions.reading import Rejected, Row
from loja_sql.questions.slots import mask
from loja_sql.questions.variations import vary
from loja_sql.sql.comparison import judge, reference_problem
from loja_sql.sql.database import Database
from loja_sql.sql.features import shape

UNANSWERABLE = "sem resposta"  # o tipo e a dificuldade do que o banco não responde
NEAR_DUPLICATE = 0.8  # Jaccard entre os conjuntos de palavras dos moldes
MAX_ATTEMPTS_PER_PAIR = 6
REPEATED, NEARLY = "mesmo molde de", "quase igual a"


class Sieve:
    """Recusa linhas, guardando o motivo, e lembra o que já executou e os moldes que já aceitou.

    Args:
        mould: o que duas perguntas iguais têm em comum. As palavras da loja só são valores nas
            perguntas dela: num banco alheio, "livros" pode ser uma tabela.
    """

    def __init__(self, databases: list[Database], mould: Callable[[str], str] = mask) -> None:
        self.rejected: list[Rejected] = []
        self._databases, self._mould = databases, mould
        self._problems: dict[str, str | None] = {}  # a mesma consulta serve a muitas perguntas
        self._moulds: dict[str, str] = {}

    def refuse(self, row: Row, reason: str, where: str | None = None) -> None:
        """Registra uma recusa; `where` é o id da linha, se não se diz outro."""
        self.rejected.append(Rejected(where or row.id, row.question, row.sql, reason))

    def runs(self, row: Row, where: str | None = None) -> bool:
        """Executa a consulta em todos os bancos; a que serve ganha tipo e dificuldade."""
        if problem := next(filter(None, map(self._problem, row.queries)), None):
            self.refuse(row, problem, where)
        elif row.answerable:
            found = shape(row.sql)
            row.kind, row.difficulty = found.kind, found.difficulty
        else:
            row.kind = row.difficulty = UNANSWERABLE
        return not problem

    def _problem(self, sql: str) -> str | None:
        if sql not in self._problems:
            self._problems[sql] = reference_problem(sql, self._databases)
        return self._problems[sql]

    def checked(self, rows: list[Row], label: str) -> list[Row]:
        """As linhas cuja consulta executa e tem resposta definida."""
        queries = dict.fromkeys(sql for row in rows for sql in row.queries)
        pool = ThreadPoolExecutor(2)  # enquanto os bancos executam uma, lê-se a outra
        try:
            problems = pool.map(self._problem, queries)
            for _ in progress(problems, f"Conferindo: {label}", "consulta", len(queries)):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return [row for row in rows if self.runs(row)]

    def unseen(self, rows: list[Row]) -> list[Row]:
        """As linhas cujo molde ainda não se aceitou; quem vem antes fica."""
        new = []
        for row in rows:
            if self._is_new(row):
                self._accept(row)
                new.append(row)
        return new

    def apart(self, rows: list[Row], reserved: list[Row]) -> list[Row]:
        """As linhas que não usam quase as mesmas palavras de uma pergunta reservada."""
        held = [set(mask(row.question).split()) for row in reserved]
        having = defaultdict(set)
        for place, words in enumerate(held):
            for word in words:
                having[word].add(place)
        kept = []
        for row in rows:
            words = set(mask(row.question).split())
            # A uma quase igual faltam poucas palavras: tem ao menos uma das mais raras desta.
            missing = len(words) - math.ceil(NEAR_DUPLICATE * len(words))
            rarest = sorted(words, key=lambda word: len(having[word]))[: missing + 1]
            places = sorted(set().union(*(having[word] for word in rarest)))
            twins = (p for p in places if jaccard(words, held[p]) >= NEAR_DUPLICATE)
            if (twin := next(twins, None)) is not None:
                self.refuse(row, f"{NEARLY} {reserved[twin].id}")
            else:
                kept.append(row)
        return kept

    def generated(self, count: int, seed: int) -> list[Row]:
        """`count` pares da gramática, de moldes inéditos e conferidos (menos, se não há tantos)."""
        rows: list[Row] = []
        bar = progress(label="Gerando e conferindo", unit="par", total=count)
        for attempt, pair in enumerate(islice(generate(seed), count * MAX_ATTEMPTS_PER_PAIR)):
            if len(rows) == count:
                break
            name = f"generated-{attempt:05}"
            row = Row(name, pair.question, pair.sql, "generated")
            if self._is_new(row) and self.runs(row):
                self._accept(row)
                rows.append(row)
                bar.update()
        bar.close()
        return rows

    def varied(self, rows: list[Row], versions: int, rng: random.Random) -> list[Row]:
        """`versions` versões de cada pergunta, com outros valores, conferidas por execução."""
        found: list[Row] = []
        originals = [(row, turn) for turn in range(1, versions + 1) for row in rows]
        for row, turn in progress(originals, "Variando valores", "pergunta"):
            name = f"{row.id}-v{turn}"
            for attempt in range(1, MAX_ATTEMPTS_PER_PAIR + 1):
                new = Row(name, *vary(row.question, row.sql, rng), "variation")
                if self.runs(new, f"{name}, tentativa {attempt}"):
                    found.append(new)
                    break
        return found

    def varied_own(self, rows: list[Row], versions: int, rng: random.Random, values) -> list[Row]:
        """Até `versions` versões inéditas de cada pergunta alheia, com `values` do banco dela.

        Uma tentativa que não serve é nossa, e não de quem trouxe os dados: não conta como recusa.
        """
        found, refused = [], len(self.rejected)
        for turn in range(1, versions + 1):
            for row in rows:
                for _ in range(MAX_ATTEMPTS_PER_PAIR):
                    question, sql = vary(row.question, row.sql, rng, values)
                    new = Row(f"{row.id}-v{turn}", question, sql, "variation")
                    if sql != row.sql and self.runs(new) and self.unseen([new]):
                        found.append(new)
                        break
        del self.rejected[refused:]
        return found

    def recombined(self, rows: list[Row], count: int, rng: random.Random) -> list[Row]:
        """`count` enxertos em perguntas de `rows` (menos, se não há tantos), conferidos.

        Cada um tem molde inédito, e a resposta da pergunta original não serve a ele.
        """
        found: list[Row] = []
        bar = progress(label="Recombinando", unit="pergunta", total=count)
        for attempt in range(count * MAX_ATTEMPTS_PER_PAIR):
            if len(found) == count:
                break
            row = rng.choice(rows)
            if (grafted := graft(row.question, row.sql, rng)) is None:
                continue
            new = Row(f"{row.id}-r{attempt}", *grafted, "recombination")
            if not (self._is_new(new) and self.runs(new)):
                continue
            if judge(new.sql, row.sql, self._databases)[0]:
                self.refuse(new, "o enxerto não muda a resposta")
                continue
            self._accept(new)
            found.append(new)
            bar.update()
        bar.close()
        return found

    def _accept(self, row: Row) -> None:
        self._moulds[self._mould(row.question)] = row.id

    def _is_new(self, row: Row) -> bool:
        twin = self._moulds.get(self._mould(row.question))
        if twin:
            self.refuse(row, f"{REPEATED} {twin}")
        return not twin
