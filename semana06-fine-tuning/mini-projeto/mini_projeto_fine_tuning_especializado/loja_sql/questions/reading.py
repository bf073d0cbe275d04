"""Ler perguntas com a sua consulta de um CSV ou JSONL, sem perder nenhuma linha em silêncio."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from comum.terminal import UserError

from loja_sql.prompt import DECLINE, declines

Record = tuple[int, dict | None, str | None]  # linha do arquivo, conteúdo, problema


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
    """Lê CSV ou JSONL com `question` e `sql`; linhas ruins vão para `rejected`, com o número.

    Com `readings`, `sql` pode ser uma lista: a primeira consulta é a principal, e as outras são
    leituras da pergunta tão certas quanto ela.

    Raises:
        UserError: arquivo ausente, em formato desconhecido ou sem as colunas.
    """
    if not path.is_file():
        raise UserError(f"arquivo de perguntas não encontrado: {path}.")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if path.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise UserError(f"{path}: formato desconhecido; use .csv ou .jsonl.")
    is_csv = path.suffix.lower() == ".csv"
    records = _csv_records(path, text) if is_csv else _jsonl_records(text)
    rows = []
    for line, record, problem in records:
        question, sql = (record or {}).get("question"), (record or {}).get("sql")
        queries = sql if readings and isinstance(sql, list) and sql else [sql]
        problems = (_content_problem(question, query) for query in queries)
        problem = problem or next(filter(None, problems), None)
        if problem is None:
            first, *others = map(_clean, queries)
            name = f"{source}-{line:05}"
            rows.append(Row(name, question.strip(), first, source, also_right=others))
            continue
        shown = json.dumps(record, ensure_ascii=False) if record is not None else ""
        texts = _printable(str(question or shown)), _printable(str(sql or ""))
        rejected.append(Rejected(f"{path.name}:{line}", *texts, problem))
    return rows


def _clean(sql: str) -> str:
    return DECLINE if declines(sql) else sql.strip().rstrip(";").strip()


def _content_problem(question: object, sql: object) -> str | None:
    if not (isinstance(question, str) and isinstance(sql, str)):
        return "faltam os campos de texto `question` e `sql`"
    if not (question.strip() and sql.strip()):
        return "`question` ou `sql` em branco"
    if "\ufffd" in question + sql:
        return "a linha não está em UTF-8"
    if _printable(question + sql) != question + sql:
        return "texto com caractere inválido (meio par Unicode)"
    return None


def _printable(text: str) -> str:
    """Troca por `?` o que o UTF-8 não sabe gravar (JSON aceita meio par: `"\\ud800"`)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _csv_records(path: Path, text: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = {"question", "sql"} - set(reader.fieldnames or [])
    except csv.Error as error:
        raise UserError(f"{path}: a primeira linha não é CSV ({error}).") from error
    if missing:
        raise UserError(
            f"{path}: falta a coluna {' e '.join(sorted(missing))} na primeira linha; "
            "o CSV precisa de question,sql."
        )
    while True:
        first = reader.reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            last = reader.reader.line_num
            span = f"das linhas {first} a {last}, " if last > first else ""
            yield first, None, f"não é CSV: {span}{error} (aspas sem par?)"
            continue
        if record is None:
            return
        problem = "campos demais (aspas faltando?)" if record.pop(None, None) else None
        yield reader.line_num, record, problem


def _jsonl_records(text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, None, f"não é JSON ({getattr(error, 'msg', error)}): {line[:200]}"
            continue
        problem = None if isinstance(record, dict) else f"esperava um objeto JSON: {line[:200]}"
        yield number, record if problem is None else None, problem
