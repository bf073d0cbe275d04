"""Mede a acurácia de execução: o modelo sem treino, com o esquema no prompt, e o treinado.

    python evaluate.py                                   # o teste em palavras livres
    python evaluate.py --forms all                       # mais cada forma de export.py
    python evaluate.py --few-shot 4                      # mais o sem treino, com exemplos no prompt
    python evaluate.py --config configs/rapido.yaml      # o da demonstração
    python evaluate.py --wordings                        # mais o treinado, sem acentos e com erros
    python evaluate.py --also models/full                # mais outro treino, lado a lado
    python evaluate.py --split test_2                    # outro teste, com o que não tem resposta
    python evaluate.py --split test_3                    # e outro, de quem não viu nada disso
    python evaluate.py --split generated_test            # geradas, de esqueletos de SQL raros
    python evaluate.py --questions minhas.jsonl          # qualquer conjunto (question, sql)

Cada resposta é executada em todos os bancos; decodificação gulosa. Sai um JSON em `resultados/`,
com intervalos de 95%, e um JSONL com uma linha por pergunta e variante. A latência e a memória são
as de perguntas feitas uma a uma, cada variante num processo só dela.
"""

import argparse
import shlex
import sys
from pathlib import Path

from comum.terminal import Parser, above_zero, run_main, simple_name

from loja_sql.config import SPLITS, add_config_arguments, config_from_args, resolve, with_trained
from loja_sql.model.exports import form_list
from loja_sql.scores.overview import GROUPS


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add = parser.add_argument
    add("--split", choices=SPLITS, default="test", help="divisão a usar (padrão: test)")
    add("--questions", type=Path, metavar="ARQUIVO", help="CSV ou JSONL próprio (question, sql)")
    groups = (
        "mede só o grupo: sem treino, ele com --few-shot, treinado, --wordings, --also, --forms"
    )
    add("--only", choices=GROUPS, action="append", help=groups)
    add("--add", action="store_true", help="junta ao que já está gravado das mesmas perguntas")
    add("--forms", type=form_list, metavar="LISTA", help="formas exportadas (bf16,q8_0 ou all)")
    shown = "mede o sem treino com K exemplos do treino no prompt: fixos, e os parecidos (BM25)"
    add("--few-shot", type=above_zero(int), default=0, metavar="K", help=shown)
    reworded = "mede o treinado com as perguntas sem acentos, e com um erro de digitação em cada"
    add("--wordings", action="store_true", help=reworded)
    add("--also", type=resolve, action="append", metavar="PASTA", help="mede outro treino")
    add("--name", type=simple_name, metavar="NOME", help="nome do arquivo de resultados")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    config = with_trained(config_from_args(args))
    typed = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", Path(__file__).name, *typed])

    from loja_sql.scores import grading, overview, records, variants
    from loja_sql.sql.database import Database

    split = args.questions.stem if args.questions else args.split
    if args.questions and split in SPLITS:  # o resultado da divisão de mesmo nome fica como está
        split = f"perguntas_{split}"
    name = args.name or f"mini_projeto_{config.output_dir.name}_{split}"
    limit = config.database.time_limit_s
    databases = [Database(path, limit) for path in config.databases]
    rows = grading.questions(config, args.split, args.questions, databases)
    chosen = variants.choose(config, args)
    record = records.Record(config, name, str(args.questions or args.split))
    if args.add:
        record.take_earlier(rows)
    for variant in chosen:
        record.add(variant.label, *grading.measure(variant, rows, databases, command))
    overview.show(record.evaluation)
    print(f"Resultados: {record.path} (e .jsonl, uma linha por pergunta)")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
