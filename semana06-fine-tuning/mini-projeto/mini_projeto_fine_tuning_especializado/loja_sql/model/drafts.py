"""Rascunho por n-gramas: o SQL do treino adivinha os próximos tokens, e o modelo só os confere.

É a decodificação especulativa sem segundo modelo (Leviathan et al., 2023, arXiv:2211.17192; a
tabela de n-gramas como rascunho: Stewart et al., 2024, arXiv:2411.03786). Conferir vários tokens
numa passada custa quase o mesmo que gerar um, e só fica o que o modelo teria escrito: a resposta
gulosa é a mesma. SQL se presta a isso, porque depois de `GROUP` quase sempre vem `BY`. Quantos
tokens se adivinham por vez é o llama.cpp que decide (oito).

O arquivo é o `lookup-cache` do llama.cpp: para cada n-grama, quatro inteiros de 32 bits (-1 nos que
sobram), o número de continuações e, para cada uma, o token e a contagem.
"""

import os
import struct
from collections import Counter, defaultdict
from pathlib import Path

SLOTS_PER_NGRAM = 4  # LLAMA_NGRAM_MAX
DYNAMIC, STATIC = "rascunho-ngramas.bin", "rascunho-bigramas.bin"
STATIC_SIZE = 2  # o llama.cpp confere os rascunhos contra bigramas

Table = dict[tuple[int, ...], Counter]


def count_ngrams(sequences: list[list[int]], sizes: range) -> Table:
    """Quantas vezes cada token segue cada n-grama, para n em `sizes`.

    >>> count_ngrams([[5, 6, 5, 7]], range(1, 2))[(5,)]
    Counter({6: 1, 7: 1})
    """
    table: Table = defaultdict(Counter)
    for ids in sequences:
        for size in sizes:
            for end in range(size, len(ids)):
                table[tuple(ids[end - size : end])][ids[end]] += 1
    return table


def write_drafts(folder: Path, sequences: list[list[int]]) -> None:
    """Grava em `folder` as duas tabelas que o llama.cpp lê: n-gramas de 1 a 4, e os bigramas."""
    _write(folder / DYNAMIC, count_ngrams(sequences, range(1, SLOTS_PER_NGRAM + 1)))
    _write(folder / STATIC, count_ngrams(sequences, range(STATIC_SIZE, STATIC_SIZE + 1)))


def drafts_ready(folder: Path) -> bool:
    """Diz se há as duas tabelas em `folder`."""
    return (folder / DYNAMIC).is_file() and (folder / STATIC).is_file()


def _write(path: Path, table: Table) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        for ngram, following in table.items():
            padded = ngram + (-1,) * (SLOTS_PER_NGRAM - len(ngram))
            stream.write(struct.pack("<5i", *padded, len(following)))
            for token, count in following.items():
                stream.write(struct.pack("<2i", token, count))
    os.replace(temporary, path)
