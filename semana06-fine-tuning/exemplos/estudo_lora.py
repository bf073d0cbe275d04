"""O estudo de hiperparâmetros do LoRA: um fator por vez, orçamento igual, várias sementes.

Roda por `exemplo_02_lora_peft.py --study quick|full`. Cada corrida tem o seu processo e o seu
arquivo em `resultados/estudo_lora/`: interrompido, o estudo continua de onde parou.

A regra de escolha, dita antes de ver os números: vence a menor perplexidade média na validação; das
que ficam a menos de um desvio entre sementes dela, a de menos parâmetros treináveis. O teste não
participa da escolha.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

import corrida
import matplotlib
import utils  # antes do torch
import yaml
from tqdm import tqdm

STUDY = Path(__file__).with_name("estudo_lora.yaml")
LEVELS = ("quick", "full")
SCORE = "validacao_perplexidade_token"


def load_study(path: Path, level: str) -> tuple[list[tuple[str, dict]], list[int]]:
    """Lê o YAML: pares (fator, configuração) e as sementes do nível pedido.

    Raises:
        utils.UserError: YAML ilegível, seção faltando ou chave que uma corrida não tem.
    """
    try:
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
        seeds = study["seeds"][level]
        chosen = study["factors"] if level == "full" else {n: study["factors"][n]
                                                           for n in study["quick"]}  # fmt: skip
        points = [("base", dict(study["base"]))]
        points += [(factor, study["base"] | change) for factor, changes in chosen.items()
                   for change in changes]  # fmt: skip
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise utils.UserError(
            f"{path} não tem a forma esperada ({type(error).__name__}: {error}). Ele precisa de "
            "base, seeds (quick e full), factors e quick, como no arquivo original."
        ) from error
    unknown = {key for _, point in points for key in point} - corrida.known_settings()
    if unknown:
        known = ", ".join(sorted(corrida.known_settings()))
        raise utils.UserError(
            f"{path}: chave desconhecida: {', '.join(sorted(unknown))}. As que existem: {known}."
        )
    return points, seeds


def study(model: str, level: str, run_alone: Callable[[dict], dict], path: Path = STUDY) -> dict:
    """Roda (ou relê) cada corrida e devolve as linhas da tabela e a escolhida."""
    points, seeds = load_study(path, level)
    folder = utils.RESULTS_DIR / "estudo_lora"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    bar = tqdm(total=len(points) * len(seeds), desc="Estudo", unit="corrida")
    for factor, point in points:
        results = []
        for seed in seeds:
            settings = asdict(corrida.Run(**point | {"model": model, "seed": seed}))
            results.append(_cached(folder, settings, run_alone))
            bar.update()
        rows.append(_row(factor, point, points[0][1], results))
    bar.close()
    return {"base": points[0][1], "linhas": rows, "escolhida": choose(rows), "sementes": seeds,
            "nivel": level}  # fmt: skip


def _cached(folder: Path, settings: dict, run_alone: Callable[[dict], dict]) -> dict:
    """O resultado já gravado desta configuração exata, ou uma corrida nova."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{key}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    result = run_alone(settings)
    utils.write_json(path, result)
    return result


def _row(factor: str, point: dict, base: dict, results: list[dict]) -> dict:
    changed = {key: value for key, value in point.items() if value != base[key]}
    scores = [result["metricas"][SCORE]["valor"] for result in results]
    return {
        "fator": factor,
        "mudanca": changed,
        "perplexidade": mean(scores),
        "desvio": stdev(scores) if len(scores) > 1 else None,
        "sementes": scores,
        "teste": mean(r["metricas"]["teste_perplexidade_token"]["valor"] for r in results),
        "treinaveis": results[0]["parametros"]["treinaveis"],
        "minutos": mean(r["treino"]["segundos"] for r in results) / 60,
        "pico_mib": mean(r["memoria_mib"]["pico_do_processo"] for r in results),
    }


def choose(rows: list[dict]) -> dict:
    """A configuração vencedora, pela regra do começo do arquivo."""
    best = min(rows, key=lambda row: row["perplexidade"])
    spreads = [row["desvio"] for row in rows if row["desvio"] is not None]
    # O desvio de duas sementes, sozinho, é instável: vale o quadrático médio de todas as linhas.
    margin = math.sqrt(mean(s * s for s in spreads)) if spreads else 0.0
    close = [row for row in rows if row["perplexidade"] <= best["perplexidade"] + margin]
    return min(close, key=lambda row: (row["treinaveis"], row["perplexidade"]))


def describe(row: dict) -> str:
    """O que muda em relação ao ponto base, em texto."""
    return ", ".join(f"{k}={v}" for k, v in row["mudanca"].items()) or "ponto base"


def table(result: dict) -> str:
    """A tabela do estudo, em texto, com a escolhida marcada."""
    lines = [f"{'configuração':<62} {'ppl validação':>16} {'ppl teste':>10} "
             f"{'treináveis':>11} {'min':>6}"]  # fmt: skip
    for row in result["linhas"]:
        spread = f" ± {row['desvio']:.2f}" if row["desvio"] is not None else ""
        mark = "→ " if row == result["escolhida"] else "  "
        numbers = (f"{row['perplexidade']:.2f}{spread:<7} {row['teste']:>10.2f} "
                   f"{row['treinaveis'] / 1e6:>9.2f} M {row['minutos']:>6.1f}")  # fmt: skip
        lines.append(f"{mark}{describe(row)[:60]:<60} {numbers:>46}".replace(".", ","))
    lines.append(f"Escolhida pela regra: {describe(result['escolhida'])}")
    return "\n".join(lines)


def _label(value) -> str:
    """O valor de um fator, curto: as camadas pela inicial, os números com vírgula."""
    if isinstance(value, list):
        return ", ".join(name.removesuffix("_proj") for name in value)
    return f"{value:g}".replace(".", ",") if isinstance(value, int | float) else str(value)


def plot(result: dict) -> Path:
    """Um painel por fator: perplexidade de validação de cada valor, com os pontos das sementes."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    base, *others = result["linhas"]
    factors = list(dict.fromkeys(row["fator"] for row in others))
    columns = min(3, len(factors))
    lines = math.ceil(len(factors) / columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5 * columns, 3.6 * lines),
                                   squeeze=False, sharey=True)  # fmt: skip
    for ax, factor in zip(axes.flat, factors, strict=False):
        rows = [base, *(row for row in others if row["fator"] == factor)]
        values = [row["mudanca"].get(factor, result["base"][factor]) for row in rows]
        ordered = isinstance(values[0], int | float)
        if ordered:
            pairs = sorted(zip(values, rows, strict=True), key=lambda pair: pair[0])
            values, rows = [list(column) for column in zip(*pairs, strict=True)]
        labels = [_label(value) + (" (base)" if row is base else "")
                  for value, row in zip(values, rows, strict=True)]  # fmt: skip
        # A linha só liga valores que têm ordem; métodos e listas de camadas ficam soltos.
        ax.plot(labels, [row["perplexidade"] for row in rows], "o-" if ordered else "o")
        for place, row in enumerate(rows):
            ax.plot([place] * len(row["sementes"]), row["sementes"], "x", color="gray")
        ax.set_title(factor)
        ax.tick_params(axis="x", rotation=20)
    for ax in axes.flat[len(factors) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("perplexidade (validação)")
    return utils.save_figure(figure, f"dia4_estudo_{result['nivel']}")
