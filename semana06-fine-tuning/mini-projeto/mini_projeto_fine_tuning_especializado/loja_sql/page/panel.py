"""O painel: o que evaluate.py e train.py mediram, para a aba Métricas e para dashboard.py.

Aqui se junta o que há para mostrar; o texto e a ordem estão em panel.html.
"""

from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from comum.files import read_jsonl
from comum.numbers import decimal, interval
from comum.paths import RESULTS_DIR
from comum.results import Evaluation, Score, Variant

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from loja_sql.config import Config
from loja_sql.page import charts
from loja_sql.scores.overview import DIFFICULTIES
from loja_sql.sql.causes import CAUSES

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
SAMPLES, SAMPLES_PER_CAUSE = 8, 3
PLACE = Markup("<!-- figura -->")  # onde, no HTML, entra cada figura
NO_TOOLBAR = {"displayModeBar": False}  # a do plotly fala inglês
TEMPLATES = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
TEMPLATES.globals |= {"charts": charts, "SAMPLES_PER_CAUSE": SAMPLES_PER_CAUSE}
TEMPLATES.filters |= {"decimal": decimal, "interval": interval}


def page(config: Config) -> str:
    """O painel como um arquivo HTML só, com o plotly e o estilo dentro: nada vem de fora."""
    body, library = "", True
    for piece in pieces(config):
        if isinstance(piece, go.Figure):
            piece, library = piece.to_html(NO_TOOLBAR, True, library, full_html=False), False
        body += piece
    facts = {"name": config.output_dir.name, "style": Markup(STYLE.read_text(encoding="utf-8"))}
    return TEMPLATES.get_template("dashboard.html").render(**facts, body=Markup(body))


def pieces(config: Config) -> list[str | go.Figure]:
    """O painel em pedaços de HTML e figuras, em ordem; UserError se um resultado não se lê."""
    figures: list[go.Figure] = []

    def draw(figure: go.Figure) -> Markup:
        figures.append(figure)
        return PLACE

    path = RESULTS_DIR / f"mini_projeto_{config.output_dir.name}_test.json"
    facts = {"evaluation": None, "losses": losses(_rows(config.output_dir / "metrics.jsonl"))}
    if path.is_file():
        facts |= measured(Evaluation.load(path), _rows(path.with_suffix(".jsonl")))
    html = TEMPLATES.get_template("panel.html").render(**facts, draw=draw)
    texts = html.split(PLACE)
    return [piece for pair in zip_longest(texts, figures) for piece in pair if piece is not None]


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path) if path.is_file() else []


def losses(records: list[dict]) -> dict[str, list[tuple[float, float]]]:
    """As curvas de perda de um treino: nome → pontos (passo, nats)."""
    names = {"treino": "loss", "validação": "eval_loss"}
    series = {n: [(r["step"], r[key]) for r in records if key in r] for n, key in names.items()}
    return {name: points for name, points in series.items() if points}


def measured(evaluation: Evaluation, rows: list[dict]) -> dict:
    """O que o painel diz de uma avaliação; `rows` são as respostas, uma por pergunta e variante."""
    variants = evaluation.variants
    # O treinado; se ele não foi medido, a primeira variante.
    main = next((n for n, v in variants.items() if v.group == "trained"), next(iter(variants)))
    # Outra redação da pergunta não é outro modelo: o tamanho e o tempo são os mesmos.
    models = {name: part for name, part in variants.items() if part.group != "wordings"}
    right = {name: 100 * part.execution_accuracy.value for name, part in models.items()}
    sized = {name: part.weights_bytes for name, part in models.items() if part.weights_bytes}
    levels = variants[main].by_difficulty
    return {
        "evaluation": evaluation,
        "main": main,
        "accuracy": {name: part.execution_accuracy for name, part in variants.items()},
        "sizes": {name: (size / 1e6, right[name]) for name, size in sized.items()},
        "times": {name: (part.latency.p50_s, right[name]) for name, part in models.items()},
        "levels": {name: levels[name] for name in DIFFICULTIES if name in levels},
        "learning": learning(variants),
        "causes": [x for x in CAUSES if any(x in v.error_causes for v in variants.values())],
        "wrong": [row for row in rows if row["variant"] == main and row["cause"]],
        "samples": samples(rows, list(variants)),
    }


def learning(variants: dict[str, Variant]) -> dict[str, Score]:
    """A acurácia por treino medido nestas perguntas, se do mesmo método que o primeiro deles."""
    found = [(n, v) for n, v in variants.items() if v.group in ("trained", "others") and v.training]
    same = [(n, v) for n, v in found if v.training.method == found[0][1].training.method]
    same.sort(key=lambda item: item[1].training.examples)
    return {f"{decimal(v.training.examples)} exemplos: {n}": v.execution_accuracy for n, v in same}


def samples(rows: list[dict], order: list[str]) -> list[tuple[dict, dict]]:
    """Perguntas espaçadas: uma linha, e as variantes que deram a mesma resposta, por resposta."""
    by_question: dict[str, list[dict]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: order.index(row["variant"])):
        by_question[row["id"]].append(row)
    found = []
    for group in list(by_question.values())[:: max(1, len(by_question) // SAMPLES)][:SAMPLES]:
        same: dict[tuple[str, str | None], list[str]] = defaultdict(list)
        for row in group:
            same[row["predicted"], row["cause"]].append(row["variant"])
        found.append((group[0], same))
    return found
