"""Gráficos em HTML e SVG, sem biblioteca nem rede: servem à página, ao painel e à impressão.

As cores vêm de variáveis CSS (`CHART_CSS`), e por isso valem no tema claro, no escuro e no papel.
Todo texto que entra passa por `escape`: rótulos vêm do banco e do modelo.
"""

import math
from collections.abc import Sequence
from html import escape

from loja_sql.sql.database import Result

MAX_BARS = 40
COLORS = ["var(--g1)", "var(--g2)", "var(--g3)", "var(--g4)"]
WIDTH, HEIGHT = 360, 220  # em unidades do SVG; na tela, a largura que houver
LEFT, BOTTOM, TOP, RIGHT = 46, 34, 10, 18
CLOSE = 12  # pontos mais perto que isto dividem um rótulo

CHART_CSS = """
.grafico { --g1:#1f6feb; --g2:#c2410c; --g3:#15803d; --g4:#7c3aed; --trilho:#8884; }
.dark .grafico { --g1:#6ea8fe; --g2:#fb923c; --g3:#4ade80; --g4:#c4b5fd; }
.grafico, .grafico * { box-sizing:border-box; }
.grafico[role=list] { display:grid; grid-template-columns:minmax(6em,26%) 1fr max-content;
  gap:.35em .6em; align-items:center; font-size:.92em; }
.grafico .linha { display:contents; }
.grafico .rotulo { overflow-wrap:anywhere; line-height:1.2; }
.grafico .trilho { position:relative; height:1.05em; background:var(--trilho); border-radius:3px; }
.grafico .barra { position:absolute; inset:0 auto 0 0; border-radius:3px; min-width:1px;
  print-color-adjust:exact; -webkit-print-color-adjust:exact; }
.grafico .ic { position:absolute; top:50%; height:2px; background:currentColor; }
.grafico .ic::before, .grafico .ic::after { content:""; position:absolute; top:-3px; width:2px;
  height:8px; background:currentColor; }
.grafico .ic::after { right:0; }
.grafico .valor { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap; }
.grafico svg { width:100%; max-width:34em; height:auto; display:block; color:inherit; }
.grafico ol { columns:12em; column-gap:2em; margin:.3em 0 0; padding-left:2em; font-size:.88em;
  max-width:38em; overflow-wrap:anywhere; }
.grafico svg text { fill:currentColor; font-size:10px; }
"""


def number(value: float, digits: int = 2) -> str:
    """Número à brasileira, sem casas à toa: 1234.5 → `1.234,5`."""
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{digits}f}".rstrip("0").rstrip(".")
    return text.translate(str.maketrans(",.", ".,"))


def bars(
    rows: Sequence[tuple[str, float, tuple[float, float] | None, str]],
    top: float | None = None,
    color: str = COLORS[0],
) -> str:
    """Barras horizontais: (rótulo, valor, intervalo ou None, texto do valor) por linha.

    `top` é o valor que ocupa a largura toda; sem ele, o maior. Valores negativos ficam sem barra.
    """
    largest = top or max((abs(value) for _, value, _, _ in rows), default=1) or 1

    def share(value: float) -> float:
        return 100 * min(1.0, max(0.0, value / largest))

    lines = []
    for label, value, interval, text in rows:
        whisker = ""
        if interval is not None:
            low, high = share(interval[0]), share(interval[1])
            whisker = f'<span class="ic" style="left:{low:.1f}%;width:{high - low:.1f}%"></span>'
        lines.append(
            f'<div class="linha" role="listitem"><span class="rotulo">{escape(label)}</span>'
            f'<span class="trilho" aria-hidden="true"><span class="barra" '
            f'style="width:{share(value):.1f}%;background:{color}"></span>{whisker}</span>'
            f'<span class="valor">{escape(text)}</span></div>'
        )
    return f'<div class="grafico" role="list">{"".join(lines)}</div>'


