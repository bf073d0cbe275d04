"""Ler perguntas com a sua consulta de um CSV ou JSON, sem perder nenhuma linha em silêncio."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from comum.tabular import COMMAS, Record, read_table, unwritable
from comum.terminal import UserError

from loja_sql.prompt import DECLINE, declines

FIELDS = ("question", "sql")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")  # apito, ESC …: num terminal, são comandos
MAX_SHOWN = 2_000  # do que se mostra de uma linha recusada


@dataclass
class Row:
    """Uma pergunta e o SQL de referência (ou `DECLINE`), com o que se sabe sobre eles."""

    id: str
    question: str
    sql: str
    source: str  # as chaves de report.SOURCE_NAMES
    wording: str = "livre"  # o ruído, nas geradas e nas variações
    kind: str = ""
    difficulty: str = ""
    also_right: list[str] = field(default_factory=list)  # as outras leituras, só nos testes

    @property
    def answerable(self) -> bool:
        return self.sql != DECLINE

    @property
    def queries(self) -> list[str]:
        """As consultas que servem de resposta, a principal primeiro; `DECLINE` não é uma."""
        return [sql for sql in (self.sql, *self.also_right) if sql != DECLINE]


@dataclass
class Rejected:
    """Uma linha recusada: de onde veio, o conteúdo e por quê."""

    where: str
    question: str
    sql: str
    reason: str


def read_questions(
    path: Path, source: str, rejected: list[Rejected], readings: bool = False
) -> list[Row]:
    """Lê CSV ou JSON com `question` e `sql`; linhas ruins vão para `rejected`, com o número.

    Com `readings`, `sql` pode ser uma lista: a primeira consulta é a principal, e as outras são
    leituras da pergunta tão certas quanto ela.

    Raises:
        UserError: o arquivo não se lê (veja `read_table`) ou não tem as colunas.
    """
    rows, on_line = [], Counter()
    for record in read_table(path):
        line, values, problem = record
        found = values if isinstance(values, dict) else {}
        if not problem and path.suffix.lower() in COMMAS and (missing := {*FIELDS} - {*found}):
            raise UserError(
                f"{path}: falta a coluna {' e '.join(sorted(missing))} na primeira linha; "
                f"as que há: {', '.join(found)}."
            )
        question, sql = map(found.get, FIELDS)
        queries = sql if readings and isinstance(sql, list) and sql else [sql]
        problems = (_content_problem(question, query) for query in queries)
        if problem := problem or next(filter(None, problems), None):
            rejected.append(_refusal(path, record, problem))
            continue
        first, *others = map(_clean, queries)
        on_line[line] += 1  # um JSON pode vir inteiro numa linha só
        name = f"{source}-{line:05}" + f".{on_line[line]}" * (on_line[line] > 1)
        rows.append(Row(name, question.strip(), first, source, also_right=others))
    return rows


def _clean(sql: str) -> str:
    bare = sql.strip().rstrip(";").strip()
    return DECLINE if declines(bare) else bare


def _content_problem(question: object, sql: object) -> str | None:
    if not (isinstance(question, str) and isinstance(sql, str)):
        return "faltam os campos de texto `question` e `sql`"
    text = question + sql
    if not (question.strip() and sql.strip()):
        return "`question` ou `sql` em branco"
    if "\ufffd" in text:
        return "há letras perdidas (U+FFFD): nem toda linha está na mesma codificação"
    if broken := unwritable(text):
        return f"o texto {broken}"
    control = CONTROL.search(text)
    return f"o texto tem um caractere de controle (U+{ord(control[0]):04X})" if control else None


def _refusal(path: Path, record: Record, problem: str) -> Rejected:
    """A linha com o motivo; o que o UTF-8 não sabe gravar (meio par) fica escapado, como veio."""
    line, values, _ = record
    whole = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
    question, sql = map(values.get, FIELDS) if isinstance(values, dict) else (None, None)
    shown = (str(question or whole)[:MAX_SHOWN], str(sql or ""))
    texts = (text.encode("utf-8", "backslashreplace").decode() for text in shown)
    return Rejected(f"{path.name}:{line}", *texts, problem)
