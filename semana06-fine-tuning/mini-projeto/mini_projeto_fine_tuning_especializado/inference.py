"""Pergunte à loja em português: sai o SQL e as linhas.

    python inference.py "quantos clientes temos em Minas Gerais?"
    python inference.py "quem mais gastou?" "quais livros acabaram?"  # várias de uma vez
    python inference.py                               # conversa; :ajuda lista os comandos
    python inference.py --input perguntas.txt --output respostas.jsonl
    python inference.py --hints "clientes de blumenau"  # só a pergunta como o modelo a lê

`--adapter` escolhe o modelo treinado (padrão: `training.output_dir`). Depois de `export.py`,
responde o motor mais rápido que houver; `generation.engine=transformers` volta ao de sempre. O
banco é aberto só para leitura: seja qual for o SQL que o modelo escreva, nada muda.
"""

import contextlib
import re
import sys
from pathlib import Path

from comum.files import check_writable, lines, write_jsonl
from comum.terminal import Parser, UserError, run_main
from comum.text import fold

from loja_sql.config import add_config_arguments, config_from_args
from loja_sql.model.assistant import Answer, Assistant, add_model_arguments, as_record, settings
from loja_sql.page.shell import format_answer, printable
from loja_sql.prompt import with_hints
from loja_sql.questions import linking

OVERRIDE = re.compile(r"\w+\.[\w.]+=")  # o que não é chave=valor é pergunta
HELP = """Comandos: :ajuda  :historico  :esquema  :sql SELECT …  :sair
Qualquer outra linha é uma pergunta, como "quais produtos estão esgotados?"."""
WORDS = {"sair", "ajuda", "exit", "quit", "help"}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--input", type=Path, metavar="TXT", help="perguntas, uma por linha")
    parser.add_argument("--output", type=Path, metavar="JSONL", help="respostas (com --input)")
    parser.add_argument("--hints", action="store_true", help="mostra as perguntas com as dicas")
    args = parser.parse_intermixed_args(argv)
    questions = [item for item in args.overrides if not OVERRIDE.match(item)]
    args.overrides = [item for item in args.overrides if OVERRIDE.match(item)]
    if args.input or args.output:
        questions = questions_of(args.input, args.output, questions)
    if args.hints and not questions:
        raise UserError("--hints pede ao menos uma pergunta.")
    config, adapter = settings(config_from_args(args), args)
    if args.hints:
        context = linking.context(config)
        print(*(with_hints(question, context.links(question)) for question in questions), sep="\n")
        return 0
    if not questions:
        print("Carregando o modelo…")
        chat(Assistant(config, adapter))
        return 0
    answers = Assistant(config, adapter).ask_many(questions)
    if args.input:
        write_jsonl(args.output, map(as_record, answers))
        print(f"{len(answers)} respostas em {args.output}")
        return 0
    for answer in answers:
        print(f"\nPergunta: {printable(answer.question)}\n{format_answer(answer)}")
    return 0


def questions_of(source: Path | None, target: Path | None, typed: list[str]) -> list[str]:
    """As perguntas de `source`, uma por linha; UserError se `target` não se pode gravar."""
    if source is None or target is None:
        raise UserError("--input e --output andam juntos: as perguntas e onde gravar as respostas.")
    if typed:
        raise UserError("as perguntas vêm da linha de comando ou de --input; não dos dois.")
    if target.is_dir():
        raise UserError(f"{target} é uma pasta; em --output vai o nome de um arquivo.")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError("--input e --output são o mesmo arquivo, e as perguntas se perderiam.")
    if source.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"):
        raise UserError(f"--input é um texto com uma pergunta por linha, e {source} é uma tabela.")
    questions = [line.strip() for line in lines(source) if line.strip()]
    if not questions:
        raise UserError(f"{source} não tem nenhuma pergunta.")
    check_writable(target.parent)
    return questions


def chat(assistant: Assistant) -> None:
    """Conversa no terminal; termina com :sair, Ctrl-D ou Ctrl-C."""
    with contextlib.suppress(ImportError):  # o Windows não tem o módulo
        import readline  # noqa: F401  (setas e histórico na linha de comando)
    with contextlib.suppress(AttributeError):  # nem toda entrada é um arquivo
        sys.stdin.reconfigure(errors="replace")
    print("Pergunte à loja (:ajuda para os comandos, :sair para terminar).")
    history: list[Answer] = []
    while True:
        try:
            line = input("\npergunta> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if fold(line) in (":sair", ":quit", ":q"):
            return
        if line.lower() in WORDS:
            print("Os comandos começam com dois-pontos: :ajuda, :sair.")
        elif line.startswith(":"):
            command(line, assistant, history)
        elif line:
            history.append(assistant.ask(line))
            print(format_answer(history[-1]))


def command(line: str, assistant: Assistant, history: list[Answer]) -> None:
    """Atende uma linha da conversa que começa com dois-pontos."""
    name, _, rest = line.partition(" ")
    name = fold(name)  # :Histórico também serve
    if name == ":ajuda":
        print(HELP)
    elif name == ":esquema":
        print(assistant.context.schema)
    elif name == ":historico":
        for number, item in enumerate(history, 1):
            print(printable(f"{number:3}. {item.question}\n     {item.sql or item.error}"))
        if not history:
            print("Ainda não há perguntas.")
    elif name == ":sql":
        print(format_answer(assistant.execute(rest)))
    else:
        print(f"Não conheço o comando {printable(name)}.\n{HELP}")


if __name__ == "__main__":
    sys.exit(run_main(main))
