"""Escreve em GGUF, o formato do llama.cpp, um modelo Llama que está numa pasta do Hugging Face.

    python …/ferramentas/escrever_gguf.py --model PASTA --output modelo.gguf --type q8_0

Tipos: `f16` (nenhuma quantização), `q8_0` e `q4_0` (blocos de 32 pesos e uma escala) e `q4_k_m`,
que mistura blocos de 256 pesos com duas escalas. Leva poucos segundos.
"""

import sys
from pathlib import Path

from comum.numbers import decimal
from comum.terminal import Parser, run_main

TYPES = ("f16", "q8_0", "q4_0", "q4_k_m")


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="PASTA", help="a pasta do modelo")
    add("--output", type=Path, required=True, metavar="ARQUIVO", help="o GGUF a escrever")
    add("--type", choices=TYPES, required=True, help="o tipo dos pesos")
    args = parser.parse_args(argv)

    from comum.gguf import write

    counts = write(args.model, args.output, args.type)
    kinds = ", ".join(f"{number} em {kind}" for kind, number in counts.most_common())
    print(f"{args.output}: {decimal(args.output.stat().st_size / 1e6, 1)} MB; tensores: {kinds}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
