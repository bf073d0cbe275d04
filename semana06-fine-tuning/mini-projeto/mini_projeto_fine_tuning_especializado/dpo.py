"""Dia 7, para aprofundar: DPO sobre o modelo já treinado, com pares tirados dos erros dele.

    python dpo.py                              # o modelo que vem pronto; 8 minutos
    python dpo.py --beta 0.5 --rate 5e-4       # mais preso à referência, passos maiores

O modelo responde as perguntas de `generated_validation`, de formas de SQL que o treino não viu. Em
cada uma que erra, a resposta dele é a rejeitada e a consulta de referência, a preferida. O
DPO (Rafailov et al., 2023, arXiv:2305.18290) aumenta a distância entre as duas; a referência de que
ele não se afasta é o modelo de partida, isto é, o LoRA novo desligado. No fim, as perguntas da
validação, escritas à mão, antes e depois. Nada se grava.
"""

import argparse
import sys

from comum.terminal import Parser, UserError, above_zero, run_main

from loja_sql.config import add_config_arguments, as_trained, config_from_args, with_trained


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add = parser.add_argument
    add("--beta", type=above_zero(float), default=0.1, help="o apego à referência (padrão: 0.1)")
    add("--rate", type=above_zero(float), default=2e-4, help="learning_rate (padrão: 2e-4)")
    add("--epochs", type=above_zero(int), default=2, help="passadas pelos pares (padrão: 2)")
    add("--limit", type=above_zero(int), help="usa só tantas perguntas de cada conjunto")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    config = with_trained(config_from_args(args))
    config = as_trained(config, config.output_dir)
    if config.model.load_in_4bit:
        raise UserError(
            f"{config.output_dir} foi treinado em 4 bits, e o DPO parte do LoRA fundido à base: "
            "use um treino sem load_in_4bit."
        )

    from comum.numbers import interval, p_value
    from comum.statistics import mcnemar, proportion

    from loja_sql.model.loading import load_model
    from loja_sql.model.preference import Pair, preferred
    from loja_sql.model.tokens import load_tokenizer
    from loja_sql.prompt import encode_pair, render
    from loja_sql.questions import linking
    from loja_sql.questions.splits import load_split
    from loja_sql.scores.variants import spread
    from loja_sql.sql.database import Database

    asked = spread(load_split(config, "generated_validation"), args.limit)
    validation = load_split(config, "validation")[: args.limit or config.data.validation_size]
    tokenizer = load_tokenizer(config, config.output_dir)
    model = load_model(config, config.output_dir)
    context = linking.context(config)
    for row in asked + validation:
        row["prompt"] = render(tokenizer, config, row["question"], context)
    databases = [Database(path, config.database.time_limit_s) for path in config.databases]
    settings = tokenizer, databases, config.generation
    answers = answered(model, asked, "Procurando erros", *settings)
    wrong = [(row, said) for row, (said, right) in zip(asked, answers, strict=True) if not right]
    if not wrong:
        raise UserError(f"o modelo acertou as {len(asked)}: não há par de que aprender.")
    before = [right for _, right in answered(model, validation, "Antes", *settings)]
    row, said = wrong[0]
    print(f"{len(wrong)} pares, de {len(asked)} perguntas. Um deles:")
    print(f"  pergunta:  {row['question']}\n  preferida: {row['sql']}\n  rejeitada: {said}")
    pairs = []
    for row, said in wrong:
        turn = tokenizer, config, row["question"]
        prompt, chosen = encode_pair(*turn, row["sql"], context)
        pairs.append(Pair(prompt, chosen, encode_pair(*turn, said, context)[1]))
    seed = config.training.seed
    model = preferred(model, tokenizer, pairs, args.beta, args.rate, args.epochs, seed)
    after = [right for _, right in answered(model, validation, "Depois", *settings)]
    found = mcnemar(before, after)
    print(
        f"\nValidação, acertos em %: antes, {interval(proportion(before), 1, 100)}; depois, "
        f"{interval(proportion(after), 1, 100)}\nSó antes acertava {found.only_first}; só depois, "
        f"{found.only_second} (McNemar, p: {p_value(found.p_value)})."
    )
    return 0


def answered(
    model, rows: list[dict], label: str, tokenizer, databases: list, generation
) -> list[tuple[str, bool]]:
    """O que o modelo responde a cada `prompt`, e se a resposta está certa em todos os bancos."""
    from comum.decoding import generate

    from loja_sql.model.assistant import in_order
    from loja_sql.scores.grading import judged

    prompts = [row["prompt"] for row in rows]
    limits = generation.max_new_tokens, generation.batch_size
    batches = generate(model.eval(), tokenizer, prompts, *limits)
    verdicts = [
        judged(row, said, databases)
        for row, (_, said) in zip(rows, in_order(batches, label, len(rows)), strict=True)
    ]
    return [(verdict["predicted"], verdict["correct"]) for verdict in verdicts]


if __name__ == "__main__":
    sys.exit(run_main(main))
