"""Defeitos de digitação e de registro que gente de verdade comete nas perguntas."""

import random

from comum.text import without_accents

CLEAN = "limpa"
NOISE_RATE = 0.35  # fração das perguntas geradas ou variadas que leva um defeito
KINDS = (
    "sem acentos",
    "minúsculas",
    "maiúsculas",
    "erro de digitação",
    "abreviada",
    "saudação",
    "sem pontuação",
)
GREETINGS = ["oi, ", "bom dia, ", "boa tarde, ", "olá! ", "por favor, ", "opa, ", "ei, "]
ENDINGS = [" por favor", " pfv", ", obrigado", " obg", ", ok?", "??"]
ABBREVIATIONS = {
    "quantos": "qtos",
    "quantas": "qtas",
    "quantidade": "qtd",
    "você": "vc",
    "que": "q",
    "também": "tb",
    "para": "pra",
    "não": "n",
    "por": "p/",
    "clientes": "clts",
    "pedidos": "peds",
}


def add_noise(question: str, rng: random.Random) -> tuple[str, str]:
    """Um defeito sorteado: (pergunta, nome do defeito em `KINDS`).

    Nomes próprios e números não recebem erro de digitação: a pergunta continua respondível.
    """
    kind = rng.choice(KINDS)
    if kind == "sem acentos":
        return without_accents(question), kind
    if kind == "minúsculas":
        return question.lower(), kind
    if kind == "maiúsculas":
        return question.upper(), kind
    if kind == "erro de digitação":
        return typo(question, rng), kind
    if kind == "abreviada":
        return " ".join(ABBREVIATIONS.get(w.lower(), w) for w in question.split(" ")), kind
    if kind == "sem pontuação":
        return question.rstrip("?.!").lower(), kind
    if rng.random() < 0.5:
        return rng.choice(GREETINGS) + question[0].lower() + question[1:], kind
    return question.rstrip("?.") + rng.choice(ENDINGS), kind


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
