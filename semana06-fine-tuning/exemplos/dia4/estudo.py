"""O estudo de hiperparâmetros do LoRA: um fator por vez, orçamento igual, várias sementes.

    python semana06-fine-tuning/exemplos/dia4/estudo.py --level quick   # 5 treinos, 10 minutos
    python semana06-fine-tuning/exemplos/dia4/estudo.py --level full    # 40 treinos, 1 hora e meia

Cada treino é a lição do dia 4 com outras opções (os fatores estão em `estudo.yaml`) e fica em
`resultados/estudo_lora/`: interrompido, o estudo continua de onde parou.

A regra de escolha, dita antes de ver os números: vence a menor perplexidade média na validação; das
que passam dela por menos de um desvio entre sementes (a média quadrática dos de todas as linhas), a
de menos parâmetros treináveis. O teste não participa.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from comum import tables
from comum.labels import HYPERPARAMETERS, hyperparameter
from comum.numbers import comma_axes, decimal
from comum.paths import DEFAULT_MODEL, RESULTS_DIR
from comum.results import Day4, Day4Study, StudyRow, TrainingRun
from comum.terminal import Parser, UserError, progress, run_main
from comum.yaml import read_yaml

LESSON = Path(__file__).resolve().parents[1] / "exemplo_02_lora_peft.py"
STUDY = Path(__file__).with_name("estudo.yaml")
# A opção da lição que corresponde a cada chave do YAML.
FLAGS = {"method": "--variant", "r": "--rank", "alpha": "--alpha", "dropout": "--dropout"}
FLAGS |= {"learning_rate": "--learning-rate", "target_modules": "--target-modules"}
FLAGS |= {"epochs": "--epochs", "train_examples": "--train-examples"}
Point = dict[str, float | int | str | list[str]]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--level", choices=("quick", "full"), default="quick", help="quanto variar")
    add("--model", default=str(DEFAULT_MODEL), metavar="PASTA_OU_NOME", help="pasta ou nome no hub")
    add("--study", type=Path, default=STUDY, metavar="YAML", help="outro arquivo de fatores")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    points, seeds = load_study(args.study, args.level)
    base, rows = points[0][1], []
    with progress(None, "Estudo", "treino", len(points) * len(seeds)) as bar:
        for factor, point in points:
            change = {key: value for key, value in point.items() if value != base.get(key)}
            runs = []
            for seed in seeds:
                bar.set_postfix_str(f"{describe(change)}, semente {seed}")
                runs.append(train(args.model, point, seed))
                bar.update()
            rows.append(row_of(factor, change, runs))
    result = Day4Study(
        model=args.model, level=args.level, seeds=seeds, base=base, rows=rows, chosen=choose(rows)
    )
    show(result)
    name = f"dia4_estudo_{args.level}"
    # Como se digita da pasta das lições, de onde contam os outros comandos do caderno.
    path = result.save(name, shlex.join(["python", "dia4/estudo.py", *sys.argv[1:]]))
    print(f"Figura: {draw(result, RESULTS_DIR / f'{name}.png')}\nResultados: {path}")


def load_study(path: Path, level: str) -> tuple[list[tuple[str, Point]], list[int]]:
    """Lê o YAML: pares (fator, configuração) e as sementes do nível pedido.

    Raises:
        UserError: YAML ilegível, seção faltando, chave que a lição não tem ou fator sem ponto base.
    """
    try:
        study = read_yaml(path)
        seeds, base = study["seeds"][level], dict(study["base"])
        names = study["factors"] if level == "full" else study["quick"]
        points = [("base", base)]
        points += [(name, base | change) for name in names for change in study["factors"][name]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} não tem a forma esperada. Ele precisa de base, seeds (quick e full), factors "
            "e quick, como no arquivo original."
        ) from error
    if unknown := {key for _, point in points for key in point} - FLAGS.keys():
        wrong, known = ", ".join(sorted(unknown)), ", ".join(FLAGS)
        raise UserError(f"{path}: chave desconhecida: {wrong}. As que existem: {known}.")
    if absent := FLAGS.keys() - base.keys():
        raise UserError(f"{path}: faltam chaves em base: {', '.join(sorted(absent))}.")
    if absent := set(names) - base.keys():
        wrong = ", ".join(sorted(absent))
        raise UserError(f"{path}: um fator tem o nome de uma chave de base, e não há {wrong} nela.")
    if not (names and seeds and isinstance(seeds, list)):
        raise UserError(f"{path}: seeds é uma lista de números, e há ao menos um fator a variar.")
    return points, seeds


def train(model: str, point: Point, seed: int) -> TrainingRun:
    """O treino já gravado desta configuração exata, ou um novo."""
    settings = json.dumps([model, point, seed], sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    folder = RESULTS_DIR / "estudo_lora"
    path = folder / f"dia4_lora_{key}.json"
    if not path.is_file():
        command = [sys.executable, str(LESSON), "--only-lora", "--no-answers", "--model", model]
        command += ["--seed", str(seed), "--name", key]
        for name, value in point.items():
            command += [FLAGS[name], ",".join(value) if isinstance(value, list) else str(value)]
        environment = os.environ | {"SEMANA06_RESULTADOS": str(folder)}
        with tempfile.TemporaryDirectory() as output:
            saving = [*command, "--output", output]
            done = subprocess.run(saving, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            typed = shlex.join(command[1:])
            raise UserError(f"um treino do estudo não terminou ({typed}); veja acima.")
    return next(iter(Day4.load(path).runs.values()))


def row_of(factor: str, change: Point, runs: list[TrainingRun]) -> StudyRow:
    """As médias dos treinos de uma configuração, um por semente."""
    scores = [run.validation["perplexity_token"].value for run in runs]
    return StudyRow(
        factor=factor,
        change=change,
        perplexity=mean(scores),
        spread=stdev(scores) if len(scores) > 1 else None,
        by_seed=scores,
        test=mean(run.test["perplexity_token"].value for run in runs),
        trainable_parameters=runs[0].trainable_parameters,
        minutes=mean(run.seconds for run in runs) / 60,
        peak_mib=mean(run.peak_mib for run in runs),
    )


def choose(rows: list[StudyRow]) -> StudyRow:
    """A configuração vencedora, pela regra do começo do arquivo."""
    best = min(rows, key=lambda row: row.perplexity)
    spreads = [row.spread for row in rows if row.spread is not None]
    # O desvio de duas sementes, sozinho, é instável: vale o quadrático médio de todas as linhas.
    margin = math.sqrt(mean(spread**2 for spread in spreads)) if spreads else 0.0
    close = [row for row in rows if row.perplexity <= best.perplexity + margin]
    return min(close, key=lambda row: (row.trainable_parameters, row.perplexity))


def describe(change: Point) -> str:
    changed = (f"{key}={hyperparameter(value)}" for key, value in change.items())
    return "; ".join(changed) or "ponto base"


def show(result: Day4Study) -> None:
    """Imprime a tabela do estudo, com a escolhida marcada."""
    rows = []
    for row in result.rows:
        mark = "→ " if row == result.chosen else "  "
        spread = f" ± {decimal(row.spread, 2)}" if row.spread else ""
        scores = decimal(row.perplexity, 2) + spread, decimal(row.test, 2)
        costs = decimal(row.trainable_parameters), decimal(row.minutes, 1)
        rows.append([mark + describe(row.change), *scores, *costs])
    tables.show(["configuração", "perplexidade, validação", "teste", "treináveis", "min"], rows)
    print(f"Escolhida pela regra: {describe(result.chosen.change)}")


def draw(result: Day4Study, path: Path) -> Path:
    """Um painel por fator: a perplexidade de validação de cada valor, e a de cada semente."""
    from matplotlib.figure import Figure

    base, *others = result.rows
    factors = list(dict.fromkeys(row.factor for row in others))
    columns = min(3, len(factors))
    lines = math.ceil(len(factors) / columns)
    figure = Figure(figsize=(5 * columns, 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, factor in zip(panels.flat, factors, strict=False):
        rows = [row for row in result.rows if row.factor in (factor, "base")]
        pairs = [(row.change.get(factor, result.base[factor]), row) for row in rows]
        # A linha só liga valores que têm ordem; métodos e listas de camadas ficam soltos.
        ordered = not isinstance(pairs[0][0], str)
        if ordered:
            pairs.sort(key=lambda pair: pair[0])
        labels = [hyperparameter(value) + " (base)" * (row is base) for value, row in pairs]
        style = "o-" if ordered else "o"
        axes.plot(labels, [row.perplexity for _, row in pairs], style, label="média")
        each = [(x, y) for x, (_, row) in zip(labels, pairs, strict=True) for y in row.by_seed]
        axes.plot(*zip(*each, strict=True), "x", color="gray", label="cada semente")
        axes.set_title(HYPERPARAMETERS[factor])
        axes.tick_params(axis="x", rotation=20)
    for axes in panels.flat[len(factors) :]:
        axes.axis("off")
    panels.flat[0].legend()
    figure.supylabel("perplexidade (validação)")
    comma_axes(figure)
    figure.savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    sys.exit(run_main(main, arguments()))
