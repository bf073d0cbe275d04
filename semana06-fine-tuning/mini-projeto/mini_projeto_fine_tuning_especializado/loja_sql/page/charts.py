"""Gráficos do plotly, os mesmos na página e no painel gravado.

Os fundos são transparentes e a cor dos textos é a da página (style.css): valem no tema claro, no
escuro e no papel. O plotly lê marcas de HTML nos textos, e por isso todo rótulo passa por `_safe`:
rótulos vêm do banco e do modelo.
"""

import math
import textwrap
from collections.abc import Sequence
from html import escape

from comum.numbers import interval, percent
from comum.results import Score

import plotly.graph_objects as go
from plotly.colors import qualitative

from loja_sql.page.words import Column, written
from loja_sql.sql.database import Result

MAX_BARS, MAX_POINTS = 40, 400
LABEL_CHARS, LABEL_LINES = 20, 3
COLORS = ["#3b82f6", "#ea580c", "#16a34a", "#8b5cf6", "#db2777", "#0891b2", "#a16207"]
CAUSE_COLORS = [*qualitative.Safe, *qualitative.Dark2]  # mais cores que causas
CLEAR, GRID = "rgba(0,0,0,0)", "rgba(128,128,128,.3)"
# Do que o plotly oferece, fica salvar como imagem: o resto fala inglês e não faz falta, ou manda o
# gráfico a um servidor.
BUTTONS = ["zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale", "resetscale"]
BUTTONS += ["sendcharttocloud"]
SCATTER_HEIGHT, LABEL_HEIGHT, ROW_HEIGHT = 400, 17, 40  # pixels


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
    figure = _figure([bar, column], 36 + len(rows) * (10 + 15 * lines))
    # Em cima fica o botão do plotly, que cobriria o primeiro valor.
    figure.update_layout(bargap=0.35, margin_t=28, margin_r=10 + 7 * max(map(len, texts)))
    figure.update_layout(dragmode=False)
    figure.update_xaxes(range=[0, edge], showticklabels=False, fixedrange=True)
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False)
    return figure.update_yaxes(range=[len(rows) - 0.5, -0.5], fixedrange=True)


def score_bars(scores: dict[str, Score], counted: bool = False) -> go.Figure:
    """Barras de frações, até 100%, com os intervalos de 95%; `counted` diz quantas perguntas."""
    parts = scores.values()
    names = [f"{name} ({part.n})" if counted else name for name, part in scores.items()]
    rows = [(n, p.value, percent(p.value)) for n, p in zip(names, parts, strict=True)]
    figure = bars(rows, 1, [f"{interval(part, 1, 100)} %" for part in parts])
    return figure.update_traces(error_x=_whiskers(list(parts)), selector=0)


def _whiskers(parts: Sequence[Score], scale: float = 1) -> dict:
    above = [scale * max(0.0, part.ci95[1] - part.value) for part in parts]
    below = [scale * max(0.0, part.value - part.ci95[0]) for part in parts]
    line = {"color": "gray", "thickness": 1.5, "width": 3}
    return {"symmetric": False, "array": above, "arrayminus": below} | line


def curves(series: dict[str, Sequence[tuple[float, float]]], x_label: str, y_label: str):
    """Curvas a partir de zero: nome → pontos (x, y) em ordem de x."""
    traces = []
    for name, points in series.items():
        xs, ys = zip(*points, strict=True)
        line = go.Scatter(x=xs, y=ys, name=_safe(name, 60), mode="lines+markers", marker_size=4)
        traces.append(line)
    figure = _figure(traces, 320, x_label, y_label).update_layout(showlegend=True)
    figure.update_xaxes(tickformat=",")
    return figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})


def learning_curve(points: Sequence[tuple[int, Score]]) -> go.Figure:
    """A acurácia por número de exemplos de treino, com os intervalos de 95%."""
    sizes = [size for size, _ in points]
    line = go.Scatter(x=sizes, y=[100 * part.value for _, part in points], mode="lines+markers")
    line.update(error_y=_whiskers([part for _, part in points], 100), hoverinfo="text")
    line.update(hovertext=[f"{s} exemplos: {interval(part, 1, 100)} %" for s, part in points])
    figure = _figure([line], 320, "exemplos de treino", "acurácia, %")
    return figure.update_yaxes(range=[0, 100]).update_xaxes(tickformat=",", range=[0, None])


def stacked(names: Sequence[str], parts: dict[str, Sequence[int]]) -> go.Figure:
    """Barras horizontais empilhadas: parte → o tamanho dela em cada nome.

    De um nome só, uma barra por parte, que se comparam melhor.
    """
    if len(names) == 1:
        alone = [(part, size, str(size)) for part, (size,) in parts.items()]
        return bars(alone, max(size for _, size, _ in alone))
    labels = [_safe(name, 30) for name in names]
    drawn = [go.Bar(x=sizes, y=labels, name=part, orientation="h") for part, sizes in parts.items()]
    for bar in drawn:
        bar.hovertemplate = "%{y}: %{x}<extra>" + bar.name + "</extra>"
    figure = _figure(drawn, 120 + ROW_HEIGHT * len(names))
    figure.update_layout(barmode="stack", bargap=0.35, dragmode=False)
    figure.update_layout(colorway=CAUSE_COLORS, showlegend=True)
    # Abaixo dos números do eixo, que têm a mesma altura com poucas barras ou muitas.
    below = -28 / (ROW_HEIGHT * len(names))
    figure.update_layout(legend={"orientation": "h", "traceorder": "normal", "y": below})
    return figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(fixedrange=True)


