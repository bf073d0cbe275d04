"""Os resultados de uma pasta, escritos em Markdown: os blocos do caderno e a página inteira.

O texto está em dois moldes: `book.jinja` (um bloco por dia, com as tabelas do plano da semana) e
`page.jinja` (todos os números). Aqui ficam a leitura e as contas que eles pedem.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Self

from comum import labels
from comum.numbers import MIB, MISSING, decimal, general, interval, p_value, percent, signed
from comum.results import (
    Day3,
    Day4,
    Day4Study,
    Day5,
    Day6Data,
    Day6Metrics,
    Day6Training,
    Evaluation,
    Gpu,
    Result,
    Score,
    Variant,
)

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# De cada parte: a forma, o arquivo da rodada inteira e, na falta dele, os que servem, em ordem.
FILES: dict[str, tuple] = {
    "day3": (Day3, "dia3_full", "dia3_full_quick"),
    "day4": (Day4, "dia4_lora", "dia4_lora_quick"),
    "study": (Day4Study, "dia4_estudo_full", "dia4_estudo_quick"),
    "day5": (Day5, "dia5_quantizacao", "dia5_quantizacao_quick"),
    "data": (Day6Data, "dia6_dados", "dia6_dados_quick"),
    "metrics": (Day6Metrics, "dia6_metricas", "dia6_metricas_quick"),
    "tuning": (Day6Training, "dia6_treino", "dia6_treino_quick"),
    "gpu": (Gpu, "gpu"),
    "project": (
        Evaluation,
        *("mini_projeto_lora_test", "mini_projeto_pronto_test", "mini_projeto_rapido_test"),
    ),
}
SHIPPED = {  # o modelo que vem pronto, pelo nome de cada teste
    "teste": (Evaluation, "mini_projeto_pronto_test"),
    "teste, um erro de digitação em cada pergunta": (Evaluation, "mini_projeto_pronto_test_typos"),
    "segundo teste": (Evaluation, "mini_projeto_pronto_test_2"),
    "terceiro teste": (Evaluation, "mini_projeto_pronto_test_3"),
}
FILES |= SHIPPED
TRIED = 3  # colunas de valores na tabela do plano
TUNED = ("r", "alpha", "dropout", "learning_rate")
# O que mais tem de ser igual entre dois treinos para a diferença ser do hiperparâmetro.
EQUAL = ("model", "target_modules", "epochs", "batch_size", "train_examples", "load_in_4bit")
TECHNIQUES = {
    "bnb": "bitsandbytes",
    "int8": "8 bits (LLM.int8)",
    "double": "escala dupla",
    "rtn": "só arredondar",
    "4bit": "4 bits",
    "8bit": "8 bits",
    "fp32": "fp32",
    "bf16": "bf16",
}


@dataclass(frozen=True)
class Measured:
    """O que há numa pasta de resultados; None: não se mediu.

    `tries` é o dia 4, vez a vez; `shipped`, o modelo pronto, teste a teste.
    """

    day3: Day3 | None
    day4: Day4 | None
    study: Day4Study | None
    day5: Day5 | None
    data: Day6Data | None
    metrics: Day6Metrics | None
    tuning: Day6Training | None
    gpu: Gpu | None
    project: Evaluation | None
    tries: dict[str, Day4]
    shipped: dict[str, Evaluation]

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
        found["day4"] = found["day4"] or next(iter(tries.values()), None)
        shipped = {part: x for part in SHIPPED if (x := found.pop(part))}
        return cls(**found, tries=tries, shipped=shipped)


def block_lines(name: str, found: Measured) -> list[str]:
    """As linhas do bloco de um dia: as tabelas do plano, cheias ou ainda vazias."""
    days = MOLDS.get_template("book.jinja").make_module(vars(found))
    text = getattr(days, name)().strip("\n")
    # Nada que venha de um resultado parece uma marca.
    return text.replace("<!", "&lt;!").replace("-->", "--&gt;").split("\n")


def page(title: str, opening: str, found: Measured) -> str:
    """A página inteira de uma pasta."""
    results = {key: x for key, x in vars(found).items() if isinstance(x, Result)}
    results |= {f"shipped{n}": x for n, x in enumerate(found.shipped.values(), 1)}
    words = {"title": title, "opening": opening, "results": results}
    return MOLDS.get_template("page.jinja").render(vars(found) | words).rstrip() + "\n"


# --- o que os moldes pedem ------------------------------------------------------------------------
def day_of(result: Result) -> str:
    """Quando se mediu, e se foi a rodada curta: `25/11/2026 (rodada curta)`."""
    day = datetime.fromisoformat(result.when).strftime("%d/%m/%Y") if result.when else "sem data"
    # O estudo do dia 4 é curto por padrão, e o comando pode não o dizer.
    known = f"{result.command} {getattr(result, 'level', '')}"
    return day + " (rodada curta)" * bool(re.search("quick|rapido", known))


def score(scores: dict[str, Score], key: str) -> str:
    """A nota de `SCORES`, com o intervalo de 95%."""
    _, places, scale = labels.SCORES[key]
    return interval(scores.get(key), places, scale)


def change(before: dict[str, Score], after: dict[str, Score], key: str) -> str:
    """O que mudou: em pontos, nas notas em que mais é melhor; em porcentagem, nas outras."""
    if not (key in before and key in after):
        return MISSING
    old, new, (_, places, scale) = before[key].value, after[key].value, labels.SCORES[key]
    if "perplexity" in key or key.startswith("outside"):
        return signed(100 * (new / old - 1), 1, "%")
    return signed(scale * (new - old), places, " pontos")


def apart(before: dict[str, Score], after: dict[str, Score], key: str) -> bool:
    """Diz se os intervalos das duas medidas ficam sem nada em comum."""
    return key in before and key in after and before[key].apart(after[key])


def lowest(result: Day3) -> tuple[float | None, int | None]:
    """A menor perda de validação e o passo em que veio."""
    losses = [(x.eval_loss, x.step) for x in result.curve if x.eval_loss is not None]
    return min(losses, default=(None, None))


def probability(value: float) -> str:
    """`p = 0,12` ou `p < 0,001`."""
    return f"p = {p_value(value)}".replace("= <", "<")


def mib(size: float | None) -> str:
    return decimal(None if size is None else size / MIB)


def over(above: float | None, below: float | None, places: int = 3) -> str:
    """Quantas vezes `below` cabe em `above`."""
    return decimal(above / below if above is not None and below else None, places)


def described(settings: dict) -> str:
    """Uma configuração em palavras: `posto 42, alpha 84`."""
    names = labels.HYPERPARAMETERS
    known = ((names[key], value) for key, value in settings.items() if key in names)
    return ", ".join(f"{name} {labels.hyperparameter(value)}" for name, value in known)


def technique(name: str) -> str:
    """O nome de uma técnica para quem lê: `gptq-4bit-g64` vira `GPTQ, 4 bits, grupos de 64`."""
    words = (re.sub(r"^g(\d+)$", r"grupos de \1", part) for part in name.split("-"))
    return ", ".join(TECHNIQUES.get(x, x if " " in x else x.upper()) for x in words)


def label(name: str, variant: Variant) -> str:
    """Uma forma pelo nome da técnica; outro treino, pelo método e pelos exemplos, com a pasta."""
    trained, _, part = name.rpartition(", ")
    if variant.group == "forms":
        return f"{trained}, {technique(part)}"
    if variant.group != "others" or not (training := variant.training):
        return name
    return f"{labels.training_title(training)} (`{part}`)"


def first(project: Evaluation, group: str, ending: str = "") -> Variant | None:
    """A primeira variante do grupo cujo nome acaba assim."""
    named = project.variants.items()
    return next((v for n, v in named if v.group == group and n.endswith(ending)), None)


def best_kind(variant: Variant) -> str:
    """O tipo de pergunta em que a variante vai melhor: o de intervalo mais alto."""
    name, found = max(variant.by_kind.items(), key=lambda item: item[1].ci95[0])
    return f"melhor em {name}: {percent(found.value, 0)} de {found.n}" if found.value else "nenhum"


def tried(study: Day4Study | None, tries: dict[str, Day4]) -> dict[str, list[str]]:
    """De cada hiperparâmetro, os valores com tudo o mais igual, e por fim o melhor.

    Entram os treinos com o LoRA comum: os do estudo e cada rodada da lição.
    """
    points = [(study.base | row.change, row.perplexity) for row in study.rows] if study else []
    points = [point for point in points if point[0]["method"] == "lora"]
    for run in (result.runs["lora"] for result in tries.values() if "lora" in result.runs):
        points.append((run.settings, run.validation["perplexity_token"].value))
    return {name: _values(points, name) for name in TUNED} if points else {}


def _values(points: list[tuple[dict, float]], name: str) -> list[str]:
    groups: dict[tuple, dict] = defaultdict(lambda: defaultdict(list))
    sizes: Counter[tuple] = Counter()
    for settings, perplexity in points:
        data = tuple(str(settings.get(key)) for key in EQUAL)
        others = (str(settings.get(key)) for key in TUNED if key != name)
        groups[data, *others][settings[name]].append(perplexity)
        sizes[data] += 1

    def rank(key: tuple) -> tuple:
        return len(groups[key]), sizes[key[0]], -min(map(mean, groups[key].values()))

    # De vários grupos comparáveis, o que tentou mais valores; depois, o dos dados mais usados.
    means = {value: mean(losses) for value, losses in groups[max(groups, key=rank)].items()}
    best = sorted(means, key=means.get)
    cells = [f"{general(value)}: {decimal(means[value], 2)}" for value in sorted(best[:TRIED])]
    return [*cells, *[""] * (TRIED - len(cells)), general(best[0]) if len(best) > 1 else MISSING]


def cell(text: str) -> str:
    """Um texto que não escrevemos, numa célula só."""
    return " ".join(text.split()).replace("|", "\\|")


MOLDS = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    finalize=lambda value: MISSING if value is None else value,
    trim_blocks=True,
    lstrip_blocks=True,
)
FILTERS = (best_kind, cell, day_of, described, general, interval, mib, p_value, percent)
FILTERS += (probability, technique, labels.hyperparameter)
MOLDS.filters |= {x.__name__: x for x in FILTERS} | {"n": decimal}
MOLDS.globals |= {x.__name__: x for x in (apart, change, first, label, lowest, over, score, tried)}
MOLDS.globals["labels"] = labels
