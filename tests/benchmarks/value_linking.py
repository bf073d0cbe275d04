"""Quanto custa ligar valores num banco grande: o tempo e a memória do índice, e os ms por pergunta.

    python tests/benchmarks/value_linking.py      # um milhão de valores, em cinco colunas; 1 minuto

Os nomes são inventados, de duas a quatro palavras, e uma sexta coluna já não cabe no limite. Cada
pergunta nomeia um valor: como no banco, sem acentos e em maiúsculas, com uma letra a menos, e assim
numa frase de 500 caracteres.

Medido em 2 núcleos (2026-11): um milhão de valores se indexam em 15 s e ocupam 281 MiB. Uma
pergunta comum leva 1 ms, com um erro de digitação 3 (p95: 4), e uma de 500 caracteres 19 (p95: 25).
"""

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from comum import tables
from comum.numbers import MIB, decimal
from comum.paths import WEEK_DIR
from comum.text import without_accents

import psutil

PROJECT = WEEK_DIR / "mini-projeto" / "mini_projeto_fine_tuning_especializado"
SYLLABLES = "ba ção do ve li má ro ti nu sa ga ler pi cão mes fur ju xe quin zé tra blu nau"
QUESTION = "quanto gastou {} no ano passado, sem os cancelados?"
FILLER = " e também as outras compras da mesma gente em cada cidade" * 10
KINDS = {
    "como no banco": lambda name, rng: QUESTION.format(name),
    "em maiúsculas": lambda name, rng: without_accents(QUESTION.format(name)).upper(),
    "com um erro": lambda name, rng: QUESTION.format(mistyped(name, rng)),
    "500 caracteres": lambda name, rng: (QUESTION.format(mistyped(name, rng)) + FILLER)[:500],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200, help="de cada tipo")
    count = parser.parse_args().questions
    sys.path.insert(0, str(PROJECT))
    from loja_sql.config import load_config
    from loja_sql.questions import linking

    rng, rows = random.Random(6), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grande.sqlite"
        names = make_up(path, linking.DATABASE_LIMIT // linking.COLUMN_LIMIT + 1, linking, rng)
        config = load_config(None, [f"database.custom={path}", "data.custom=x"])
        process = psutil.Process()
        before, started = process.memory_info().rss, time.perf_counter()
        context = linking.context(config)
        seconds = time.perf_counter() - started
        grown = (process.memory_info().rss - before) / MIB
        print(f"Índice: {decimal(seconds, 1)} s, {decimal(grown)} MiB")
        for kind, ask in KINDS.items():
            times, right = [], 0
            for name in rng.sample(names[: linking.DATABASE_LIMIT], count):
                question = ask(name, rng)
                started = time.perf_counter()
                found = context.links(question)
                times.append(1000 * (time.perf_counter() - started))
                right += name in [link.value for link in found]
            times.sort()
            measured = (statistics.median(times), times[int(0.95 * count)], times[-1])
            share = decimal(100 * right / count, 1, "%")
            rows.append([kind, *(decimal(value, 1) for value in measured), share])
    tables.show(["pergunta", "p50 ms", "p95 ms", "máximo ms", "nomeado na dica"], rows)


def make_up(path: Path, columns: int, linking, rng: random.Random) -> list[str]:
    """Grava uma tabela com `columns` colunas cheias, sem repetir valor; devolve-os por coluna."""
    size, syllables = linking.COLUMN_LIMIT, SYLLABLES.split()
    found: dict[str, None] = {}
    while len(found) < columns * size:
        words = (rng.choices(syllables, k=rng.randint(2, 4)) for _ in range(rng.randint(2, 4)))
        found[" ".join("".join(word).capitalize() for word in words)] = None
    names = list(found)
    with closing(sqlite3.connect(path)) as bank, bank:
        titles = ", ".join(f"c{number} TEXT" for number in range(columns))
        bank.execute(f"CREATE TABLE gente ({titles})")
        rows = zip(*(names[i * size : (i + 1) * size] for i in range(columns)), strict=True)
        bank.executemany(f"INSERT INTO gente VALUES ({', '.join('?' * columns)})", rows)
    return names


def mistyped(name: str, rng: random.Random) -> str:
    """O nome sem uma das letras, menos a primeira."""
    place = rng.randrange(1, len(name))
    return name[:place] + name[place + 1 :]


if __name__ == "__main__":
    main()
