"""Achar mensagens quase iguais entre um milhão, sem comparar todas com todas: MinHash e LSH.

Cada mensagem vira o conjunto dos seus trigramas de letras. Embaralhe a lista de todos os trigramas
possíveis: a chance de duas mensagens terem o mesmo primeiro trigrama é o seu índice de Jaccard
(Broder, 1997). Com 128 embaralhamentos a mensagem cabe em 128 números; juntos de 4 em 4, dão 32
faixas, e quem coincide numa faixa inteira é candidato (Indyk e Motwani, 1998). Só os candidatos são
comparados de verdade.

O que se guarda: 264 bytes por mensagem, num arquivo; na memória, uma faixa de 250 mil por vez.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy

PERMUTATIONS, BANDS = 128, 32
ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789"
TRIGRAMS = len(ALPHABET) ** 3
RECORD = numpy.dtype([("row", "<i8"), ("bands", "<u8", BANDS)])
CHUNK = 8192  # registros lidos por vez
PART = 250_000  # mensagens de uma faixa na memória ao mesmo tempo
SEED = 6

SHORT_FORMS = {
    "vc": "voce", "vcs": "voces", "n": "nao", "q": "que", "pra": "para", "pro": "para o",
    "pq": "porque", "qts": "quantos", "qtos": "quantos", "qto": "quanto", "qnd": "quando",
    "hj": "hoje", "ta": "esta", "to": "estou", "mt": "muito", "td": "tudo", "tb": "tambem",
    "tbm": "tambem", "msm": "mesmo", "cmg": "comigo", "msg": "mensagem",
}  # fmt: skip
GREETING = re.compile(r"^(?:(?:oi|ola|bom dia|boa tarde|boa noite|prezados|pessoal|gente)\b ?)+")
TOKEN = re.compile(r"[^\W_]+")


def normal(text: str) -> str:
    """A mensagem sem o que não muda o pedido: acentos, pontuação, abreviaturas, saudação.

    Exemplo:
        >>> normal("Oi, vcs entregam domingo??") == normal("vocês entregam domingo?")
        True
    """
    text = text.lower()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = " ".join(SHORT_FORMS.get(word, word) for word in TOKEN.findall(text))
    return GREETING.sub("", words) or words


def shingles(text: str) -> set[str]:
    """Os trigramas de letras de um texto já normalizado, com um espaço em cada ponta."""
    padded = f" {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def jaccard(left: set, right: set) -> float:
    """Tamanho da interseção sobre o da união; 0 para dois vazios."""
    return len(left & right) / len(left | right) if left or right else 0.0


class MinHash:
    """As assinaturas: para cada embaralhamento, o menor lugar que um trigrama da mensagem ocupa."""

    def __init__(self, seed: int = SEED) -> None:
        rng = numpy.random.default_rng(seed)
        columns = [rng.permutation(TRIGRAMS).astype(numpy.uint16) for _ in range(PERMUTATIONS)]
        self.places = numpy.stack(columns, axis=1)  # [trigramas, embaralhamentos]
        self.mixers = rng.integers(0, 2**63, PERMUTATIONS // BANDS, dtype=numpy.uint64) | 1
        self.codes = numpy.zeros(128, dtype=numpy.int64)
        for code, letter in enumerate(ALPHABET):
            self.codes[ord(letter)] = code

    def signature(self, text: str) -> numpy.ndarray:
        """Assinatura de um texto normalizado: [PERMUTATIONS]."""
        points = numpy.frombuffer(f" {text} ".encode("utf-32-le"), dtype=numpy.uint32)
        # Letras de outros alfabetos dividem os códigos: dão candidatos a mais, nunca a menos.
        letters = self.codes[numpy.where(points < 128, points, 97 + points % 26)]
        base = len(ALPHABET)
        numbers = (letters[:-2] * base + letters[1:-1]) * base + letters[2:]
        return self.places[numbers].min(axis=0)

    def bands(self, signature: numpy.ndarray) -> numpy.ndarray:
        """As faixas de uma assinatura: um número de 64 bits para cada 4 posições, [BANDS]."""
        grouped = signature.reshape(BANDS, -1).astype(numpy.uint64) + 1
        mixed = numpy.zeros(BANDS, dtype=numpy.uint64)
        for column, mixer in zip(grouped.T, self.mixers, strict=True):
            mixed = (mixed ^ column) * mixer
            mixed ^= mixed >> numpy.uint64(29)
        return mixed


class SignatureFile:
    """As faixas de todas as mensagens, num arquivo em disco; a memória não cresce com elas."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.file = path.open("wb")
        self.hasher = MinHash()

    def add(self, rows: list[tuple[int, str]]) -> None:
        """Acrescenta mensagens: (linha, texto normalizado)."""
        records = numpy.empty(len(rows), dtype=RECORD)
        for place, (row, text) in enumerate(rows):
            records[place] = row, self.hasher.bands(self.hasher.signature(text))
        self.file.write(records.tobytes())
        self.count += len(rows)

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Pares (anterior, posterior) que coincidem numa faixa; um par pode vir mais de uma vez.

        Num grupo de k mensagens iguais, cada uma é comparada com a primeira e com a anterior:
        2k comparações e não k²/2.
        """
        self.file.close()
        parts = max(1, -(-self.count // PART))
        for band in range(BANDS):
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
        rows, hashes = [], []
        with self.path.open("rb") as file:
            while data := file.read(CHUNK * RECORD.itemsize):
                records = numpy.frombuffer(data, dtype=RECORD)
                column = records["bands"][:, band]
                chosen = column % numpy.uint64(parts) == part
                rows.append(records["row"][chosen])
                hashes.append(column[chosen])
        if not rows:
            return numpy.empty(0, dtype=numpy.int64), numpy.empty(0, dtype=numpy.uint64)
        return numpy.concatenate(rows), numpy.concatenate(hashes)
