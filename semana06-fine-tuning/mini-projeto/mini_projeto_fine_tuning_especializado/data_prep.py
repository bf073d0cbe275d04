"""Prepara os dados: bancos da loja, perguntas conferidas por execução, divisões e relatório.

    python data_prep.py                         # a loja
    python data_prep.py database.custom=meu.sqlite data.custom=minhas_perguntas.csv \\
        data.output_dir=dados/gerados/meu

Passos: gerar os bancos → ler as perguntas escritas à mão e gerar as demais → executar cada SQL em
todos os bancos → tirar duplicatas e tudo que se pareça com o teste → dividir → relatar. O que é
recusado fica em `rejected.jsonl`, com o motivo.
"""

import sys

from comum.terminal import Parser, UserError, run_main

from loja_sql.config import Config, add_config_arguments, config_from_args


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Prepara os bancos, as perguntas e as divisões do mini-projeto.")
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="refaz mesmo que já esteja pronto")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)

    from loja_sql.questions import outputs

    if not args.force and outputs.is_current(config):
        print(f"Os dados já estão prontos em {config.data_dir}")
    else:
        prepare(config)
    return 0


def prepare(config: Config) -> None:
    """Gera os bancos, monta as divisões e grava tudo em `data.output_dir`."""
    from loja_sql.questions import outputs, slots, splits
    from loja_sql.questions.checks import Checks
    from loja_sql.questions.sieve import Sieve

    shop, mark = config.data.custom is None, outputs.fingerprint(config)
    with Checks(open_databases(config)) as checks:
        sieve = Sieve(checks, slots.mask if shop else slots.wording)
        parts = (splits.shop_splits if shop else splits.own_splits)(config, sieve)
    rejected = sieve.rejected
    if not all(parts.values()) and not shop:
        path = outputs.write_rejected(config, rejected)
        total = sum(map(len, parts.values()))
        empty = ", ".join(splits.NAMES[name] for name, rows in parts.items() if not rows)
        raise UserError(
            f"{config.data.custom} tem {total} perguntas aproveitáveis, poucas para dividir: "
            f"ficou vazio: {empty}. Acrescente perguntas com formas de SQL variadas. "
            f"As {len(rejected)} recusadas estão, com o motivo, em {path}."
        )
    reasons = outputs.write_outputs(config, parts, rejected, mark)["rejected"]
    counts = ", ".join(f"{splits.NAMES[name]} {len(rows)}" for name, rows in parts.items())
    print(f"Perguntas: {counts}.\nRecusadas: {len(rejected)} (quais, em {outputs.REJECTED}).")
    for reason, count in reasons.items():
        print(f"  {count} × {reason}")
    print(f"Relatório: {config.data_dir / 'report.md'}")


def open_databases(config: Config) -> list:
    """Gera as lojas (ou abre o banco do usuário) e devolve os bancos abertos."""
    from loja_sql.shop import create_shop
    from loja_sql.sql.database import Database, TrustedDatabase

    if config.database.custom is None:
        for seed, path in zip(config.database.seeds, config.databases, strict=True):
            create_shop(path, seed)
            print(f"Loja da semente {seed}: {path}")
    # Só as perguntas da loja são nossas: o que se escreveu na página pode ser de qualquer um.
    ours = config.data.custom is None and config.data.feedback is None
    kind = TrustedDatabase if ours else Database
    return [kind(path, config.database.time_limit_s) for path in config.databases]


if __name__ == "__main__":
    sys.exit(run_main(main))
