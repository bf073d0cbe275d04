"""Gráficos do plotly, os mesmos na página e no painel gravado.

Os fundos são transparentes e a cor dos textos é a da página (style.css): valem no tema claro, no
escuro e no papel. O plotly lê marcas de HTML nos textos, e por isso todo rótulo passa por `_safe`:
rótulos vêm do banco e do modelo.
"""

import math
import textwrap
from collections.abc import Sequence
from html import escape

from comum.numbers import any_size, decimal, interval, percent
from comum.results import Score

import plotly.graph_objects as go

from loja_sql.sql.database import Result

MAX_BARS = 40
LABEL_CHARS, LABEL_LINES = 20, 3
COLORS = ["#3b82f6", "#ea580c", "#16a34a", "#8b5cf6"]
CLEAR, GRID = "rgba(0,0,0,0)", "rgba(128,128,128,.3)"
CLOSE = 0.08  # pontos mais perto que esta fração dos eixos dividem um número


def bars(rows: Sequence[tuple[str, float, str]], top: float, hover: Sequence[str] = ()):
    """Barras horizontais, de cima para baixo: (rótulo, valor, texto do valor).

    `top` é o valor que ocupa a largura toda; `hover`, o que se lê ao passar por cima.
    """
    names, values, texts = zip(*rows, strict=True)
    labels, texts = [_safe(name) for name in names], [_safe(text) for text in texts]
    places, edge = list(range(len(rows))), 1.03 * top
    notes = [f"{_safe(n, 60)}: {note}" for n, note in zip(names, hover or texts, strict=True)]
    bar = go.Bar(x=values, y=places, orientation="h", hovertext=notes, hoverinfo="text")
    # Os valores ficam numa coluna à direita: ao lado da barra, cobririam o intervalo.
    column = go.Scatter(x=[edge] * len(rows), y=places, text=texts, mode="text", hoverinfo="skip")
    column.update(textposition="middle right", cliponaxis=False)
    lines = 1 + max(label.count("<br>") for label in labels)
    figure = _figure([bar, column], 16 + len(rows) * (10 + 15 * lines))
    figure.update_layout(bargap=0.35, margin_r=10 + 7 * max(map(len, texts)), dragmode=False)
    figure.update_xaxes(range=[0, edge], showticklabels=False, fixedrange=True)
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False)
    return figure.update_yaxes(range=[len(rows) - 0.5, -0.5], fixedrange=True)


def score_bars(scores: dict[str, Score], counted: bool = False) -> go.Figure:
    """Barras de frações, até 100%, com os intervalos de 95%; `counted` diz quantas perguntas."""
    parts = scores.values()
    names = [f"{name} ({part.n})" if counted else name for name, part in scores.items()]
    rows = [(n, p.value, percent(p.value)) for n, p in zip(names, parts, strict=True)]
    above = [max(0.0, part.ci95[1] - part.value) for part in parts]
    below = [max(0.0, part.value - part.ci95[0]) for part in parts]
    whiskers = {"symmetric": False, "array": above, "arrayminus": below, "color": "gray"}
    figure = bars(rows, 1, [f"{interval(part, 1, 100)} %" for part in parts])
    return figure.update_traces(error_x=whiskers | {"thickness": 1.5, "width": 3}, selector=0)


def curves(series: dict[str, Sequence[tuple[float, float]]], x_label: str, y_label: str):
    """Curvas a partir de zero: nome → pontos (x, y) em ordem de x."""
    traces = []
    for name, points in series.items():
        xs, ys = zip(*points, strict=True)
        traces.append(go.Scatter(x=xs, y=ys, name=name, mode="lines+markers", marker_size=4))
    figure = _figure(traces, 300, x_label, y_label).update_layout(showlegend=True)
    return figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})


def scatter(points: dict[str, tuple[float, float]], x_label: str, y_label: str) -> go.Figure:
    """Um ponto numerado por nome, na ordem dada; `y` é uma porcentagem."""
    xs, ys = zip(*points.values(), strict=True)
    trace = go.Scatter(x=xs, y=ys, text=_numbers(xs, ys), mode="markers+text", marker_size=9)
    hover = [_safe(name, 60) for name in points]
    trace.update(textposition="top center", cliponaxis=False, hovertext=hover)
    trace.update(hovertemplate="%{hovertext}<br>%{x}; %{y:.1f}%<extra></extra>")
    figure = _figure([trace], 300, x_label, y_label).update_yaxes(range=[-4, 108])
    return figure.update_xaxes(range=[0, 1.08 * max(xs)])


def _numbers(xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    """O número de cada ponto; os que cairiam uns sobre os outros vão juntos no primeiro deles."""
    spots = [(x / (max(xs) or 1), y / 100) for x, y in zip(xs, ys, strict=True)]
    groups: dict[int, list[str]] = {}
    for place, spot in enumerate(spots):
        first = next((g for g in groups if math.dist(spots[g], spot) < CLOSE), place)
        groups.setdefault(first, []).append(str(place + 1))
    return [", ".join(groups.get(place, [])) for place in range(len(spots))]


def chart_for(result: Result) -> go.Figure | None:
    """As linhas de uma consulta como barras; None se não têm forma para isso.

    A forma: de 2 a MAX_BARS linhas de (texto, sem repetição; número, sem negativos).
    """
    rows = result.rows
    if not 2 <= len(rows) <= MAX_BARS or len(result.columns) != 2:
        return None
    labels, values = zip(*rows, strict=True)
    numeric = all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in values)
    named = all(isinstance(label, str) for label in labels)
    if not (numeric and named and any(values)) or len(set(labels)) < len(labels):
        return None
    write = decimal if all(isinstance(value, int) for value in values) else any_size
    return bars([(name, value, write(value)) for name, value in rows], max(values))


def _safe(text: str, width: int = LABEL_CHARS) -> str:
    """O texto em até LABEL_LINES linhas, sem nada que o plotly leia como HTML."""
    lines = textwrap.wrap(text[:500], width, max_lines=LABEL_LINES, placeholder="…")
    return "<br>".join(escape(line, quote=False) for line in lines)


def _figure(traces: list, height: int, x_label: str = "", y_label: str = "") -> go.Figure:
    figure = go.Figure(traces).update_layout(template="none", colorway=COLORS, separators=",.")
    figure.update_layout(height=height, margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False)
    figure.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, font_family="system-ui")
    figure.update_layout(hoverlabel={"bgcolor": "#222", "font_color": "#fff", "align": "left"})
    common = {"automargin": True, "gridcolor": GRID, "zerolinecolor": GRID, "rangemode": "tozero"}
    return figure.update_xaxes(title=x_label, **common).update_yaxes(title=y_label, **common)
