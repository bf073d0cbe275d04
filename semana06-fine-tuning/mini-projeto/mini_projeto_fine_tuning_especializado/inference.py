"""Pergunte à loja em português: sai o SQL e as linhas.

    python inference.py "quantos clientes temos em Minas Gerais?"
    python inference.py "quem mais gastou?" "quais livros acabaram?"  # várias de uma vez
    python inference.py                                             # conversa, com histórico
    python inference.py --input perguntas.txt --output respostas.jsonl

Com `--config` e `chave=valor`, como nos outros scripts; `--adapter` escolhe o adaptador (padrão:
`training.output_dir`) e `--base` pergunta ao modelo sem treino. Depois de `export.py`, responde o
motor mais rápido que houver; `generation.engine=transformers` volta ao de sempre. O banco é aberto
só para leitura: seja qual for o SQL que o modelo escreva, nada muda.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

from loja_sql.config import (
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    as_trained,
    config_from_args,
    run_main,
    trained_kind,
    write_atomic,
)
from loja_sql.model.engines import Engine, open_engine
from loja_sql.prompt import extract_sql, render
from loja_sql.sql.database import Database, DatabaseError, QueryError, Result
from tqdm import tqdm

MAX_QUESTION_CHARS = 500
SHOWN_ROWS = 20
MAX_CELL_CHARS = 40


@dataclass(frozen=True)
class Answer:
    """O que o modelo respondeu: SQL e linhas, ou o erro, e o tempo em segundos.

    Sem linhas nem erro, a resposta ainda está sendo escrita (`Assistant.stream`).
    """

    question: str
    sql: str
    result: Result | None
    error: str | None
    seconds: float


class Assistant:
    """Motor pronto e banco aberto; `ask` responde uma pergunta."""

    def __init__(
        self, config: Config, adapter: Path | None, engine: Engine | None = None
    ) -> None:
        self.config = config
        try:
            with Database(config.databases[0]) as bank:
                self.schema = bank.schema
        except DatabaseError as error:
            raise UserError(str(error)) from error
        self.engine = engine or open_engine(config, adapter)

    def ask(self, question: str) -> Answer:
        """Responde uma pergunta; problemas na pergunta ou no SQL ficam em `error`."""
        return self.ask_many([question])[0]

    def ask_many(self, questions: list[str], progress: bool = False) -> list[Answer]:
        """Responde várias perguntas, em lotes, na ordem dada."""
        started = time.perf_counter()
        problems = [question_problem(question) for question in questions]
        good = [i for i, problem in enumerate(problems) if problem is None]
        prompts = [
            render(self.engine.tokenizer, self.config, questions[i], self.schema) for i in good
        ]
        sqls: dict[int, str] = {}
        bar = tqdm(total=len(good), desc="Respondendo", unit="pergunta", disable=not progress)
        limits = self.config.generation
        for batch in self.engine.generate(prompts, limits.max_new_tokens, limits.batch_size):
            sqls |= {good[position]: sql for position, sql in batch}
            bar.update(len(batch))
        bar.close()
        seconds = (time.perf_counter() - started) / max(1, len(questions))
        return [
            self.answer(question, sqls.get(i, ""), problems[i], seconds)
            for i, question in enumerate(questions)
        ]

    def stream(self, question: str) -> Iterator[Answer]:
        """Responde uma pergunta mostrando o SQL à medida que sai; a última resposta é a completa.

        O tempo é o de escrever o SQL e executá-lo.
        """
        started, text = time.perf_counter(), ""
        problem = question_problem(question)
        if problem is None:
            prompt = render(self.engine.tokenizer, self.config, question, self.schema)
            try:
                for text in self.engine.stream(prompt, self.config.generation.max_new_tokens):
                    yield Answer(question, text, None, None, time.perf_counter() - started)
            except UserError as error:
                problem = str(error)
        done = self.answer(question, text, problem, 0.0)
        yield dataclasses.replace(done, seconds=time.perf_counter() - started)

    def answer(self, question: str, text: str, problem: str | None, seconds: float) -> Answer:
        """Executa o SQL que o modelo escreveu; `problem` é o que impediu de perguntar, se algo."""
        sql = extract_sql(text)
        if problem is None and not sql:
            problem = "o modelo não escreveu nenhuma consulta"
        if problem:
            return Answer(question, "", None, problem, seconds)
        try:
            return Answer(question, sql, self.run(sql), None, seconds)
        except QueryError as error:
            return Answer(question, sql, None, str(error), seconds)

    def run(self, sql: str) -> Result:
        """Executa um SQL qualquer, só para leitura; cada chamada abre o seu banco.

        Raises:
            QueryError: o SQL não pôde ser executado.
        """
        with Database(self.config.databases[0], self.config.database.time_limit_s) as bank:
            return bank.run(sql)


def question_problem(question: str) -> str | None:
    """Diz por que um texto não serve de pergunta, ou None."""
    if not question.strip():
        return "a pergunta está vazia"
    if len(question) > MAX_QUESTION_CHARS:
        return f"a pergunta passa de {MAX_QUESTION_CHARS} caracteres; encurte-a"
    if not any(c.isalnum() for c in question):
        return "isto não é uma pergunta: escreva-a com palavras"
    if not question.isascii() and question != question.encode("utf-8", "replace").decode():
        return "a pergunta tem um caractere inválido (meio par Unicode)"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Responde perguntas em português sobre o banco: mostra o SQL e as linhas.",
        epilog="Sem pergunta nem --input, abre uma conversa; :ajuda lista os comandos dela.",
    )
    add_config_arguments(parser)
    parser.add_argument("--adapter", type=Path, metavar="PASTA", help="adaptador treinado")
    parser.add_argument("--base", action="store_true", help="usa o modelo sem treino")
    parser.add_argument("--input", type=Path, metavar="TXT", help="perguntas, uma por linha")
    parser.add_argument("--output", type=Path, metavar="JSONL", help="respostas (com --input)")
    args = parser.parse_intermixed_args(argv)
    # O que não é chave=valor é pergunta.
    questions = [item for item in args.overrides if not _is_override(item)]
    args.overrides = [item for item in args.overrides if _is_override(item)]
    if (args.input is None) != (args.output is None):
        raise UserError("--input e --output andam juntos.")
    if args.input is not None and not args.input.is_file():
        raise UserError(f"arquivo de perguntas não encontrado: {args.input}.")

    config, adapter = settings(config_from_args(args), args.adapter, args.base)
    if args.input is None and not questions:
        print("Carregando o modelo…")
    assistant = Assistant(config, adapter)
    if args.input is not None:
        answer_file(assistant, args.input, args.output)
    elif questions:
        answers = assistant.ask_many(questions)
        for answer in answers:
            print(f"\nPergunta: {answer.question}\n{format_answer(answer)}")
    else:
        chat(assistant)
    return 0


def _is_override(text: str) -> bool:
    key = text.partition("=")[0]
    return "=" in text and key.replace(".", "").replace("_", "").isalnum() and "." in key


def settings(config: Config, adapter: Path | None, base: bool) -> tuple[Config, Path | None]:
    """O prompt e o modelo do adaptador valem mais que os da configuração atual."""
    if base:
        from evaluate import BASE_SYSTEM

        config.prompt.system, config.prompt.schema_in_prompt = BASE_SYSTEM, True
        return config, None
    adapter = adapter or config.output_dir
    if trained_kind(adapter) is None:
        raise UserError(
            f"não há modelo treinado em {adapter}. Treine com train.py, indique outro com "
            "--adapter, ou use --base para o modelo sem treino."
        )
    return as_trained(config, adapter), adapter


def answer_file(assistant: Assistant, source: Path, target: Path) -> None:
    """Responde todas as perguntas de um arquivo; grava `target` de uma vez, no fim."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{source} não está em UTF-8 (byte {error.start}).") from error
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise UserError(f"{source} não tem nenhuma pergunta.")
    answers = assistant.ask_many(questions, progress=True)
    lines = [json.dumps(as_record(answer), ensure_ascii=False) + "\n" for answer in answers]
    write_atomic(target, "".join(lines))
    print(f"{len(questions)} respostas em {target}")


