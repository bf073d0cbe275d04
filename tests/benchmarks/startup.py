"""Quanto se espera: por --help, pela primeira resposta no terminal, pela página no ar.

    python tests/benchmarks/startup.py

Cada comando roda num processo, como quem o digita, com o modelo que vem pronto; a tabela dá a
mediana de cinco vezes e o pior, em segundos. A primeira vez de todas é mais lenta, porque o Python
ainda compila as bibliotecas: cada comando roda uma antes, que não conta. 3 minutos.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from comum import tables
from comum.numbers import decimal

from apart import PROJECT

READY = ["--adapter", "models/pronto"]
ASK = ["inference.py", *READY, "quantos clientes temos?"]
ROUNDS = 5


def main() -> None:
    # Com isto ligado, o Python recompilaria as bibliotecas a cada vez.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    commands = {
        "`inference.py --help`": lambda: run(["inference.py", "--help"]),
        "primeira resposta, llama.cpp": lambda: run([*ASK, "generation.engine=llamacpp"]),
        "primeira resposta, transformers": lambda: run([*ASK, "generation.engine=transformers"]),
        "página, llama.cpp": lambda: page("generation.engine=llamacpp"),
        "página, transformers": lambda: page("generation.engine=transformers"),
    }
    rows = []
    for name, measure in commands.items():
        times = [measure() for _ in range(ROUNDS + 1)][1:]
        rows.append((name, decimal(statistics.median(times), 1), decimal(max(times), 1)))
    print(tables.markdown(("o quê", "mediana, s", "pior, s"), rows))


def run(arguments: list[str]) -> float:
    """Os segundos de um comando inteiro."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=PROJECT, check=True, capture_output=True)
    return time.perf_counter() - started


def page(engine: str) -> float:
    """Os segundos até a página responder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", *READY, engine, "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/").read()
                return time.perf_counter() - started
            except OSError:  # ainda não escuta, ou ainda não responde
                time.sleep(0.05)
        sys.exit("app.py parou: rode-o para ver por quê")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
