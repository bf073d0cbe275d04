"""O painel: o que evaluate.py e train.py mediram, para a aba Métricas e para dashboard.py.

Aqui se junta o que há para mostrar; o texto e a ordem estão em panel.html.
"""

from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from comum.files import read_jsonl
from comum.numbers import decimal
from comum.paths import RESULTS_DIR
from comum.results import Evaluation, Score, Variant

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from loja_sql.config import Config
from loja_sql.page import charts
from loja_sql.scores.tables import DIFFICULTIES
from loja_sql.sql.causes import CAUSES

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
SAMPLES = 8
SAMPLES_PER_CAUSE = 3
PLACE = Markup("<!-- figura -->")  # onde, no HTML, entra cada figura
NO_TOOLBAR = {"displayModeBar": False}  # a do plotly fala inglês

Piece = str | go.Figure


def page(config: Config) -> str:
    """O painel como um arquivo HTML só, com o plotly e o estilo dentro: nada vem de fora."""
    body, library = "", True
    for piece in pieces(config):
        if isinstance(piece, go.Figure):
            piece, library = piece.to_html(NO_TOOLBAR, True, library, full_html=False), False
        body += piece
    facts = {"name": config.output_dir.name, "style": Markup(STYLE.read_text(encoding="utf-8"))}
    return _templates().get_template("dashboard.html").render(**facts, body=Markup(body))


def pieces(config: Config) -> list[Piece]:
    """O painel em pedaços de HTML e figuras, na ordem em que se leem.

    Raises:
        UserError: um dos arquivos de resultados não se lê.
    """
    figures: list[go.Figure] = []

    def draw(figure: go.Figure) -> Markup:
        figures.append(figure)
        return PLACE

    path = RESULTS_DIR / f"mini_projeto_{config.output_dir.name}_test.json"
    facts = {"evaluation": None, "losses": losses(config.output_dir / "metrics.jsonl")}
    if path.is_file():
        facts |= measured(Evaluation.load(path), _rows(path.with_suffix(".jsonl")))
    html = _templates().get_template("panel.html").render(**facts, draw=draw)
    texts = html.split(PLACE)
    return [piece for pair in zip_longest(texts, figures) for piece in pair if piece is not None]


def _templates() -> Environment:
    found = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    found.globals |= {"charts": charts}
    found.filters |= {"decimal": decimal, "share": charts.share}
    return found


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path) if path.is_file() else []


def losses(path: Path) -> dict[str, list[tuple[float, float]]]:
    """As curvas de perda do `metrics.jsonl` de um treino: nome → pontos (passo, nats)."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in _rows(path):
        for key, name in (("loss", "treino"), ("eval_loss", "validação")):
            if key in record:
                series[name].append((record["step"], record[key]))
    return series


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
        "kinds": _counted(variants[main].by_kind),
        "levels": _counted({name: levels[name] for name in DIFFICULTIES if name in levels}),
        "learning": learning(variants),
        "causes": [x for x in CAUSES if any(x in v.error_causes for v in variants.values())],
        "failures": failures(rows, main),
        "samples": samples(rows, list(variants)),
    }


def _counted(scores: dict[str, Score]) -> dict[str, Score]:
    return {f"{name} ({score.n})": score for name, score in scores.items()}


def learning(variants: dict[str, Variant]) -> dict[str, Score]:
    """A acurácia por treino medido nestas perguntas, se do mesmo método que o primeiro deles."""
    trained = {n: v for n, v in variants.items() if v.group in ("trained", "others") and v.training}
    method = next((part.training.method for part in trained.values()), None)
    same = {name: part for name, part in trained.items() if part.training.method == method}
    ordered = sorted(same, key=lambda name: same[name].training.examples)
    return {
        f"{decimal(same[name].training.examples)} exemplos: {name}": same[name].execution_accuracy
        for name in ordered
    }


def failures(rows: list[dict], main: str) -> list[tuple[str, int, list[dict]]]:
    """Os erros da variante `main`: causa, quantos são e alguns deles."""
    wrong = [row for row in rows if row["variant"] == main and row["cause"]]
    groups = [(label, [row for row in wrong if row["cause"] == label]) for label in CAUSES]
    return [(label, len(group), group[:SAMPLES_PER_CAUSE]) for label, group in groups if group]


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
