"""Números como se escrevem no Brasil, com o Babel: 1.234,56; 97,4%; 8,31 [7,90; 8,77]."""

from comum.results import Score

from babel.numbers import format_decimal

LOCALE = "pt_BR"
MISSING = "–"
MIB, GIB = 2**20, 2**30


def decimal(value: float | None, places: int = 0, unit: str = "") -> str:
    """`1.234,5` com `places` casas, seguido de `unit`; um traço para o que falta.

    >>> decimal(1234.56, 1, " MiB")
    '1.234,6 MiB'
    """
    if value is None:
        return MISSING
    pattern = "#,##0" + ("." + "0" * places if places else "")
    return format_decimal(value, pattern, LOCALE) + unit


def megabytes(size: float | None) -> str:
    """Bytes em megabytes, de um milhão: `538 MB`."""
    return decimal(None if size is None else size / 1e6, unit=" MB")


def percent(share: float | None, places: int = 1) -> str:
    """Uma fração como porcentagem: 0.974 vira `97,4%`."""
    return MISSING if share is None else decimal(100 * share, places, "%")


def signed(value: float | None, places: int = 0, unit: str = "") -> str:
    """Com o sinal sempre escrito: `+1,2` ou `−0,4`."""
    if value is None:
        return MISSING
    sign = "+" if value > 0 else "−" if value < 0 else ""
    return sign + decimal(abs(value), places, unit)


def interval(score: Score | None, places: int = 2, scale: float = 1) -> str:
    """Valor e intervalo de 95%: `8,31 [7,90; 8,77]`; `scale` 100 para porcentagens."""
    if score is None:
        return MISSING
    value, low, high = (decimal(scale * x, places) for x in (score.value, *score.ci95))
    # Reamostrar um caso só, ou casos iguais, não diz quanto a nota varia.
    alike = score.ci95[0] == score.ci95[1]
    return value if alike else f"{value} [{low}; {high}]"


def general(value: float) -> str:
    """O número como se escreve num parâmetro, sem zeros à direita: `0,004`, `16`."""
    return f"{value:.6g}".replace(".", ",")


def comma_axes(figure) -> None:
    """Põe vírgula decimal nos eixos numéricos de uma figura do matplotlib."""
    from matplotlib.ticker import ScalarFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter):
                axis.set_major_formatter(lambda value, place: general(value))


def any_size(value: float) -> str:
    """Um número de que não se sabe o tamanho: `407.617,52`; perto de zero ou enorme, `3,4e-05`."""
    return decimal(value, 2) if value == 0 or 1 <= abs(value) < 1e15 else general(value)


def p_value(value: float) -> str:
    """`0,12`, `0,0031` ou, abaixo de um milésimo, `< 0,001`."""
    return "< 0,001" if value < 0.001 else f"{value:.2g}".replace(".", ",")
