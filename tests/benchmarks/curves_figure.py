"""A figura das três curvas do guia (figuras/curvas_medidas.png), dos resultados do dia 3.

    DIA3=semana06-fine-tuning/exemplos/exemplo_01_fine_tuning_basico.py
    python $DIA3 --quick --epochs 20 --learning-rate 1e-5 --name baixo       # 6 minutos
    python $DIA3                                                             # 10
    python $DIA3 --quick --epochs 20 --learning-rate 1e-3 --name decoreba    # 4
    python tests/benchmarks/curves_figure.py

Sem o do meio, vale o de referência.
"""

from comum.numbers import comma_axes
from comum.paths import REFERENCE_DIR, RESULTS_DIR, WEEK_DIR
from comum.results import Day3

from matplotlib.figure import Figure

PANELS = {
    "subajuste (1e-5, 24 conversas)": "dia3_full_quick_baixo",
    "bom ajuste (2e-4, a lição)": "dia3_full",
    "sobreajuste (1e-3, 24 conversas)": "dia3_full_quick_decoreba",
}


def main() -> None:
    figure = Figure(figsize=(11, 3.6))
    for axes, (title, name) in zip(figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True):
        path = RESULTS_DIR / f"{name}.json"
        curve = Day3.load(path if path.is_file() else REFERENCE_DIR / path.name).curve
        for key, label in (("loss", "treino"), ("eval_loss", "validação")):
            points = [(p.step, getattr(p, key)) for p in curve if getattr(p, key) is not None]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        axes.set(xlabel="passo", title=title, ylim=(0, 5.6))
    figure.axes[0].set_ylabel("perda (nats por token)")
    figure.axes[0].legend()
    comma_axes(figure)
    figure.tight_layout()
    figure.savefig(WEEK_DIR / "figuras" / "curvas_medidas.png", dpi=90)


if __name__ == "__main__":
    main()
