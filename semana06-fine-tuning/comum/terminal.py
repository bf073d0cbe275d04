"""A conversa com quem digita: opções e erros em português, passos, barras de progresso."""

import argparse
import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sized
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


# O que houve com um arquivo, quando o sistema se recusa: nada disto é um defeito nosso.
REASONS = {
    errno.EACCES: "sem permissão",
    errno.EEXIST: "há um arquivo com este nome",
    errno.EISDIR: "é uma pasta",
    errno.ENAMETOOLONG: "o nome é comprido demais",
    errno.ENOENT: "não existe",
    errno.ENOSPC: "o disco está cheio",
    errno.ENOTDIR: "há um arquivo no meio do caminho",
    errno.ENOTEMPTY: "a pasta não está vazia",
    errno.EPERM: "sem permissão",
    errno.EROFS: "o disco é só de leitura",
}
NO_MEMORY = "out of memory|allocate memory|not enough memory"


class UserError(Exception):
    """Algo que quem usa pode corrigir; a mensagem diz o quê, onde e como."""


class Parser(argparse.ArgumentParser):
    """Um ArgumentParser que fala português e mostra a descrição como foi escrita, linha a linha."""

    def __init__(self, description: str | None = None) -> None:
        argparse._ = lambda text: PHRASES.get(text, text)
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=shape)

    def _get_value(self, action: argparse.Action, text: str) -> object:
        # Um caminho vazio seria a pasta atual; um nome vazio, nenhum.
        if action.option_strings and not text.strip():
            raise argparse.ArgumentError(action, "o valor está vazio")
        return super()._get_value(action, text)

    def error(self, message: str) -> NoReturn:
        """Uma frase no stderr e código 2."""
        self.print_usage(sys.stderr)
        print(f"Erro: {message}. As opções estão em --help.", file=sys.stderr)
        raise SystemExit(2)


def above_zero(kind: type, most: float = math.inf) -> Callable[[str], int | float]:
    """O `type=` de uma opção numérica que só vale acima de zero, e até `most`."""
    limit = "" if most == math.inf else f" e até {most}"
    return _number(kind, lambda x: 0 < x <= most and x < math.inf, f"maior que zero{limit}")


def from_zero(kind: type, below: float) -> Callable[[str], int | float]:
    """O `type=` de uma opção numérica que vale de zero até antes de `below`."""
    return _number(kind, lambda x: 0 <= x < below, f"de 0 até antes de {below}")


def _number(kind: type, accepts: Callable, wanted: str) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        with suppress(ValueError):
            if accepts(value := kind(text)):  # um nan não é maior nem menor que nada
                return value
        what = "inteiro" if kind is int else "número"
        raise argparse.ArgumentTypeError(f"esperava um {what} {wanted}, e veio {text!r}")

    return parse


seed = from_zero(int, 2**32)  # o que o numpy aceita como semente


def simple_name(text: str) -> str:
    """O `type=` de uma opção que dá nome a arquivos: letras, números, ponto, hífen e sublinhado."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        message = f"use só letras, números, ponto, hífen e sublinhado, e veio {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text


def reason(error: Exception) -> str:
    """Em português, por que um arquivo não se leu ou não se gravou."""
    if isinstance(error, json.JSONDecodeError):
        line = f"linha {error.lineno}, " if error.lineno > 1 else ""
        return f"não é JSON a partir da {line}coluna {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"não está em UTF-8, a partir do byte {error.start}; grave-o em UTF-8"
    if isinstance(error, RecursionError):
        return "não é JSON: tem colchetes demais, uns dentro dos outros"
    if "int_max_str_digits" in str(error):
        return "não é JSON: um número tem algarismos demais"
    return REASONS.get(getattr(error, "errno", None), str(error))


def run_main(main: Callable[..., int | None], *arguments: object) -> int:
    """Executa `main(*arguments)` e devolve o código de saída do processo.

    Um erro do usuário, um arquivo que não se abre ou não se grava e a memória que falta viram uma
    frase e código 2; Ctrl-C vira 130. Um defeito nosso mostra o traceback inteiro.
    """
    try:
        code = main(*arguments) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("\nInterrompido.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `… | head` já leu o que queria
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in REASONS:
            raise
        where = error.filename2 or error.filename or "o que era preciso"
        message = (
            f"não consegui ler ou gravar {where}: {reason(error)}. Confira o caminho e o disco."
        )
    except (MemoryError, RuntimeError) as error:
        # O torch, no processador, só o diz no texto.
        if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, str(error)):
            raise
        message = "faltou memória. Feche outros programas, ou diminua o lote e os comprimentos."
    print(f"Erro: {message}", file=sys.stderr)
    return 2


def banner(number: int, title: str) -> None:
    """Anuncia um passo da lição."""
    print(f"\n{'=' * 78}\n{number}. {title}\n{'=' * 78}", flush=True)


def conclude(checks: dict[str, bool]) -> dict[str, bool]:
    """Mostra as conferências de uma lição; devolve as mesmas.

    Raises:
        UserError: uma delas falhou.
    """
    for text, passed in checks.items():
        print(f"[{'certo' if passed else 'ERRADO'}] {text}")
    if not all(checks.values()):
        raise UserError("uma conferência falhou; veja a linha com ERRADO.")
    return checks


def progress(items=None, label: str = "", unit: str = "", total: int | None = None) -> tqdm:
    """Uma barra com o tempo que falta, em stderr; sem `items`, avança por `update`."""
    nothing = total == 0 or (isinstance(items, Sized) and len(items) == 0)
    return tqdm(items, label, total, unit=unit, mininterval=0.5, disable=nothing)
