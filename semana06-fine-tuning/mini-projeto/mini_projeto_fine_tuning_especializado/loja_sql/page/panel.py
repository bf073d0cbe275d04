"""O painel: o que evaluate.py e train.py mediram, para a aba Métricas e para dashboard.py.

Aqui se junta o que há para mostrar; o texto e a ordem estão em dashboard.html (a página) e em
panel.html (o que se diz de cada avaliação).
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from comum.files import read_jsonl
from comum.labels import training_title
from comum.numbers import decimal, interval
from comum.paths import REFERENCE_DIR, RESULTS_DIR
from comum.results import Evaluation, Score, Variant

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loja_sql.config import Config
from loja_sql.model.summary import METRICS
from loja_sql.page import charts
from loja_sql.page.words import written
from loja_sql.questions.splits import NAMES
from loja_sql.scores.overview import DIFFICULTIES
from loja_sql.sql.causes import CAUSES

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
PREFIX = "mini_projeto_"
SAMPLES_PER_CAUSE = 5
FORMS = {
    "bf16": "bf16 (16 bits)",
    "f16": "f16 (GGUF, 16 bits)",
    "nf4": "NF4 (4 bits)",
    "gptq": "GPTQ (4 bits)",
    "q8_0": "q8_0 (GGUF, 8 bits)",
    "q4_k_m": "q4_k_m (GGUF, 4 bits)",
    "q4_0": "q4_0 (GGUF, 4 bits)",
}
SAVE_ONLY = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]]}


def draw(figure: go.Figure) -> Markup:
    """A figura em HTML; o plotly.js entra uma vez só, no começo da página."""
    return Markup(figure.to_html(SAVE_ONLY, include_plotlyjs=False, full_html=False))


TEMPLATES = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
TEMPLATES.globals |= {"charts": charts, "draw": draw, "SAMPLES_PER_CAUSE": SAMPLES_PER_CAUSE}
TEMPLATES.globals["SPLIT_NAMES"] = NAMES
TEMPLATES.filters |= {"decimal": decimal, "interval": interval, "written": written}


def page(config: Config) -> str:
    """O painel como um arquivo HTML só, com o plotly e o estilo dentro: nada vem de fora.

    Traz todas as avaliações achadas, em qualquer divisão; a que se vê primeiro é a do treino de
    `config`. Sem nenhuma, mostra a que vem com o repositório. UserError se um resultado não se lê.
    """
    found = sorted(RESULTS_DIR.glob(f"{PREFIX}*.json"))
    own = bool(found)
    paths = {
        _run_name(path): path
        for path in found or sorted(REFERENCE_DIR.glob(f"{PREFIX}*_test.json"))
    }
    name = config.output_dir.name
    # A do teste ou, se falta, a de outra divisão.
    here = [run for run in paths if run == name or run.startswith(f"{name}_")]
    first = next(iter(here or paths), "")
    runs = {
        run: measured(*_read(paths[run])) for run in sorted(paths, key=lambda run: run != first)
    }
    facts = {"name": name, "own": own, "runs": runs, "losses": losses(config.output_dir)}
    facts |= {"style": Markup(STYLE.read_text("utf-8")), "plotly": Markup(get_plotlyjs())}
    return TEMPLATES.get_template("dashboard.html").render(**facts, answers=answers(runs))


def _run_name(path: Path) -> str:
    return path.stem.removeprefix(PREFIX).removesuffix("_test")


def _read(path: Path) -> tuple[Evaluation, list[dict]]:
    evaluation, lines = Evaluation.load(path), path.with_suffix(".jsonl")
    rows = read_jsonl(lines) if lines.is_file() else []
    # Interrompida entre um arquivo e outro, a avaliação deixa respostas ainda sem notas.
    return evaluation, [row for row in rows if row["variant"] in evaluation.variants]


def losses(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """As curvas de perda deste treino e a de validação dos outros da mesma pasta."""
    series = {}
    files = sorted(folder.parent.glob(f"*/{METRICS}"), key=lambda path: path.parent != folder)
    for path in files:
        kinds = {"loss": "treino"} if path.parent == folder else {}
        for key, label in (kinds | {"eval_loss": "validação"}).items():
            points = [(row["step"], row[key]) for row in read_jsonl(path) if key in row]
            if points:
                series[f"{path.parent.name}: {label}"] = points
    return series


def measured(evaluation: Evaluation, rows: list[dict]) -> dict:
    """O que o painel diz de uma avaliação; `rows` são as respostas, uma por pergunta e variante."""
    variants = evaluation.variants
    title = titles(variants)
    # O treinado; se ele não foi medido, a primeira variante.
    main = next((n for n, v in variants.items() if v.group == "trained"), next(iter(variants)))
    best = sorted(variants, key=lambda name: -variants[name].execution_accuracy.value)
    # Outra redação da pergunta não é outro modelo: o tamanho e o tempo são os mesmos.
    models = {title[n]: variants[n] for n in best if variants[n].group != "wordings"}
    right = {name: 100 * part.execution_accuracy.value for name, part in models.items()}
    sized = {name: part.weights_bytes for name, part in models.items() if part.weights_bytes}
    levels = variants[main].by_difficulty
    known = [cause for cause in CAUSES if any(cause in v.error_causes for v in variants.values())]
    return {
        "evaluation": evaluation,
        "main": title[main],
        "part": variants[main],
        "variants": {title[name]: variants[name] for name in best},
        "accuracy": {title[name]: variants[name].execution_accuracy for name in best},
        "sizes": {_short(n): (size / 1e6, right[n]) for n, size in sized.items()},
        "times": {_short(n): (part.latency.p50_s, right[n]) for n, part in models.items()},
        "levels": {name: levels[name] for name in DIFFICULTIES if name in levels},
        "learning": learning(variants),
        "declines": declines({title[name]: variants[name] for name in best}),
        "causes": known,
        "wrong": [row for row in rows if row["variant"] == main and row["cause"]],
        "rows": [row | {"variant": title[row["variant"]]} for row in rows],
    }


def titles(variants: dict[str, Variant]) -> dict[str, str]:
    """Cada variante com palavras de gente: o método e quantos exemplos, os bits de uma forma."""
    found = {name: _title(name, part) for name, part in variants.items()}
    repeated = Counter(found.values())
    return {
        name: text if repeated[text] == 1 else f"{text}: {name.rpartition(', ')[2]}"
        for name, text in found.items()
    }


def _title(name: str, part: Variant) -> str:
    form = name.rpartition(", ")[2]
    if part.group == "forms":
        return FORMS.get(form, form)
    if part.group == "others" and part.training:
        return training_title(part.training)
    return name.replace("base com esquema", "sem treino")


def _short(title: str) -> str:
    """O que cabe ao lado de um ponto, também no telefone."""
    return title.replace(" exemplos", " ex.")


def learning(variants: dict[str, Variant]) -> list[tuple[int, Score]]:
    """(exemplos, acurácia) de cada treino do método do primeiro, o melhor de cada tamanho."""
    found = [v for v in variants.values() if v.group in ("trained", "others") and v.training]
    same = [v for v in found if v.training.method == found[0].training.method]
    same.sort(key=lambda part: part.execution_accuracy.value)
    best = {part.training.examples: part.execution_accuracy for part in same}
    return sorted(best.items())


def declines(variants: dict[str, Variant]) -> dict[str, Score]:
    """Com que frequência cada modelo diz "não sei" quando deve e quando não deve."""
    found = {}
    for name, part in variants.items():
        if part.declined_right and part.declined_right.value + part.declined_wrong.value:
            found[f"{name}: o banco não responde"] = part.declined_right
            found[f"{name}: o banco responde"] = part.declined_wrong
    return found


def answers(runs: dict[str, dict]) -> dict:
    """O que a comparação de duas a duas precisa: as perguntas e, por variante, o que respondeu."""
    questions: dict[str, tuple[str, str]] = {}
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for run, facts in runs.items():
        # O treinado encabeça a lista: com o seguinte, é o par que se mostra primeiro.
        for row in sorted(facts["rows"], key=lambda row: row["variant"] != facts["main"]):
            key = f"{row['id']}: {row['gold']}"  # a pergunta, há quem a receba noutra redação
            questions.setdefault(key, (row["question"], row["gold"]))
            name = row["variant"] if len(runs) == 1 else f"{run} · {row['variant']}"
            found.setdefault(name, {})[key] = row["predicted"], int(row["correct"])
    return {"questions": questions, "variants": found} if len(found) > 1 else {}


def cause_counts(variants: dict[str, Variant], causes: Iterable[str]) -> dict[str, list[int]]:
    """Quantas respostas de cada variante erraram por cada causa."""
    return {c: [part.error_causes.get(c, 0) for part in variants.values()] for c in causes}


TEMPLATES.globals["cause_counts"] = cause_counts
TEMPLATES.policies["json.dumps_kwargs"] = {"sort_keys": False}  # a ordem das perguntas e das notas
