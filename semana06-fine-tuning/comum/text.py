"""Comparar textos sem o que não muda o sentido: maiúsculas, acentos, pontuação."""

import re
import unicodedata
from collections.abc import Set

WORD = re.compile(r"[^\W_]+")
_MARKS = dict.fromkeys(range(0x300, 0x370))  # os acentos, separados das letras por NFD e NFKD


def without_accents(text: str) -> str:
    """As letras sem os acentos e a cedilha; o resto fica como está: `Ação já` vira `Acao ja`."""
    return _unmarked(text, "NFD")


def fold(text: str) -> str:
    """Em minúsculas, sem acentos e sem variantes tipográficas (`1º` é `1o`), para comparar."""
    return _unmarked(text.lower(), "NFKD")


def _unmarked(text: str, form: str) -> str:
    return text if text.isascii() else unicodedata.normalize(form, text).translate(_MARKS)


def words(text: str) -> list[str]:
    """As palavras e os números de um texto, já dobrados por `fold`."""
    return WORD.findall(fold(text))


def jaccard(left: Set, right: Set) -> float:
    """Tamanho da interseção sobre o da união; 0 para dois vazios (Jaccard, 1901)."""
    return len(left & right) / len(left | right) if left or right else 0.0
