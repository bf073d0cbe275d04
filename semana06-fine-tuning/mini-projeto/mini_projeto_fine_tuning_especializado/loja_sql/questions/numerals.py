"""Os jeitos de escrever um número numa pergunta: por extenso, em milhares, em dúzias."""

import re

from comum.text import fold, words

from loja_sql.questions.slots import NUMBERS

TEENS = ["treze", "quatorze", "quinze", "dezesseis", "dezessete", "dezoito", "dezenove"]
TENS = ["vinte", "trinta", "quarenta", "cinquenta", "sessenta", "setenta", "oitenta", "noventa"]
HUNDREDS = "duzentos trezentos quatrocentos quinhentos seiscentos setecentos oitocentos novecentos"
SMALL = [*NUMBERS, *TEENS]  # de zero a dezenove
BIG = ["cem", *HUNDREDS.split()]
# As palavras de número, que não podem levar erro de digitação.
NUMERALS = {
    *words(" ".join([*SMALL, *TENS, *BIG])),
    *["catorze", "cento", "mil", "milhao", "milhoes", "meia", "meio", "duzia", "uma", "duas"],
    *(fold(hundred).replace("os", "as") for hundred in BIG[1:]),
}
DOZENS = {6: "meia dúzia", 12: "uma dúzia"}
FEMININE = re.compile(r"\w+(?:as|ões|oes|ades)$|vezes$|ufs$", re.IGNORECASE)


def spelled(number: int, feminine: bool = False) -> str:
    """Um número de 1 a 999.999 por extenso.

    >>> spelled(25), spelled(1200), spelled(202, feminine=True)
    ('vinte e cinco', 'mil e duzentos', 'duzentas e duas')
    """
    thousands, rest = divmod(number, 1000)
    parts = [_hundreds(rest)] if rest else []
    if thousands:
        head = "mil" if thousands == 1 else f"{_hundreds(thousands)} mil"
        joined = not rest or rest < 100 or rest % 100 == 0
        parts = [" e ".join([head, *parts])] if joined else [head, *parts]
    text = " ".join(parts)
    if feminine:
        text = re.sub(r"\bum\b", "uma", text).replace("dois", "duas").replace("entos", "entas")
    return text


def _hundreds(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    parts = [BIG[hundreds - 1]] if hundreds else []
    if hundreds == 1 and rest:
        parts = ["cento"]
    if rest >= len(SMALL):
        parts.append(TENS[rest // 10 - 2])
        rest %= 10
    return " e ".join([*parts, SMALL[rest]] if rest else parts)


def ways(number: int, noun: str = "", counted: bool = False) -> list[str]:
    """Como se escreve um número sem ser em algarismos corridos.

    Args:
        number: um inteiro positivo.
        noun: a palavra que vem depois, que decide o gênero e o "de" de "meio milhão de reais".
        counted: cabe "uma dúzia de" antes de `noun`.
    """
    feminine = bool(FEMININE.match(noun))
    of = " de" if noun in ("reais", "unidades", "peças", "itens") else ""
    short = number < 100 or (number < 10**6 and number % 50 == 0)
    found = [spelled(number, feminine)] if short else []
    if number >= 1000:
        found.append(f"{number:,}".replace(",", "."))
    if number >= 1000 and number % 100 == 0 and number < 10**6:
        thousands = f"{number / 1000:g}".replace(".", ",")
        found += [f"{thousands} mil", f"{thousands}k"]
    if number >= 10**6 and number % 10**5 == 0:
        millions = f"{number / 10**6:g}".replace(".", ",")
        found.append(f"{millions} {'milhão' if number < 2 * 10**6 else 'milhões'}{of}")
    if number == 500_000:
        found.append(f"meio milhão{of}")
    if number in DOZENS and counted and noun:
        found.append(f"{DOZENS[number]} de")
    return found
