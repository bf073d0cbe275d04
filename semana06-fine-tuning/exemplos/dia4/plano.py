"""O plano de memória de um modelo que você talvez não tenha: todos os pesos, LoRA e QLoRA.

    python semana06-fine-tuning/exemplos/dia4/plano.py --model pasta/do/modelo --rank 64 --batch 4
    python semana06-fine-tuning/exemplos/dia4/plano.py --model google/gemma-2-2b   # sem internet

A conta sai dos tamanhos das camadas, sem os pesos: os de dez modelos conhecidos estão em
`comum/memory_plan.py`; dos outros, lê-se a configuração.
"""

import sys

from comum.terminal import Parser, above_zero, run_main


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", default="meta-llama/Llama-2-7b-hf", help="pasta, config.json ou nome no hub")
    add("--rank", type=above_zero(int), default=16, help="posto do LoRA (padrão: 16)")
    add("--batch", type=above_zero(int), default=1, help="exemplos por lote (padrão: 1)")
    add("--length", type=above_zero(int), default=1024, help="tokens por exemplo (padrão: 1024)")
    args = parser.parse_args()
    from comum.memory_plan import show_plan  # pesado: só depois das opções

    show_plan(args.model, args.rank, args.batch, args.length)


if __name__ == "__main__":
    sys.exit(run_main(main))
