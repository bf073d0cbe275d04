"""Defeitos de digitação e de registro que gente de verdade comete nas perguntas.

O SQL não muda: o modelo aprende a ler através do defeito, e as dicas de valores acham o nome certo.
Números, em algarismos ou por extenso, nunca recebem erro, nem o que se procura com LIKE.
"""

import random
import re
from collections.abc import Callable, Set
from dataclasses import replace
from functools import cache

from comum.text import fold, without_accents, words

from rapidfuzz import process
from rapidfuzz.distance import OSA

from loja_sql.questions.numerals import NUMERALS
from loja_sql.questions.reading import Row
from loja_sql.questions.slots import grammar, plain
from loja_sql.shop import DATA_DIR, person_names

TYPO = "erro de digitação"
TYPO_RATE = 0.3  # fração das perguntas de treino com letras erradas
STYLE_RATE = 0.2  # e com outro registro, sorteado à parte: as duas coisas podem coincidir
SECOND_TYPO = 0.25
KEYBOARD = ("qwertyuiop", "asdfghjklç", "zxcvbnm")  # ABNT2
# Onde a letra errada ou o espaço perdido poderia virar a pergunta do avesso.
FRAGILE = {"nao", "sem", "nem", "nunca", "mais", "menos", "ate", "exceto", "junho", "julho"}
LONG_WORD = re.compile(r"(?<!\w)[^\W\d_]{4,}(?!\w)")
TWO_WORDS = re.compile(r"(?<!\w)([^\W\d_]{2,}) (?=([^\W\d_]{3,})(?!\w))")
LIKE = re.compile(r"LIKE '([^']*)'")


def noised(rows: list[Row], rng: random.Random) -> list[Row]:
    """As linhas com defeitos em parte delas; a que repete uma anterior leva um erro com certeza."""
    seen, result = set(), []
    for row in rows:
        question, wording = row.question, row.wording
        if rng.random() < STYLE_RATE:
            name = rng.choice(list(STYLES))
            question = STYLES[name](question, rng)
            wording = wording if question == row.question else name
        if rng.random() < TYPO_RATE or plain(question) in seen:
            mistaken = _mistaken(question, rng, searched(row.sql))
            question, wording = mistaken, wording if mistaken == question else TYPO
        seen.add(plain(question))
        result.append(replace(row, question=question, wording=wording))
    return result


def misspelt(rows: list[Row]) -> list[Row]:
    """As linhas de um teste com um só erro de letra em cada pergunta, sempre o mesmo."""
    found = []
    for row in rows:
        question = typo(row.question, random.Random(row.question), searched(row.sql))
        found.append(replace(row, id=f"{row.id}-typo", question=question, wording=TYPO))
    return found


def searched(sql: str) -> set[str]:
    """As palavras que a consulta procura dentro de um texto: `LIKE '%mesa%'` procura `mesa`."""
    return {word for pattern in LIKE.findall(sql) for word in words(pattern)}


def typo(text: str, rng: random.Random, spared: Set[str] = frozenset()) -> str:
    """Um só erro de letra, numa palavra de quatro letras ou mais, fora as de `spared`.

    A palavra errada não é outra palavra que se use nas perguntas, nem fica tão perto de outro nome
    quanto do certo. Sem palavra que sirva, o texto volta como estava.
    """
    # Nomes próprios também se erram, mas menos.
    chances = [(rng.random() * (2 if m[0].islower() else 1), m) for m in LONG_WORD.finditer(text)]
    for _, found in sorted(chances, key=lambda pair: pair[0], reverse=True):
        word = found[0]
        if fold(word) in spared | FRAGILE | NUMERALS:
            continue
        for slip in rng.sample(SLIPS, len(SLIPS)):
            mistaken = slip(word, rng.randrange(1, len(word) - 1), rng)
            if mistaken != word and not _misleads(fold(word), fold(mistaken)):
                return text[: found.start()] + mistaken + text[found.end() :]
    return text


def _neighbour(word: str, at: int, rng: random.Random) -> str:
    letter = word[at]
    near = rng.choice(_keys_beside().get(letter.lower(), letter))
    return word[:at] + (near.upper() if letter.isupper() else near) + word[at + 1 :]


