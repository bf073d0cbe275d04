"""Os crivos: o que executa, o que não se repete e o que não se parece com o teste.

Nada some calado: cada linha recusada fica em `Sieve.rejected`, com o motivo.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache

from comum.terminal import progress
from comum.text import jaccard

from loja_sql.questions.checks import Checks, Draws
from loja_sql.questions.generator import generate
from loja_sql.questions.grafts import graft
from loja_sql.questions.reading import Rejected, Row
from loja_sql.questions.slots import mask
from loja_sql.questions.variations import vary
from loja_sql.sql.comparison import judge
from loja_sql.sql.features import shape

UNANSWERABLE = "sem resposta"  # o tipo e a dificuldade do que o banco não responde
NEAR_DUPLICATE = 0.8  # Jaccard entre os conjuntos de palavras dos moldes
MAX_ATTEMPTS_PER_PAIR = 6
REPEATED, NEARLY = "mesmo molde de", "quase igual a"


class Sieve:
    """Recusa linhas, guardando o motivo, e lembra os moldes que já aceitou.

    Args:
        mould: o que duas perguntas iguais têm em comum. As palavras da loja só são valores nas
            perguntas dela: num banco alheio, "livros" pode ser uma tabela.
    """

    def __init__(self, checks: Checks, mould: Callable[[str], str] = mask) -> None:
        self.rejected: list[Rejected] = []
        self._checks, self._mould = checks, mould
        self._moulds: dict[str, str] = {}

    def refuse(self, row: Row, reason: str, where: str | None = None) -> None:
        """Registra uma recusa; `where` é o id da linha, se não se diz outro."""
        self.rejected.append(Rejected(where or row.id, row.question, row.sql, reason))

    def runs(self, row: Row, where: str | None = None) -> bool:
        """Executa a consulta em todos os bancos; a que serve ganha tipo e dificuldade."""
        if problem := next(filter(None, map(self._checks.problem, row.queries)), None):
            self.refuse(row, problem, where)
        elif row.answerable:
            found = shape(row.sql)
            row.kind, row.difficulty = found.kind, found.difficulty
        else:
            row.kind = row.difficulty = UNANSWERABLE
        return not problem

    def checked(self, rows: list[Row], label: str) -> list[Row]:
        """As linhas cuja consulta executa e tem resposta definida."""
        self._checks.all((sql for row in rows for sql in row.queries), f"Conferindo: {label}")
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
        frequency = Counter(word for words in held for word in words)

        def rarest(words: set[str]) -> list[str]:
            """Duas quase iguais têm em comum uma destas (Bayardo, Ma e Srikant, 2007, WWW)."""
            count = len(words) - math.ceil(NEAR_DUPLICATE * len(words)) + 1
            return sorted(words, key=lambda word: (frequency[word], word))[:count]

        having = defaultdict(set)
        for place, words in enumerate(held):
            for word in rarest(words):
                having[word].add(place)

        @cache  # as variações têm o molde da original
        def twin(mould: str) -> str | None:
            words = set(mould.split())
            places = sorted(set().union(*(having[word] for word in rarest(words))))
            twins = (p for p in places if jaccard(words, held[p]) >= NEAR_DUPLICATE)
            return next((reserved[place].id for place in twins), None)

        kept = []
        for row in rows:
            if near := twin(mask(row.question)):
                self.refuse(row, f"{NEARLY} {near}")
            else:
                kept.append(row)
        return kept

    def generated(self, count: int, seed: int) -> list[Row]:
        """`count` pares da gramática, de moldes inéditos e conferidos (menos, se não há tantos)."""
        rng = random.Random(seed)
        pairs = generate(rng)

        def draw(attempt: int) -> Row:
            pair = next(pairs)
            return Row(f"generated-{attempt:05}", pair.question, pair.sql, "generated")

        draws = Draws(self._checks, rng, draw, count * MAX_ATTEMPTS_PER_PAIR)
        return self._gathered(draws, count, "Gerando e conferindo", "par")

    def varied(self, rows: list[Row], versions: int, rng: random.Random) -> list[Row]:
        """`versions` versões de cada pergunta, com outros valores, conferidas por execução."""
        found: list[Row] = []
        originals = [(row, turn) for turn in range(1, versions + 1) for row in rows]

        def draw(place: int) -> Row:
            row, turn = originals[place]
            return Row(f"{row.id}-v{turn}", *vary(row.question, row.sql, rng), "variation")

        draws = Draws(self._checks, rng, draw, len(originals))
        for place in progress(range(len(originals)), "Variando valores", "pergunta"):
            for attempt in range(1, MAX_ATTEMPTS_PER_PAIR + 1):
                new = draws.take(place)
                if self.runs(new, f"{new.id}, tentativa {attempt}"):
                    found.append(new)
                    break
                draws.rewind()
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
        answers = {row.id: row.sql for row in rows}

        def draw(attempt: int) -> Row | None:
            row = rng.choice(rows)
            grafted = graft(row.question, row.sql, rng)
            return grafted and Row(f"{row.id}-r{attempt}", *grafted, "recombination")

        def changes(new: Row) -> bool:
            same = judge(new.sql, answers[new.id.rpartition("-")[0]], self._checks.databases)[0]
            if same:
                self.refuse(new, "o enxerto não muda a resposta")
            return not same

        draws = Draws(self._checks, rng, draw, count * MAX_ATTEMPTS_PER_PAIR)
        return self._gathered(draws, count, "Recombinando", "pergunta", changes)

    def _gathered(
        self,
        draws: Draws,
        count: int,
        label: str,
        unit: str,
        fits: Callable[[Row], bool] = lambda _: True,
    ) -> list[Row]:
        """Até `count` linhas de `draws`, de moldes inéditos, que executam e servem a `fits`."""
        found: list[Row] = []
        bar = progress(label=label, unit=unit, total=count)
        for place in range(draws.count):
            if len(found) == count:
                break
            row = draws.take(place)
            if row and self._is_new(row) and self.runs(row) and fits(row):
                self._accept(row)
                found.append(row)
                bar.update()
        bar.close()
        draws.rewind()
        return found

    def _accept(self, row: Row) -> None:
        self._moulds[self._mould(row.question)] = row.id

    def _is_new(self, row: Row) -> bool:
        twin = self._moulds.get(self._mould(row.question))
        if twin:
            self.refuse(row, f"{REPEATED} {twin}")
        return not twin
