"""BM25 (Robertson e Zaragoza, 2009): as perguntas do treino mais parecidas com uma nova.

Cada palavra em comum soma a sua raridade, com desconto para a repetida e a pergunta comprida.
"""

import math
from collections import Counter
from collections.abc import Sequence

from loja_sql.questions.slots import plain

K1, B = 1.2, 0.75  # os valores usuais do artigo


class Bm25:
    """Índice de textos curtos.

    >>> Bm25(["quantos clientes há?", "quantos produtos há?"]).nearest("clientes de MG", 1)
    [0]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(plain(text).split()) for text in texts]
        sizes = [sum(counts.values()) for counts in self._counts]
        mean = sum(sizes) / max(1, len(sizes)) or 1
        self._penalty = [K1 * (1 - B + B * size / mean) for size in sizes]
        seen = Counter(word for counts in self._counts for word in counts)
        count = len(texts)
        self._rarity = {w: math.log(1 + (count - n + 0.5) / (n + 0.5)) for w, n in seen.items()}

    def nearest(self, query: str, k: int) -> list[int]:
        """Índices dos `k` textos de maior pontuação, do mais parecido ao menos."""
        wanted = set(plain(query).split())

        def score(index: int) -> float:
            counts, penalty = self._counts[index], self._penalty[index]
            found = [(self._rarity[word], counts[word]) for word in wanted if word in counts]
            return sum(rarity * n * (K1 + 1) / (n + penalty) for rarity, n in found)

        return sorted(range(len(self._counts)), key=score, reverse=True)[:k]
