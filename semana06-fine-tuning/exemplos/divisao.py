"""Dividir em treino, validação e teste sem que parentes fiquem dos dois lados, e conferir depois.

Parentes são mensagens parecidas ou da mesma conversa. A divisão é por grupo, por rótulo
(estratificada) e decidida por uma soma do conteúdo com a semente, não pela ordem do arquivo.
"""

import hashlib
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from duplicatas import normal

SPLITS = ("train", "validation", "test")
NGRAM = 4  # palavras
MAX_OVERLAP = 0.6  # de uma mensagem reservada, quanto pode estar numa só mensagem do treino


class Groups:
    """Conjuntos disjuntos (Tarjan, 1975) sobre as linhas 0 … n - 1: 4 bytes por linha."""

    def __init__(self, size: int) -> None:
        self.parent = array("i", range(size))

    def root(self, row: int) -> int:
        """A primeira linha do grupo de `row`."""
        parent = self.parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(self, left: int, right: int) -> None:
        """Junta os grupos das duas linhas."""
        low, high = sorted((self.root(left), self.root(right)))
        self.parent[high] = low


def shuffle_key(seed: int, text: str) -> int:
    """Um número de 62 bits que depende só da semente e do texto: a ordem do sorteio."""
    digest = hashlib.blake2b(f"{seed}|{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


@dataclass(frozen=True)
class Shares:
    """Quanto vai para validação e teste: frações, e o máximo de linhas de cada um.

    Um teste de 5.000 linhas já dá intervalos de 1,4 ponto; um maior só custa treino.
    """

    validation: float = 0.1
    test: float = 0.15
    max_rows: int = 5000


def assign(
    groups: Iterable[tuple[int, str, int]], counts: Counter, shares: Shares
) -> Iterator[tuple[int, str]]:
    """Dá a cada grupo a sua parte; entrega (grupo, parte).

    Args:
        groups: (grupo, rótulo, linhas), na ordem do sorteio.
        counts: linhas de cada rótulo.

    Em cada rótulo, os primeiros grupos enchem o teste, os seguintes a validação. Um grupo grande
    demais para o lugar que resta vai para o treino.
    """
    total = sum(counts.values())
    room: dict[tuple[str, str], int] = {}
    for label, rows in counts.items():
        for split, share in (("test", shares.test), ("validation", shares.validation)):
            quota = min(share, shares.max_rows / total)
            room[split, label] = round(quota * rows)
    for group, label, size in groups:
        for split in ("test", "validation"):
            if room[split, label] >= size:
                room[split, label] -= size
                yield group, split
                break
        else:
            yield group, "train"


# --- a conferência --------------------------------------------------------------------------------


def ngrams(text: str) -> set[str]:
    """Sequências de `NGRAM` palavras de um texto normalizado; um mais curto é uma só."""
    words = text.split()
    return {" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


class Index:
    """As sequências de palavras das mensagens reservadas, para ver quais outra mensagem contém."""

    def __init__(self) -> None:
        self.where: dict[str, list[int]] = defaultdict(list)
        self.sizes: dict[int, int] = {}

    def add(self, number: int, text: str) -> None:
        """Guarda a mensagem reservada de número `number`, já normalizada."""
        grams = ngrams(text)
        self.sizes[number] = len(grams)
        for gram in grams:
            self.where[gram].append(number)

    def contained(self, text: str) -> list[tuple[int, float]]:
        """As reservadas que `text` contém em boa parte: (número, sobreposição)."""
        shared = Counter(n for gram in ngrams(text) for n in self.where.get(gram, ()))
        overlaps = ((number, times / self.sizes[number]) for number, times in shared.items())
        return [(number, overlap) for number, overlap in overlaps if overlap >= MAX_OVERLAP]


def leaks(held_out: Path, train: Path, text_of) -> list[dict]:
    """Mensagens reservadas que o treino contém, inteiras ou em boa parte, da pior para a melhor.

    Lê os arquivos gravados, não o que o programa acha que gravou.

    Args:
        text_of: do objeto de uma linha, o texto a comparar.

    Returns:
        Uma entrada por vazamento: `reservada`, `treino` (textos) e `sobreposicao` (0 a 1).
    """
    texts = [text_of(json.loads(line)) for line in _lines(held_out)]
    index = Index()
    for number, text in enumerate(texts):
        index.add(number, normal(text))
    worst: dict[int, tuple[float, str]] = {}
    for line in _lines(train):
        text = text_of(json.loads(line))
        for number, overlap in index.contained(normal(text)):
            if overlap > worst.get(number, (0.0, ""))[0]:
                worst[number] = overlap, text
    found = [{"reservada": texts[n], "treino": text, "sobreposicao": round(overlap, 3)}
             for n, (overlap, text) in worst.items()]  # fmt: skip
    return sorted(found, key=lambda leak: -leak["sobreposicao"])


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file
