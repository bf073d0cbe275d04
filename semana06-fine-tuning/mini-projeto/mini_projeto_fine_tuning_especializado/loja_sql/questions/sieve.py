"""Os crivos: o que executa, o que não se repete e o que não se parece com o teste.

Nada some calado: cada linha recusada fica em `Sieve.rejected`, com o motivo.
"""

import random
from itertools import islice

from comum.terminal import progress
from comum.text import jaccard

from loja_sql.questions.generator import generate
from loja_sql.questions.reading import Rejected, Row
from loja_sql.questions.slots import mask
from loja_sql.questions.variations import vary
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import Database
from loja_sql.sql.features import difficulty, kind

NEAR_DUPLICATE = 0.8  # Jaccard entre os conjuntos de palavras dos moldes
MAX_ATTEMPTS_PER_PAIR = 6
REPEATED, NEARLY = "mesmo molde de", "quase igual a"


class Sieve:
    """Recusa linhas, guardando o motivo, e lembra o que já executou e os moldes que já aceitou."""

    def __init__(self, databases: list[Database]) -> None:
        self.rejected: list[Rejected] = []
        self._databases = databases
        self._problems: dict[str, str | None] = {}  # a mesma consulta serve a muitas perguntas
        self._moulds: dict[str, str] = {}

    def refuse(self, row: Row, reason: str, where: str | None = None) -> None:
        """Registra uma recusa; `where` é o id da linha, se não se diz outro."""
        self.rejected.append(Rejected(where or row.id, row.question, row.sql, reason))

    def runs(self, row: Row, where: str | None = None) -> bool:
        """Executa a consulta em todos os bancos; a que serve ganha tipo e dificuldade."""
        if row.sql not in self._problems:
            self._problems[row.sql] = reference_problem(row.sql, self._databases)
        if problem := self._problems[row.sql]:
            self.refuse(row, problem, where)
        else:
            row.kind, row.difficulty = kind(row.sql), difficulty(row.sql)
        return not problem

    def checked(self, rows: list[Row], label: str) -> list[Row]:
        """As linhas cuja consulta executa e tem resposta definida."""
        return [row for row in progress(rows, f"Conferindo: {label}", "pergunta") if self.runs(row)]

    def unseen(self, rows: list[Row]) -> list[Row]:
        """As linhas cujo molde ainda não se aceitou; quem vem antes fica."""
        new = []
        for row in rows:
            if self._is_new(row):
                self._moulds[mask(row.question)] = row.id
                new.append(row)
        return new

    def apart(self, rows: list[Row], reserved: list[Row]) -> list[Row]:
        """As linhas que não usam quase as mesmas palavras de uma pergunta reservada."""
        held = [(set(mask(row.question).split()), row.id) for row in reserved]
        kept = []
        for row in rows:
            words = set(mask(row.question).split())
            twins = (name for other, name in held if jaccard(words, other) >= NEAR_DUPLICATE)
            if twin := next(twins, None):
                self.refuse(row, f"{NEARLY} {twin}")
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
            row = Row(name, pair.question, pair.sql, "generated", pair.noise)
            if self._is_new(row) and self.runs(row):
                self._moulds[mask(row.question)] = row.id
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
                question, sql, noise = vary(row.question, row.sql, rng)
                new = Row(name, question, sql, "variation", noise)
                if self.runs(new, f"{name}, tentativa {attempt}"):
                    found.append(new)
                    break
        return found

    def _is_new(self, row: Row) -> bool:
        twin = self._moulds.get(mask(row.question))
        if twin:
            self.refuse(row, f"{REPEATED} {twin}")
        return not twin
