"""A conversa com quem digita: opções e erros em português, passos, barras de progresso."""

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from tqdm import tqdm

# As frases do argparse, que passam todas por gettext; as que faltarem aqui saem em inglês.
PHRASES = {
    "usage: ": "uso:   ",  # parse_intermixed_args conta com os 7 caracteres de "usage: "
    "options": "opções",
    "positional arguments": "argumentos",
    "show this help message and exit": "mostra esta ajuda e sai",
    "argument %(argument_name)s: %(message)s": "%(argument_name)s: %(message)s",
    "unrecognized arguments: %s": "argumento desconhecido: %s",
    "expected one argument": "falta o valor desta opção",
    "expected at least one argument": "falta ao menos um valor para esta opção",
    "ignored explicit argument %r": "esta opção não recebe valor, e veio %r",
    "invalid choice: %(value)r (choose from %(choices)s)": (
        "valor inválido: %(value)r (escolha entre %(choices)s)"
    ),
    "invalid %(type)s value: %(value)r": "valor inválido: %(value)r (esperado: %(type)s)",
    "ambiguous option: %(option)s could match %(matches)s": (
        "opção ambígua: %(option)s pode ser %(matches)s"
    ),
    "the following arguments are required: %s": "faltam argumentos: %s",
    "not allowed with argument %s": "não pode vir junto com %s",
    "one of the arguments %s is required": "é preciso um destes: %s",
}


class UserError(Exception):
    """Algo que quem usa pode corrigir; a mensagem diz o quê, onde e como."""


class Parser(argparse.ArgumentParser):
    """Um ArgumentParser que fala português e mostra a descrição como foi escrita, linha a linha."""

    def __init__(self, description: str | None = None, epilog: str | None = None) -> None:
        argparse._ = lambda text: PHRASES.get(text, text)
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=shape)

    def error(self, message: str) -> NoReturn:
        """Uma frase no stderr e código 2."""
        self.print_usage(sys.stderr)
        print(f"Erro: {message}. As opções estão em --help.", file=sys.stderr)
        raise SystemExit(2)


def above_zero(kind: type) -> Callable[[str], int | float]:
    """O `type=` de uma opção numérica que só vale acima de zero."""

    def parse(text: str) -> int | float:
        with suppress(ValueError):
            if (value := kind(text)) > 0:  # um nan não é maior que nada
                return value
        what = "inteiro" if kind is int else "número"
        raise argparse.ArgumentTypeError(f"esperava um {what} maior que zero, e veio {text!r}")

    return parse


def simple_name(text: str) -> str:
    """O `type=` de uma opção que dá nome a arquivos: letras, números, ponto, hífen e sublinhado."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        message = f"use só letras, números, ponto, hífen e sublinhado, e veio {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text


def run_main(main: Callable[..., int | None], *arguments: object) -> int:
    """Executa `main(*arguments)` e devolve o código de saída do processo.

    Um erro do usuário vira uma frase e código 2; Ctrl-C vira 130. Um defeito nosso mostra o
    traceback inteiro.
    """
    try:
        return main(*arguments) or 0
    except UserError as error:
        print(f"Erro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrompido.", file=sys.stderr)
        return 130


def banner(number: int, title: str) -> None:
    """Anuncia um passo da lição."""
    print(f"\n{'=' * 78}\n{number}. {title}\n{'=' * 78}", flush=True)


def progress(items=None, label: str = "", unit: str = "", total: int | None = None) -> tqdm:
    """Uma barra com o tempo que falta, em stderr; sem `items`, avança por `update`."""
    return tqdm(items, label, total, unit=unit, mininterval=0.5)
