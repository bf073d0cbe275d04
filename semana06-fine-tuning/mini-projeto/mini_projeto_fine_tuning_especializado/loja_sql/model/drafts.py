"""Rascunho por n-gramas: o SQL do treino adivinha os próximos tokens, e o modelo só os confere.

É a decodificação especulativa sem segundo modelo (Leviathan et al., 2023, arXiv:2211.17192; a
tabela de n-gramas como rascunho: Stewart et al., 2024, arXiv:2411.03786). Conferir vários tokens
numa passada custa quase o mesmo que gerar um, e só fica o que o modelo teria escrito: a resposta
gulosa é a mesma. SQL se presta a isso, porque depois de `GROUP` quase sempre vem `BY`. Quantos
tokens se adivinham por vez é o llama.cpp que decide (oito).
"""

import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

SLOTS_PER_NGRAM = 4  # LLAMA_NGRAM_MAX
DYNAMIC, STATIC = "rascunho-ngramas.bin", "rascunho-bigramas.bin"
SIZES = {
    DYNAMIC: range(1, SLOTS_PER_NGRAM + 1),
    STATIC: (2,),
}  # o llama.cpp confere uma com a outra


def count_ngrams(sequences: list[list[int]], sizes: Iterable[int]) -> dict[tuple, Counter]:
    """Quantas vezes cada token segue cada n-grama, para n em `sizes`.

    >>> count_ngrams([[5, 6, 5, 7]], [1])[(5,)]
    Counter({6: 1, 7: 1})
    """
    table = defaultdict(Counter)
    for ids in sequences:
        for size in sizes:
            for end in range(size, len(ids)):
                table[tuple(ids[end - size : end])][ids[end]] += 1
    return table


def write_drafts(folder: Path, sequences: list[list[int]]) -> None:
    """Grava em `folder` as duas tabelas, cada uma como um `lookup-cache` do llama.cpp.

    Para cada n-grama: quatro inteiros de 32 bits (-1 nos que sobram), o número de continuações e,
    para cada uma, o token e a contagem.
    """
    for name, sizes in SIZES.items():
        temporary = folder / f".{name}.{os.getpid()}"
        with temporary.open("wb") as stream:
            for ngram, following in count_ngrams(sequences, sizes).items():
                padded = ngram + (-1,) * (SLOTS_PER_NGRAM - len(ngram))
                stream.write(struct.pack("<5i", *padded, len(following)))
                for pair in following.items():
                    stream.write(struct.pack("<2i", *pair))
        os.replace(temporary, folder / name)


def drafts_ready(folder: Path) -> bool:
    """Diz se há as duas tabelas em `folder`."""
    return all((folder / name).is_file() for name in SIZES)