@cache
def _keys_beside() -> dict[str, list[str]]:
    """As teclas que encostam em cada uma; cada fileira começa meia tecla depois da de cima."""
    beside = {}
    for line, keys in enumerate(KEYBOARD):
        for place, key in enumerate(keys):
            around = [(0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0)]
            spots = [(line + down, place + right) for down, right in around]
            beside[key] = [
                KEYBOARD[y][x] for y, x in spots if y in range(3) and x in range(len(KEYBOARD[y]))
            ]
    return beside


SLIPS: tuple[Callable[[str, int, random.Random], str], ...] = (
    _neighbour,
    lambda word, at, rng: word[:at] + word[at + 1 :],  # engolida
    lambda word, at, rng: word[:at] + word[at] + word[at:],  # dobrada
    lambda word, at, rng: word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # trocada
)


def _misleads(word: str, mistaken: str) -> bool:
    """Diz se `mistaken` se lê como outra palavra, ou como outro nome próximo."""
    common, names = _vocabulary()
    if mistaken in common or mistaken == word:
        return True
    close = process.extract(mistaken, names, scorer=OSA.distance, score_cutoff=1, limit=2)
    return any(name != word for name, *_ in close)


@cache
def _vocabulary() -> tuple[set[str], list[str]]:
    """As palavras das perguntas, dos valores e da gramática, e só as dos valores."""
    people = " ".join(sum(person_names(), []))
    names = set(words(people + (DATA_DIR / "loja_catalogo.yaml").read_text(encoding="utf-8")))
    common = set(names)
    for path in (DATA_DIR / "gramatica.yaml", DATA_DIR / "perguntas_curadas.jsonl"):
        common.update(words(path.read_text(encoding="utf-8")))
    return common, sorted(name for name in names if len(name) > 3)


def _split(text: str, rng: random.Random, spared: Set[str]) -> str:
    """Um espaço a mais no meio de uma palavra comprida."""
    kept = spared | FRAGILE | NUMERALS
    targets = [m for m in LONG_WORD.finditer(text) if len(m[0]) > 5 and fold(m[0]) not in kept]
    if not targets:
        return typo(text, rng, spared)
    found = rng.choice(targets)
    at = rng.randrange(found.start() + 2, found.end() - 1)
    return f"{text[:at]} {text[at:]}"


def _joined(text: str, rng: random.Random, spared: Set[str]) -> str:
    """Duas palavras sem o espaço entre elas."""
    kept = spared | FRAGILE | NUMERALS
    targets = [m for m in TWO_WORDS.finditer(text) if not kept & {fold(m[1]), fold(m[2])}]
    if not targets:
        return typo(text, rng, spared)
    at = rng.choice(targets).end()
    return text[: at - 1] + text[at:]


def _mistaken(text: str, rng: random.Random, spared: Set[str]) -> str:
    """Um erro de digitação, às vezes dois; quase sempre de letra."""
    for _ in range(1 + (rng.random() < SECOND_TYPO)):
        mistake = rng.choices((typo, _split, _joined), (8, 1, 1))[0]
        text = mistake(text, rng, spared)
    return text


def _abbreviated(text: str, rng: random.Random) -> str:
    short = grammar()["noise"]["abbreviations"]
    return " ".join(short.get(word.lower(), word) for word in text.split(" "))


def _greeted(text: str, rng: random.Random) -> str:
    options = grammar()["noise"]
    if rng.random() < 0.5:
        return rng.choice(options["greetings"]) + text[0].lower() + text[1:]
    return text.rstrip("?.") + rng.choice(options["endings"])


STYLES: dict[str, Callable[[str, random.Random], str]] = {
    "sem acentos": lambda text, rng: without_accents(text),
    "minúsculas": lambda text, rng: text.lower(),
    "maiúsculas": lambda text, rng: text.upper(),
    "abreviada": _abbreviated,
    "saudação": _greeted,
    "sem pontuação": lambda text, rng: text.rstrip("?.!").lower(),
}
