"""Um cálculo num processo só dele: o pico de memória e a velocidade são só dele."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from comum.terminal import UserError

Value = TypeVar("Value")


class Died(UserError):
    """O processo morreu sem resposta."""


def alone(function: Callable[..., Value], *arguments: object) -> Value:
    """Devolve `function(*arguments)`, calculado num processo novo, que acaba com a resposta.

    `function` é de um módulo (não um lambda), e o que vai e volta tem de caber no pickle. O
    processo nasce vazio: uma cópia deste traria o torch já em uso e a memória que ele ocupa.

    Raises:
        Died: o processo morreu sem resposta.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise Died(
            f"o processo de `{function.__name__}` morreu antes de responder, talvez por falta de "
            "memória. Feche outros programas e repita."
        ) from error