def scatter(points: dict[str, tuple[float, float]], x_label: str, y_label: str) -> go.Figure:
    """Pontos com o nome ao lado e a linha dos que ninguém vence: menor x com maior y.

    Os nomes ficam em coluna, à direita, na ordem da altura dos pontos: como a altura da figura é
    fixa, não se cobrem em tela nenhuma. `y` é uma porcentagem.
    """
    ordered = sorted(points.items(), key=lambda item: -item[1][1])
    names = [_safe(name, 60) for name, _ in ordered]
    xs, ys = zip(*(spot for _, spot in ordered), strict=True)
    edge = 1.05 * max(xs)
    places = _spread(ys, LABEL_HEIGHT * 112 / (SCATTER_HEIGHT - 60))
    dots = go.Scatter(x=xs, y=ys, mode="markers", marker_size=9, hovertext=names)
    dots.update(hovertemplate="%{hovertext}<br>%{x}; %{y:.1f}%<extra></extra>")
    front = pareto(list(zip(xs, ys, strict=True)))
    best = go.Scatter(x=[x for x, _ in front], y=[y for _, y in front], mode="lines")
    best.update(line={"shape": "hv", "width": 2}, hoverinfo="skip")
    leads = go.Scatter(x=[], y=[], mode="lines", hoverinfo="skip", cliponaxis=False)
    leads.update(line={"width": 1, "color": GRID})
    for x, y, place in zip(xs, ys, places, strict=True):
        leads.x, leads.y = (*leads.x, x, edge, None), (*leads.y, y, place, None)
    labels = go.Scatter(x=[edge] * len(xs), y=places, text=names, mode="text", hoverinfo="skip")
    labels.update(textposition="middle right", cliponaxis=False)
    figure = _figure([dots, best, leads, labels], SCATTER_HEIGHT, x_label, y_label)
    figure.update_layout(margin_r=12 + 6.6 * max(map(len, names)), dragmode=False)
    figure.update_yaxes(range=[-6, 106], fixedrange=True)
    return figure.update_xaxes(range=[0, edge], fixedrange=True)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Os pontos que nenhum outro vence nos dois eixos (menor x, maior y), da esquerda à direita.

    >>> pareto([(1, 50), (2, 40), (3, 80)])
    [(1, 50), (3, 80)]
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """As alturas, em ordem decrescente, afastadas o bastante para caber um nome em cada uma."""
    places: list[float] = []
    for place, height in enumerate(heights):
        # Nem acima do que ainda cabe, nem abaixo do que os de baixo precisam.
        floor = gap * (len(heights) - 1 - place)
        wanted = max(height, floor)
        places.append(min(wanted, places[-1] - gap) if places else wanted)
    return places


def chart_for(result: Result, columns: Sequence[Column]) -> go.Figure | None:
    """O gráfico que a forma das linhas pede: linha no tempo, barras, ou nenhum (None).

    A forma: de 2 a MAX_BARS linhas (MAX_POINTS, se são datas) de (rótulo sem repetição; número).
    Barras não mostram negativos.
    """
    if len(result.columns) != 2 or not 2 <= len(result.rows) <= MAX_POINTS:
        return None
    labels, values = zip(*result.rows, strict=True)
    numeric = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    named = all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
    if not (numeric and named and any(values)):
        return None
    names = [written(label, columns[0].unit) for label in labels]
    texts = [written(value, columns[1].unit) for value in values]
    rows = list(zip(names, values, texts, strict=True))
    if columns[0].unit in ("date", "month"):
        by_date = [row for _, row in sorted(zip(labels, rows, strict=True))]
        return _over_time(by_date, columns[1].title)
    return bars(rows, max(values)) if len(labels) <= MAX_BARS and min(values) >= 0 else None


def _over_time(rows: Sequence[tuple[str, float, str]], title: str) -> go.Figure:
    """Uma linha, na ordem dada: (data como se lê, valor, valor escrito)."""
    names, values, texts = zip(*rows, strict=True)
    line = go.Scatter(x=names, y=values, mode="lines+markers", hovertext=texts)
    line.update(hovertemplate="%{x}: %{hovertext}<extra></extra>")
    figure = _figure([line], 320, "", title).update_layout(dragmode=False)
    figure.update_yaxes(tickformat=",", fixedrange=True)
    return figure.update_xaxes(type="category", nticks=12, fixedrange=True)


def _safe(text: str, width: int = LABEL_CHARS) -> str:
    """O texto em até LABEL_LINES linhas, sem nada que o plotly leia como HTML."""
    lines = textwrap.wrap(text[:500], width, max_lines=LABEL_LINES, placeholder="…")
    return "<br>".join(escape(line, quote=False) for line in lines)


def _figure(traces: list, height: int, x_label: str = "", y_label: str = "") -> go.Figure:
    figure = go.Figure(traces).update_layout(template="none", colorway=COLORS, separators=",.")
    figure.update_layout(height=height, margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False)
    figure.update_layout(modebar={"remove": BUTTONS, "bgcolor": CLEAR, "color": "#808080"})
    figure.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, font_family="system-ui")
    figure.update_layout(hoverlabel={"bgcolor": "#222", "font_color": "#fff", "align": "left"})
    common = {"automargin": True, "gridcolor": GRID, "zerolinecolor": GRID, "rangemode": "tozero"}
    return figure.update_xaxes(title=x_label, **common).update_yaxes(title=y_label, **common)
