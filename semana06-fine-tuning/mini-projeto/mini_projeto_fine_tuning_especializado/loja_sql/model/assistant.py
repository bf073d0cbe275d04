"""O assistente: pergunta → prompt → SQL → linhas. O terminal e a página usam este mesmo."""

import argparse
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comum.terminal import UserError, progress
from comum.text import fold

from babel.lists import format_list

from loja_sql.config import (
    Config,
    as_trained,
    check_base,
    resolve,
    trained_kind,
    untrained,
    with_trained,
)
from loja_sql.model.summary import WORK
from loja_sql.prompt import DECLINE, Link, declines, extract_sql, render
from loja_sql.questions import linking
from loja_sql.sql.database import Database, QueryError, Result
from loja_sql.sql.names import name_words

if TYPE_CHECKING:
    from loja_sql.model.engines import Engine

MAX_QUESTION_CHARS = 500
UPDATES_PER_SECOND = 8
MAX_TABLES_NAMED = 8  # numa recusa
_TEXT = re.compile(r"'((?:[^']|'')*)'")  # entre aspas, numa consulta


@dataclass(frozen=True)
class Answer:
    """O que o modelo respondeu: SQL e linhas, ou o erro, e o tempo em segundos.

    Sem linhas nem erro, a resposta ainda está sendo escrita (`Assistant.stream`). Em `declined`, o
    modelo disse que não sabe, e `error` é a frase que o diz. `links` são os valores do banco que a
    pergunta nomeia.
    """

    question: str
    sql: str
    result: Result | None
    error: str | None
    seconds: float
    declined: bool = False
    links: Sequence[Link] = ()

    @property
    def used_links(self) -> list[Link]:
        """Os valores nomeados que a consulta usa: são dicas, e o modelo pode não as seguir."""
        texts = [fold(text) for text in _TEXT.findall(self.sql)]
        values = {link: fold(link.value.replace("'", "''")) for link in self.links}
        return [link for link, value in values.items() if any(value in text for text in texts)]

    @property
    def failure(self) -> str:
        """A frase que se mostra no lugar das linhas quando há `error`."""
        if self.declined:
            return f"{self.error[0].upper()}{self.error[1:]}."
        return f"Não deu certo: {self.error}."


class Assistant:
    """Um motor pronto e o banco sobre o qual ele responde; UserError se um deles não se abre."""

    def __init__(self, config: Config, adapter: Path | None, engine: "Engine | None" = None):
        from loja_sql.model.engines import open_engine  # traz o torch, e --help não o espera

        self.config = config
        self.tables = Database(config.databases[0]).tables
        self.context = linking.context(config)
        self.engine = engine or open_engine(config, adapter)

    def ask(self, question: str) -> Answer:
        """Responde uma pergunta; problemas na pergunta ou no SQL ficam em `error`."""
        *_, done = self.stream(question)
        return done

    def ask_many(self, questions: list[str]) -> list[Answer]:
        """Responde várias perguntas, em lotes, na ordem dada; o tempo de cada uma é o médio."""
        started = time.perf_counter()
        good = [question for question in questions if question_problem(question) is None]
        limits = self.config.generation.max_new_tokens, self.config.generation.batch_size
        links = {question: self.context.links(question) for question in good}
        prompts = [self._prompt(question, links[question]) for question in good]
        # Sem nenhuma pergunta boa, o tokenizador não teria o que ler.
        batches = self.engine.generate(prompts, *limits) if good else ()
        texts = {good[i]: text for i, text in in_order(batches, "Respondendo", len(good))}
        answers = [self._answer(q, texts.get(q, ""), question_problem(q)) for q in questions]
        seconds = (time.perf_counter() - started) / max(1, len(questions))
        return [replace(a, seconds=seconds, links=links.get(a.question, ())) for a in answers]

    def stream(self, question: str) -> Iterator[Answer]:
        """Responde mostrando o SQL à medida que sai; a última resposta é a completa."""
        started, latest, text, links = time.perf_counter(), 0.0, "", ()
        problem = question_problem(question)
        if problem is None:
            limit = self.config.generation.max_new_tokens
            try:
                links = self.context.links(question)
                for text in self.engine.stream(self._prompt(question, links), limit):
                    seconds = time.perf_counter() - started
                    # O começo de uma recusa não se mostra: não é SQL.
                    shown = not DECLINE.startswith(text.strip())
                    if shown and seconds - latest > 1 / UPDATES_PER_SECOND:
                        latest = seconds
                        yield Answer(question, text, None, None, seconds, links=links)
            except UserError as error:
                problem = str(error).rstrip(".")
        done = self._answer(question, text, problem)
        yield replace(done, seconds=time.perf_counter() - started, links=links)

    def execute(self, sql: str, question: str = "") -> Answer:
        """Executa um SQL qualquer, só para leitura.

        Com `DECLINE` no lugar do SQL, nada se executa, e a resposta é uma recusa.
        """
        if declines(sql):
            return Answer(question, "", None, self._refusal(), 0.0, declined=True)
        started = time.perf_counter()
        try:
            bank = Database(self.config.databases[0], self.config.database.time_limit_s)
            result, error = bank.run(sql), None
        except (QueryError, UserError) as problem:  # ou não serve, ou não há processo
            result, error = None, str(problem).rstrip(".")
        return Answer(question, sql, result, error, time.perf_counter() - started)

    def _refusal(self) -> str:
        named = map(name_words, self.tables[:MAX_TABLES_NAMED])
        others = ["outras"] if len(self.tables) > MAX_TABLES_NAMED else []
        known = format_list([*named, *others], locale="pt_BR")
        return (
            f"não sei responder com o que há no banco ({known}). Se a resposta está nele, pergunte "
            "com outras palavras"
        )

    def _prompt(self, question: str, links: Sequence[Link]) -> str:
        """O prompt com as dicas já achadas: procurá-las num banco grande custa milissegundos."""
        found = replace(self.context, links=lambda question: links)
        return render(self.engine.tokenizer, self.config, question, found)

    def _answer(self, question: str, text: str, problem: str | None) -> Answer:
        """Executa o SQL que o modelo escreveu; `problem` é o que impediu de perguntar, se algo."""
        sql = extract_sql(text)
        if sql and problem is None:
            return self.execute(sql, question)
        return Answer(question, "", None, problem or "o modelo não escreveu nenhuma consulta", 0.0)


