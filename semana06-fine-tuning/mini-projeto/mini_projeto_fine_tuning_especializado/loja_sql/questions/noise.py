"""Defeitos de digitação e de registro que gente de verdade comete nas perguntas."""

import random

from comum.text import without_accents

from loja_sql.questions.slots import grammar

CLEAN = "limpa"
NOISE_RATE = 0.35  # fração das perguntas geradas ou variadas que leva um defeito


def add_noise(question: str, rng: random.Random) -> tuple[str, str]:
    """Um defeito sorteado: (pergunta, nome do defeito em `KINDS`).

    Nomes próprios e números não recebem erro de digitação: a pergunta continua respondível.
    """
    kind = rng.choice(list(KINDS))
    return KINDS[kind](question, rng), kind


def typo(text: str, rng: random.Random) -> str:
    """Um erro de digitação numa palavra comprida e minúscula: nomes próprios ficam inteiros."""
    words = text.split(" ")
    targets = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w.islower()]
    if not targets:
        return text
    position = rng.choice(targets)
    word = words[position]
    at = rng.randrange(1, len(word) - 2)
    mistakes = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # troca de vizinhas
        word[:at] + word[at + 1 :],  # letra engolida
        word[:at] + word[at] + word[at:],  # letra dobrada
    )
    words[position] = mistakes[rng.randrange(3)]
    return " ".join(words)


def _abbreviated(text: str, rng: random.Random) -> str:
    short = grammar()["noise"]["abbreviations"]
    return " ".join(short.get(word.lower(), word) for word in text.split(" "))


def _greeted(text: str, rng: random.Random) -> str:
    words = grammar()["noise"]
    if rng.random() < 0.5:
        return rng.choice(words["greetings"]) + text[0].lower() + text[1:]
    return text.rstrip("?.") + rng.choice(words["endings"])


KINDS = {
    "sem acentos": lambda text, rng: without_accents(text),
    "minúsculas": lambda text, rng: text.lower(),
    "maiúsculas": lambda text, rng: text.upper(),
    "erro de digitação": typo,
    "abreviada": _abbreviated,
    "saudação": _greeted,
    "sem pontuação": lambda text, rng: text.rstrip("?.!").lower(),
}
