"""Quanto custa preparar muitas linhas: tempo e pico de memória do preparo do dia 6.

    python tests/benchmarks/preparacao_escala.py                       # 10 mil e 100 mil
    python tests/benchmarks/preparacao_escala.py 10000 100000 1000000  # mais um milhão: 8 min

Cada tamanho roda num processo só dela. As linhas são inventadas com as palavras do atendimento, na
frequência em que lá aparecem; 5% são repetidas ou quase, e 3% têm sujeira. Espera-se tempo
proporcional às linhas e memória própria quase parada.

Medido em 2 núcleos (2026-11), sem mais nada rodando: 10 mil, 100 mil e um milhão de linhas em 5,8,
42,1 e 407,8 s (1,7, 2,4 e 2,5 mil por segundo). Python e bibliotecas tomam 466 MiB; com o preparo,
a memória própria foi a 489, 539 e 610 MiB: de 100 mil a um milhão, 83 bytes por linha. Com os
arquivos mapeados, o processo foi a 652, 718 e 940 MiB.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LESSONS = Path(__file__).resolve().parents[2] / "semana06-fine-tuning" / "exemplos"
sys.path.insert(0, str(LESSONS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # o processo de um tamanho
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    print(f"{'linhas':>10} {'segundos':>9} {'linhas/s':>9} {'antes MiB':>10} {'pico MiB':>9} "
          f"{'com mapas':>10} {'aceitas':>9} {'disco MiB':>10}")  # fmt: skip
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "linhas.csv"
            make_up(rows, source)
            command = [sys.executable, __file__, "--one", str(source)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{rows:>10} {result['segundos']:>9.1f} {rows / result['segundos']:>9.0f} "
              f"{result['antes']:>10.0f} {result['pico']:>9.0f} {result['com_mapas']:>10.0f} "
              f"{result['aceitas']:>9} {result['disco']:>10.0f}", flush=True)  # fmt: skip


def make_up(count: int, path: Path) -> None:
    """Grava `count` linhas parecidas com as do atendimento, com semente fixa."""
    import utils

    conversations = utils.read_conversations(utils.DATA_DIR / "atendimento_treino.jsonl")
    pool = [[w for m in conversations for w in m[side]["content"].split()] for side in (0, -1)]
    labels = ["troca", "reembolso", "entrega", "frete", "pagamento", "garantia", "cancelamento",
              "cadastro", "produto", "reclamacao"]  # fmt: skip
    rng = random.Random(6)
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


def measure(source: Path) -> dict:
    """Prepara `source` e diz segundos, memória (MiB) e o que sobrou.

    `pico` é a memória própria do processo. `com_mapas` soma as páginas de arquivo que o sistema
    tinha mapeadas (o Arrow gravado) e pode tomar de volta quando quiser.
    """
    import banco
    import corrida
    import datasets
    import entrega
    import formatos
    import utils

    datasets.disable_progress_bars()
    tokenizer = utils.load_tokenizer(str(utils.DEFAULT_MODEL))
    columns = {"message": "message", "reply": "reply", "intent": "intent", "date": "date"}
    watch = OwnMemory()
    before = watch.read()
    watch.start()
    output = source.with_name("pronto")
    started = time.perf_counter()
    numbers = entrega.build(
        banco.Options(str(source), columns), output, list(formatos.FORMATS), tokenizer
    )
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file()) / 2**20
    return {"segundos": time.perf_counter() - started, "antes": before, "pico": watch.peak,
            "com_mapas": corrida.peak_memory_mib(), "aceitas": numbers["aceitas"],
            "disco": size}  # fmt: skip


class OwnMemory(threading.Thread):
    """Acompanha, dez vezes por segundo, a memória própria do processo (RssAnon, só em Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def read(self) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) / 1024

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.read())
            time.sleep(0.1)


if __name__ == "__main__":
    main()
