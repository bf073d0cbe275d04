"""Treina o modelo que traduz perguntas em SQL: LoRA, QLoRA ou todos os pesos.

    python train.py                                 # o longo (configs/base.yaml)
    python train.py --config configs/rapido.yaml    # o da demonstração
    python train.py --config configs/full.yaml      # todos os pesos (ou qlora.yaml: base em 4 bits)
    python train.py --resume                        # continua do último checkpoint
    python train.py --resume training.max_steps=2000    # e vai mais longe, também se já acabou
    accelerate launch --multi_gpu --num_processes 2 train.py    # em duas GPUs, ou dois processos

Antes do primeiro passo, uma auditoria mostra exemplos decodificados com o que entra na perda, e
para se algum exemplo não tiver resposta, não ensinar a parar ou for cortado. Ctrl-C grava um
checkpoint; `--resume` continua dele, se modelo, dados e opções são os mesmos: só `max_steps` e
`epochs` podem crescer, e o learning_rate segue então a curva do novo total. O que já estava pronto
na pasta serve até o novo acabar. Saídas em `training.output_dir`: adaptador (ou modelo),
`effective_config.yaml`, `metrics.jsonl`, `curva.png` e `training.json`.
"""

import sys

from comum.numbers import decimal
from comum.terminal import Parser, run_main

from loja_sql.config import add_config_arguments, config_from_args


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continua do último checkpoint")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)

    from loja_sql.model.trainer import all_processes, train
    from loja_sql.questions.splits import load_split, training_rows

    validation = load_split(config, "validation")[: config.data.validation_size]
    summary = train(config, training_rows(config), validation, args.resume)
    all_processes().print(
        f"Pronto em {decimal(summary.minutes, 1)} min ({decimal(summary.tokens_per_second)} "
        f"tokens/s). Fica o passo {summary.best_step}, de perda de validação "
        f"{decimal(summary.best_eval_loss, 4)}. Tudo em {config.output_dir}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