def lines(
    series: dict[str, Sequence[tuple[float, float]]], x_label: str, y_label: str
) -> str:
    """Curvas em SVG, a partir de zero: nome → pontos (x, y) em ordem de x."""
    return _plot(series, x_label, y_label, joined=True)


def scatter(points: dict[str, tuple[float, float]], x_label: str, y_label: str) -> str:
    """Um ponto numerado por nome; os nomes, com os valores, vêm na lista de baixo."""
    names = "".join(f"<li>{escape(name)}: {number(x)}; {number(y, 1)}</li>"
                    for name, (x, y) in points.items())  # fmt: skip
    series = {name: [point] for name, point in points.items()}
    return _plot(series, x_label, y_label, joined=False, below=f"<ol>{names}</ol>")


def _plot(series: dict, x_label: str, y_label: str, joined: bool, below: str = "") -> str:
    points = [p for values in series.values() for p in values]
    x_top, x_step = _axis(max((x for x, _ in points), default=1))
    y_top, y_step = _axis(max((y for _, y in points), default=1))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / x_top * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / y_top * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for i in range(round(y_top / y_step) + 1):
        x, y = place(0, i * y_step)
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" '
                     'stroke="currentColor" stroke-opacity=".15"/>'
                     f'<text x="{x - 4:.1f}" y="{y + 3:.1f}" text-anchor="end">'
                     f"{number(i * y_step)}</text>")  # fmt: skip
    for i in range(round(x_top / x_step) + 1):
        x, y = place(i * x_step, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 12:.1f}" text-anchor="middle">'
                     f"{number(i * x_step)}</text>")  # fmt: skip
    marks: list[tuple[float, float, list[str]]] = []  # x, y e os números dos pontos dali
    for index, (name, values) in enumerate(series.items()):
        color = COLORS[index % len(COLORS)]
        spots = [place(x, y) for x, y in values]
        if joined:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" '
                         'stroke-width="1.6"/>')  # fmt: skip
            parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 10 + 12 * index}" text-anchor="end" '
                         f'style="fill:{color}">{escape(name)}</text>')  # fmt: skip
        else:
            (x, y) = spots[0]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
            near = next((m for m in marks if math.dist(m[:2], (x, y)) < CLOSE), None)
            if near is None:
                marks.append((x, y, [str(index + 1)]))
            else:
                near[2].append(str(index + 1))
    for x, y, numbers in marks:
        anchor, shift = ("end", -7) if x > WIDTH * 0.8 else ("start", 7)
        parts.append(f'<text x="{x + shift:.1f}" y="{y + 3:.1f}" text-anchor="{anchor}">'
                     f"{', '.join(numbers)}</text>")  # fmt: skip
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
                 f"{escape(x_label)}</text>")  # fmt: skip
    parts.append(f'<text transform="translate(10 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_label)}</text>')  # fmt: skip
    return (
        f'<div class="grafico"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} por {escape(x_label)}">{"".join(parts)}</svg>{below}</div>'
    )


def _axis(largest: float) -> tuple[float, float]:
    """O fim do eixo e o passo das marcas: 1, 2 ou 5 vezes uma potência de dez."""
    if largest <= 0:
        return 1.0, 0.5
    raw = largest / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return math.ceil(largest / step - 1e-9) * step, step


def chart_for(result: Result) -> str | None:
    """As linhas de uma consulta como barras, quando têm forma para isso; senão, None.

    A forma: um rótulo na primeira coluna, sem repetição, e um número (sem negativos) na última,
    de 2 a MAX_BARS linhas.
    """
    rows = result.rows
    if not 2 <= len(rows) <= MAX_BARS or len(result.columns) != 2:
        return None
    labels, values = zip(*rows, strict=True)
    numeric = all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in values)
    named = all(isinstance(label, str) for label in labels)
    if not (numeric and named) or len(set(labels)) < len(labels) or not any(values):
        return None
    return bars([(label, value, None, number(value)) for label, value in rows])
