"""Os resultados de uma pasta e as células que o caderno e a página deles dividem."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from comum.labels import SCORES
from comum.numbers import decimal, interval, p_value, percent, signed
from comum.results import (
    Day3,
    Day4,
    Day4Study,
    Day5,
    Day6Data,
    Day6Metrics,
    Day6Training,
    Evaluation,
    Result,
    Score,
    Variant,
)

# De cada parte: a forma, o arquivo da corrida inteira e, na falta dele, o da curta.
FILES: dict[str, tuple[type[Result], str, str]] = {
    "day3": (Day3, "dia3_full", "dia3_full_quick"),
    "day4": (Day4, "dia4_lora", "dia4_lora_quick"),
    "study": (Day4Study, "dia4_estudo_full", "dia4_estudo_quick"),
    "day5": (Day5, "dia5_quantizacao", "dia5_quantizacao_quick"),
    "data": (Day6Data, "dia6_dados", "dia6_dados_quick"),
    "metrics": (Day6Metrics, "dia6_metricas", "dia6_metricas_quick"),
    "tuning": (Day6Training, "dia6_treino", "dia6_treino_quick"),
    "project": (Evaluation, "mini_projeto_lora_test", "mini_projeto_rapido_test"),
}


@dataclass(frozen=True)
class Measured:
    """O que há numa pasta de resultados; None: não se mediu. `tries`: o dia 4, vez a vez."""

    day3: Day3 | None
    day4: Day4 | None
    study: Day4Study | None
    day5: Day5 | None
    data: Day6Data | None
    metrics: Day6Metrics | None
    tuning: Day6Training | None
    project: Evaluation | None
    tries: dict[str, Day4]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Lê o que há em `folder`; UserError se um arquivo não tem a forma esperada."""
        found = {}
        for part, (shape, *names) in FILES.items():
            paths = (folder / f"{name}.json" for name in names)
            path = next((path for path in paths if path.is_file()), None)
            found[part] = path and shape.load(path)
        kept = sorted(folder.glob("dia4_lora*.json"))
        names = [path.stem.removeprefix("dia4_lora").strip("_") for path in kept]
        tries = {n or "sem nome": Day4.load(p) for n, p in zip(names, kept, strict=True)}
        return cls(**found, tries=tries)


def day_of(result: Result) -> str:
    """Quando se mediu, e se foi a corrida curta: `25/11/2026 (corrida curta)`."""
    day = datetime.fromisoformat(result.when).strftime("%d/%m/%Y") if result.when else "sem data"
    return day + " (corrida curta)" * bool(re.search("quick|rapido", result.command))


def score(scores: dict[str, Score], key: str) -> str:
    """A nota de `SCORES`, com o intervalo de 95%."""
    _, places, scale = SCORES[key]
    return interval(scores.get(key), places, scale)


def change(before: dict[str, Score], after: dict[str, Score], key: str) -> str:
    """O que mudou: em pontos, nas notas em que mais é melhor; em porcentagem, nas outras."""
    if not (key in before and key in after):
        return ""
    old, new, (_, places, scale) = before[key].value, after[key].value, SCORES[key]
    if "perplexity" in key or key.startswith("outside"):
        return signed(100 * (new / old - 1), 1, "%")
    return signed(scale * (new - old), places, " pontos")


def ratio(above: float | None, below: float | None, places: int = 2) -> str:
    """Quantas vezes `below` cabe em `above`."""
    return decimal(above / below if above is not None and below else None, places)


def probability(value: float) -> str:
    """`p = 0,12` ou `p < 0,001`."""
    written = p_value(value)
    return f"p {written}" if written.startswith("<") else f"p = {written}"


def written(value: object) -> str:
    """O valor de um hiperparâmetro, em português: `0,004`; `q, v`."""
    if isinstance(value, list):
        return ", ".join(name.removesuffix("_proj") for name in value)
    return f"{value:.6g}".replace(".", ",") if isinstance(value, int | float) else str(value)


def first_of(project: Evaluation, group: str, ending: str = "") -> Variant | None:
    """A primeira variante do grupo cujo nome acaba assim."""
    named = project.variants.items()
    return next((v for n, v in named if v.group == group and n.endswith(ending)), None)


def best_kind(variant: Variant) -> str:
    """O tipo de pergunta em que a variante vai melhor: o de intervalo mais alto."""
    name, found = max(variant.by_kind.items(), key=lambda item: item[1].ci95[0])
    return f"melhor em {name}: {percent(found.value, 0)} de {found.n}" if found.value else "nenhum"