def in_order(batches: Iterable[list[tuple]], label: str, total: int) -> list[tuple]:
    """As respostas de um motor, (índice da pergunta, …), em ordem e com uma barra de progresso."""
    found: list[tuple] = []
    with progress(None, label, "pergunta", total) as bar:
        for batch in batches:
            found += batch
            bar.update(len(batch))
    return sorted(found)


def question_problem(question: str) -> str | None:
    """Diz por que um texto não serve de pergunta, ou None."""
    if not question.strip():
        return "a pergunta está vazia"
    if len(question) > MAX_QUESTION_CHARS:
        return f"a pergunta passa de {MAX_QUESTION_CHARS} caracteres; encurte-a"
    if not any(c.isalnum() for c in question):
        return "isto não é uma pergunta: escreva-a com palavras"
    if question != question.encode("utf-8", "replace").decode():
        return "a pergunta tem um caractere inválido (meio par Unicode)"
    return None


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Acrescenta `--adapter` e `--base`, lidos por `settings`."""
    parser.add_argument("--adapter", type=resolve, metavar="PASTA", help="pasta do modelo treinado")
    parser.add_argument("--base", action="store_true", help="usa o modelo sem treino")


def settings(config: Config, args: argparse.Namespace) -> tuple[Config, Path | None]:
    """A configuração e a pasta do modelo que as opções escolhem; None é o modelo sem treino.

    O prompt e o modelo base do treino valem mais que os da configuração atual. UserError se não há
    modelo treinado na pasta. Uma loja que falta é gerada.
    """
    from loja_sql.shop import create_missing  # traz o faker, e --help não o espera

    create_missing(config)
    if args.base:
        return untrained(config), None
    adapter = args.adapter or with_trained(config).output_dir
    if trained_kind(adapter) is None:
        begun = ", só um treino que não acabou" if (adapter / WORK).is_dir() else ""
        raise UserError(
            f"não há modelo treinado em {adapter}{begun}. Treine com train.py, indique outro com "
            "--adapter, ou use --base para o modelo sem treino."
        )
    if args.adapter:  # a outra pasta, `with_trained` já conferiu
        check_base(config, adapter)
    return as_trained(config, adapter), adapter


def as_record(answer: Answer) -> dict:
    """A resposta como um objeto de JSON: question, links, sql, columns, rows, error e declined."""
    result = answer.result or Result([], [])
    found = {"columns": result.columns, "rows": shown_rows(result)}
    found |= {"error": answer.error, "declined": answer.declined}
    links = [link._asdict() for link in answer.links]
    return {"question": answer.question, "links": links, "sql": answer.sql, **found}


def shown_rows(result: Result) -> list[list]:
    """As linhas, com `shown_value` de cada célula."""
    return [[shown_value(value) for value in row] for row in result.rows]


def shown_value(value: object) -> object:
    """O valor; o que o JSON não sabe escrever (bytes, infinito), trocado por texto."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