def as_record(answer: Answer) -> dict:
    """A forma de uma linha do JSONL de saída."""
    return {
        "question": answer.question,
        "sql": answer.sql,
        "columns": answer.result.columns if answer.result else [],
        "rows": shown_rows(answer.result) if answer.result else [],
        "error": answer.error,
    }


def shown_rows(result: Result) -> list[list]:
    """As linhas com o que o JSON não sabe escrever (bytes, infinito) trocado por texto."""
    return [[_jsonable(value) for value in row] for row in result.rows]


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


HELP = """Comandos: :ajuda  :historico  :esquema  :sql SELECT …  :sair
Qualquer outra linha é uma pergunta, como "quais produtos estão esgotados?"."""


def chat(assistant: Assistant) -> None:
    """Conversa no terminal; termina com :sair, Ctrl-D ou Ctrl-C."""
    with contextlib.suppress(ImportError):  # o Windows não tem o módulo
        import readline  # noqa: F401  (setas e histórico na linha de comando)
    print("Pergunte à loja (:ajuda para os comandos, :sair para terminar).")
    history: list[Answer] = []
    while True:
        try:
            line = input("\npergunta> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            continue
        if line in (":sair", ":quit", ":q"):
            return
        if line == ":ajuda":
            print(HELP)
        elif line == ":esquema":
            print(assistant.schema)
        elif line == ":historico":
            for number, item in enumerate(history, 1):
                print(f"{number:3}. {item.question}\n     {item.sql or item.error}")
            if not history:
                print("Ainda não há perguntas.")
        elif line.startswith(":sql "):
            print(format_answer(_run_sql(assistant, line.removeprefix(":sql "))))
        elif line.startswith(":"):
            print(f"Não conheço o comando {line.split()[0]}.\n{HELP}")
        else:
            history.append(assistant.ask(line))
            print(format_answer(history[-1]))


def _run_sql(assistant: Assistant, sql: str) -> Answer:
    started = time.perf_counter()
    try:
        return Answer("", sql, assistant.run(sql), None, time.perf_counter() - started)
    except QueryError as error:
        return Answer("", sql, None, str(error), time.perf_counter() - started)


def format_answer(answer: Answer) -> str:
    """SQL, linhas numa tabela e tempo, para o terminal."""
    lines = [f"SQL: {answer.sql}"] if answer.sql else []
    if answer.error is not None:
        lines.append(f"Não deu certo: {answer.error}.")
    else:
        lines.append(format_table(answer.result))
    lines.append(f"({answer.seconds:.1f} s)".replace(".", ","))
    return "\n".join(lines)


def format_table(result: Result) -> str:
    """Tabela de texto com as primeiras linhas do resultado."""
    if not result.rows:
        return "Nenhuma linha."
    shown = [[_cell(value) for value in row] for row in result.rows[:SHOWN_ROWS]]
    header = [_cell(name) for name in result.columns]
    widths = [max(len(row[i]) for row in [header, *shown]) for i in range(len(header))]
    numeric = [
        all(isinstance(row[i], int | float) for row in result.rows) for i in range(len(header))
    ]

    def line(cells: list[str]) -> str:
        padded = (c.rjust(w) if n else c.ljust(w)
                  for c, w, n in zip(cells, widths, numeric, strict=True))  # fmt: skip
        return "  ".join(padded).rstrip()

    lines = [line(header), "  ".join("-" * width for width in widths), *map(line, shown)]
    total = len(result.rows)
    if total > SHOWN_ROWS:
        more = "mais de " if result.truncated else ""
        lines.append(f"… {SHOWN_ROWS} de {more}{total} linhas")
    else:
        lines.append("1 linha" if total == 1 else f"{total} linhas")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:,.2f}".replace(",", " ").replace(".", ",").replace(" ", ".")
    # Caracteres de controle vindos do SQL não podem mexer no terminal.
    text = "".join(c if c.isprintable() else "·" for c in str(value))
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


if __name__ == "__main__":
    sys.exit(run_main(main))
