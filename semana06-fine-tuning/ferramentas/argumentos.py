"""A linha de comando em português: ajuda e erros do argparse, para todos os scripts da semana."""

import argparse
import sys
from typing import NoReturn

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
    "invalid choice: %(value)r (choose from %(choices)s)":
        "valor inválido: %(value)r (escolha entre %(choices)s)",
    "invalid %(type)s value: %(value)r": "valor inválido: %(value)r (esperado: %(type)s)",
    "ambiguous option: %(option)s could match %(matches)s":
        "opção ambígua: %(option)s pode ser %(matches)s",
    "the following arguments are required: %s": "faltam argumentos: %s",
    "not allowed with argument %s": "não pode vir junto com %s",
    "one of the arguments %s is required": "é preciso um destes: %s",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Um ArgumentParser que fala português e mostra a descrição como foi escrita, linha a linha."""

    def __init__(self, description: str | None = None, epilog: str | None = None) -> None:
        argparse._ = lambda text: PHRASES.get(text, text)
        super().__init__(
            description=description, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Uma frase no stderr e código 2."""
        self.print_usage(sys.stderr)
        print(f"Erro: {message}. As opções estão em --help.", file=sys.stderr)
        raise SystemExit(2)
