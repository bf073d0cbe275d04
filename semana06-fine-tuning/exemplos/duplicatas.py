"""Achar mensagens quase iguais entre um milhão, sem comparar todas com todas: MinHash e LSH.

Cada mensagem vira o conjunto das suas sequências de 5 letras. Embaralhe todas as sequências
possíveis: a chance de duas mensagens terem a mesma primeira é o seu índice de Jaccard J (Broder,
1997). Com 320 embaralhamentos a mensagem cabe em 320 números; de 5 em 5, são 64 faixas, e quem
coincide numa faixa inteira é candidato (Indyk e Motwani, 1998): com J = 0,6, 99% dos pares; com
J = 0,1, 0,06%. Só os candidatos são comparados de verdade.

O que se guarda: 264 bytes por mensagem, num arquivo; na memória, uma faixa de meio milhão por vez.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy

LETTERS = 5  # com 3, duas mensagens quaisquer já teriam muitas em comum, e candidatos demais
PERMUTATIONS, BANDS = 320, 64
ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789"
PART = 500_000  # mensagens de uma faixa na memória ao mesmo tempo
SEED = 6

SHORT_FORMS = {
    "vc": "voce", "vcs": "voces", "n": "nao", "q": "que", "pra": "para", "pro": "para o",
    "pq": "porque", "qts": "quantos", "qtos": "quantos", "qto": "quanto", "qnd": "quando",
    "hj": "hoje", "ta": "esta", "to": "estou", "mt": "muito", "td": "tudo", "tb": "tambem",
    "tbm": "tambem", "msm": "mesmo", "cmg": "comigo", "msg": "mensagem",
}  # fmt: skip
GREETING = re.compile(r"^(?:(?:oi|ola|bom dia|boa tarde|boa noite|prezados|pessoal|gente)\b ?)+")
TOKEN = re.compile(r"[^\W_]+")
MARKS = dict.fromkeys(range(0x300, 0x370))  # os acentos, separados das letras pela forma NFKD


def normal(text: str) -> str:
    """A mensagem sem o que não muda o pedido: acentos, pontuação, abreviaturas, saudação.

    Exemplo:
        >>> normal("Oi, vcs entregam domingo??") == normal("vocês entregam domingo?")
        True
    """
    text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(MARKS)
    words = " ".join(SHORT_FORMS.get(word, word) for word in TOKEN.findall(text))
    return GREETING.sub("", words) or words


def shingles(text: str) -> set[str]:
    """As sequências de `LETTERS` letras de um texto já normalizado, com um espaço em cada ponta."""
    padded = f" {text} "
    return {padded[i : i + LETTERS] for i in range(max(1, len(padded) - LETTERS + 1))}


def jaccard(left: set, right: set) -> float:
    """Tamanho da interseção sobre o da união; 0 para dois vazios."""
    return len(left & right) / len(left | right) if left or right else 0.0


class MinHash:
    """As assinaturas: em cada embaralhamento, o menor lugar entre as sequências da mensagem.

    Embaralhar de verdade 37⁵ sequências não cabe na memória: cada embaralhamento é uma conta,
    (a·x + b) mod 2⁶⁴, com a ímpar e x já misturado (Carter e Wegman, 1979).
    """

    def __init__(self, seed: int = SEED) -> None:
        rng = numpy.random.default_rng(seed)
        self.a = rng.integers(0, 2**63, PERMUTATIONS, dtype=numpy.uint64) * 2 + 1
        self.b = rng.integers(0, 2**63, PERMUTATIONS, dtype=numpy.uint64)
        self.mixers = rng.integers(0, 2**63, PERMUTATIONS // BANDS, dtype=numpy.uint64) * 2 + 1
        self.codes = numpy.zeros(128, dtype=numpy.uint64)
        for code, letter in enumerate(ALPHABET):
            self.codes[ord(letter)] = code

    def signature(self, text: str) -> numpy.ndarray:
        """Assinatura de um texto normalizado: [PERMUTATIONS], de 64 bits."""
        padded = f" {text} ".ljust(LETTERS)
        points = numpy.frombuffer(padded.encode("utf-32-le"), dtype=numpy.uint32)
        # Letras de outros alfabetos dividem os códigos: dão candidatos a mais, nunca a menos.
        letters = self.codes[numpy.where(points < 128, points, 97 + points % 26)]
        numbers = letters[: len(letters) - LETTERS + 1]
        for place in range(1, LETTERS):
            numbers = numbers * numpy.uint64(len(ALPHABET)) + letters[place:][: len(numbers)]
        numbers = (numbers + 1) * numpy.uint64(0x9E3779B97F4A7C15)
        numbers ^= numbers >> numpy.uint64(31)
        return (numbers[:, None] * self.a + self.b).min(axis=0)

    def bands(self, signature: numpy.ndarray) -> numpy.ndarray:
        """As faixas de uma assinatura: um número de 32 bits para cada 5 posições, [BANDS]."""
        mixed = numpy.zeros(BANDS, dtype=numpy.uint64)
        for column, mixer in zip(signature.reshape(BANDS, -1).T, self.mixers, strict=True):
            mixed = (mixed ^ column) * mixer
            mixed ^= mixed >> numpy.uint64(29)
        return mixed.astype(numpy.uint32)


class SignatureFile:
    """As faixas de todas as mensagens, num arquivo em disco; a memória não cresce com elas.

    O arquivo é uma fila de blocos; em cada um, os números das linhas e depois faixa por faixa, para
    que ler uma faixa não leia as outras.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.blocks: list[int] = []  # mensagens de cada bloco
        self.file = path.open("wb")
        self.hasher = MinHash()

    def add(self, rows: list[tuple[int, str]]) -> None:
        """Acrescenta um bloco de mensagens: (linha, texto normalizado)."""
        bands = [self.hasher.bands(self.hasher.signature(text)) for _, text in rows]
        self.file.write(numpy.array([row for row, _ in rows], dtype=numpy.int64).tobytes())
        self.file.write(numpy.stack(bands, axis=1).tobytes())
        self.blocks.append(len(rows))
        self.count += len(rows)

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Pares (anterior, posterior) que coincidem numa faixa; um par pode vir mais de uma vez.

        Num grupo de k mensagens iguais, cada uma é comparada com a primeira e com a anterior:
        2k comparações e não k²/2.
        """
        self.file.close()
        parts = max(1, -(-self.count // PART))
        for band in range(BANDS if self.count else 0):
            for part in range(parts):
                rows, hashes = self._column(band, part, parts)
                order = numpy.lexsort((rows, hashes))
                rows, hashes = rows[order], hashes[order]
                same = numpy.flatnonzero(hashes[1:] == hashes[:-1]) + 1
                yield from self._pairs(rows, same)

    @staticmethod
    def _pairs(rows: numpy.ndarray, same: numpy.ndarray) -> Iterator[tuple[int, int]]:
        first, last = 0, -1
        for place in same.tolist():
            if place != last + 1 or last < 0:
                first = place - 1
            last = place
            yield int(rows[first]), int(rows[place])
            if first != place - 1:
                yield int(rows[place - 1]), int(rows[place])

    def _column(self, band: int, part: int, parts: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Os números das linhas e a faixa `band` delas, só as que caem em `part`."""
        rows, hashes = [], []
        start = 0
        with self.path.open("rb") as file:
            for size in self.blocks:
                file.seek(start)
                numbers = numpy.frombuffer(file.read(8 * size), dtype=numpy.int64)
                file.seek(start + 8 * size + 4 * size * band)
                column = numpy.frombuffer(file.read(4 * size), dtype=numpy.uint32)
                chosen = column % numpy.uint32(parts) == part
                rows.append(numbers[chosen])
                hashes.append(column[chosen])
                start += (8 + 4 * BANDS) * size
        return numpy.concatenate(rows), numpy.concatenate(hashes)
