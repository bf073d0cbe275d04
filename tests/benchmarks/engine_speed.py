"""Compara os motores do mini-projeto numa pergunta por vez, em rodadas intercaladas.

    python tests/benchmarks/engine_speed.py                              # o modelo longo
    python tests/benchmarks/engine_speed.py --config configs/rapido.yaml --forms fp32,q8_0

A velocidade de uma máquina dividida varia de um minuto a outro: em cada rodada todos os motores
respondem às mesmas perguntas, um logo depois do outro, e as razões são tiradas dentro da rodada.
Cada medida tem o seu processo: o que a anterior deixou não a atrasa nem a ajuda. `fp32` é o
adaptador no transformers, sem bf16; as outras, o que `python export.py --forms …` gravou; `plain`,
o que custaria a mesma resposta a quem não encurtasse nada: a base em fp32, com as marcas de chat,
escrevendo tantos tokens quantos o SQL certo tem sem tokens fundidos (o que ela diz não importa). A
última coluna é a das mesmas perguntas feitas de uma vez: um lote só no transformers, quatro de cada
vez no llama.cpp. Precisa do modelo treinado; 10 minutos. `GOMP_SPINCOUNT=N` antes do comando muda
quanto as threads giram à espera umas das outras (`comum/__init__.py`).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from apart import measured_apart, report

PLAIN = "plain"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="ajustes sobre configs/base.yaml")
    parser.add_argument("--forms", default="fp32,bf16,q8_0,q4_k_m", help="com vírgulas")
    parser.add_argument("--rounds", type=int, default=3, help="rodadas")
    parser.add_argument("--questions", type=int, default=20, help="perguntas por rodada")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="chave=valor", help="ajustes avulsos")
    args = parser.parse_intermixed_args()
    if args.measure:
        report(measure(args.config, args.overrides, args.measure, args.questions))
        return
    forms = args.forms.split(",")
    rounds: dict[str, list[dict]] = {form: [] for form in forms}
    for _ in range(args.rounds):
        for form in forms:
            found = measured_apart("--measure", form)
            if isinstance(found, str):
                sys.exit(f"{form} falhou: {found}")
            rounds[form].append(found)
    show(rounds, forms[0])


def measure(path: str | None, overrides: list[str], form: str, questions: int) -> dict[str, float]:
    """Abre um motor e responde, uma a uma, perguntas do teste espaçadas por igual."""
    from loja_sql.config import as_trained, load_config
    from loja_sql.prompt import render
    from loja_sql.questions import linking
    from loja_sql.questions.splits import load_split

    config = load_config(path and Path(path), overrides)
    config = as_trained(config, config.output_dir)
    rows = load_split(config, "test")
    rows = rows[:: max(1, len(rows) // questions)][:questions]
    if form in (PLAIN, "fp32"):
        config.training.precision = "fp32"
    if form == PLAIN:
        config.prompt.template, config.model.merged_tokens = "model", 0
    context = linking.context(config)
    engine = open_engine(config, form)
    prompts = [render(engine.tokenizer, config, row["question"], context) for row in rows]
    limits = [config.generation.max_new_tokens] * len(rows)
    if form == PLAIN:
        queries = engine.tokenizer([row["sql"] for row in rows], add_special_tokens=False)
        limits = [len(ids) + 1 for ids in queries.input_ids]  # e o fim
        engine.tokenizer.eos_token = engine.tokenizer.pad_token  # que ela não para antes
    list(engine.stream(prompts[0], limits[0]))  # aquece
    seconds, tokens = [], 0
    for prompt, limit in zip(prompts, limits, strict=True):
        start = time.perf_counter()
        for text in engine.stream(prompt, limit):
            answer = text
        seconds.append(time.perf_counter() - start)
        written = engine.tokenizer(answer, add_special_tokens=False).input_ids
        tokens += limit if form == PLAIN else len(written)  # a base os escreve todos
    start = time.perf_counter()
    batches = engine.generate(prompts, max(limits), len(prompts))
    together = sum(len(batch) for batch in batches) / (time.perf_counter() - start)
    engine.close()
    return {
        "p50_s": statistics.median(seconds),
        "p95_s": statistics.quantiles(seconds, n=20, method="inclusive")[-1],
        "tokens_per_second": tokens / sum(seconds),
        "answers_per_second": len(seconds) / sum(seconds),
        "together_per_second": together,
    }


def open_engine(config, form: str):
    """O motor de `form`; `fp32` é o adaptador no transformers, e `plain`, só a base."""
    from loja_sql.model import engines

    if form == PLAIN:
        return engines.with_transformers(config)
    if form == "fp32":
        return engines.with_transformers(config, config.output_dir)
    return engines.open_form(config, config.output_dir, form)


def show(rounds: dict[str, list[dict]], base: str) -> None:
    """Uma tabela com a mediana das rodadas, e quantas vezes cada motor é mais rápido que `base`."""
    from comum import tables
    from comum.numbers import decimal

    header = ("motor", "p50 (s)", "p95 (s)", "tokens/s", "respostas/s", f"vezes o {base}")
    header += ("respostas/s, juntas",)
    rows = []
    for form, found in rounds.items():
        ratios = [
            one["answers_per_second"] / other["answers_per_second"]
            for one, other in zip(found, rounds[base], strict=True)
        ]
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        low, high = decimal(min(ratios), 1), decimal(max(ratios), 1)
        rows.append(
            (
                form,
                decimal(middle["p50_s"], 2),
                decimal(middle["p95_s"], 2),
                decimal(middle["tokens_per_second"], 1),
                decimal(middle["answers_per_second"], 2),
                f"{decimal(statistics.median(ratios), 1)} ({low}; {high})",
                decimal(middle["together_per_second"], 1),
            )
        )
    tables.show(header, rows)


if __name__ == "__main__":
    main()
