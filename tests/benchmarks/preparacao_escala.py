"""Quanto custa preparar muitas linhas: tempo e pico de memória do preparo do dia 6.

    python tests/benchmarks/preparacao_escala.py                       # 10 mil e 100 mil
    python tests/benchmarks/preparacao_escala.py 10000 100000 1000000  # mais um milhão

Cada tamanho roda num processo só dele. As linhas são inventadas com as palavras do atendimento, na
frequência em que lá aparecem; 5% são repetidas ou quase, e 3% têm sujeira. Espera-se tempo
proporcional às linhas e memória própria quase parada.

Medido em 2 núcleos divididos com outros programas (2026-11): 100 mil linhas em 201 s (132 s de CPU:
metade em consertar, um quarto em assinar), com 543 MiB de memória própria; 10 mil, com 519 MiB. De
10 mil a 100 mil, 280 bytes por linha. Com os arquivos mapeados, 699 e 805 MiB. Uma assinatura de
320 posições do datasketch leva 134 µs com o crc32 e 262 com o SHA-1, que é o padrão dele.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comum import tables
from comum.files import read_jsonl
from comum.numbers import decimal
from comum.paths import WEEK_DIR

LESSON = WEEK_DIR / "exemplos" / "exemplo_04_dataset_preparation.py"
MESSAGES = WEEK_DIR / "exemplos" / "dados" / "atendimento_treino.jsonl"
LABELS = "troca reembolso entrega frete pagamento garantia cancelamento cadastro produto reclamacao"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000])
    table = []
    for rows in parser.parse_args().rows:
        seconds, *found = measure(rows)
        table.append(map(decimal, (rows, rows / seconds, seconds, *found)))
    tables.show(["linhas", "linhas/s", "segundos", "pico MiB", "com mapas", "aceitas"], table)


def make_up(count: int, path: Path) -> None:
    """Grava `count` linhas parecidas com as do atendimento, com semente fixa."""
    conversations = [row["messages"] for row in read_jsonl(MESSAGES)]
    pool = [[w for m in conversations for w in m[side]["content"].split()] for side in (0, -1)]
    labels, rng = LABELS.split(), random.Random(6)
    kept: list[list[str]] = []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "reply", "intent", "date"])
        for number in range(count):
            draw = rng.random()
            if draw < 0.05 and kept:
                row = list(rng.choice(kept))
                if draw < 0.025:
                    row[0] = row[0].upper() + "!!"
            else:
                texts = [" ".join(rng.choices(words, k=rng.randint(8, 30))) + "." for words in pool]
                day = f"2025-{number % 12 + 1:02}-{number % 28 + 1:02}"
                row = [*texts, rng.choice(labels), day]
                kept = [*kept[-999:], row] if rng.random() < 0.2 else kept
            if rng.random() < 0.03:
                row = [f"<p>{row[0]}</p>", row[1].encode().decode("cp1252", "ignore"), *row[2:]]
            writer.writerow(row)


def measure(count: int) -> tuple[float, float, float, int]:
    """Prepara `count` linhas: segundos, memória (MiB: própria, e com mapas) e linhas aceitas.

    "Com mapas" soma as páginas de arquivo que o sistema tinha mapeadas (o Arrow em disco) e pode
    tomar de volta quando quiser. Os dois picos só se leem em Linux.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "linhas.csv"
        make_up(count, source)
        command = [sys.executable, str(LESSON), "--only", "prep", "--input", str(source)]
        command += ["--output", f"{folder}/pronto"]
        environment = os.environ | {"SEMANA06_RESULTADOS": folder}
        started, own, whole = time.perf_counter(), 0.0, 0.0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            fields = dict(line.split(":", 1) for line in status.splitlines())
            own = max(own, int(fields.get("RssAnon", "0 kB").split()[0]) / 1024)
            whole = max(whole, int(fields.get("VmHWM", "0 kB").split()[0]) / 1024)
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        result = json.loads((Path(folder) / "dia6_dados.json").read_text(encoding="utf-8"))
    return seconds, own, whole, result["accepted"]


if __name__ == "__main__":
    main()
