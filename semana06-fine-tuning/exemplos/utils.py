"""O que as lições dividem sem ser o assunto de nenhuma: pastas, nomes e figuras."""

from pathlib import Path

from comum.paths import MODELS_DIR, RESULTS_DIR


def model_folder(day: int, quick: bool, output: Path | None, name: str | None = None) -> Path:
    """Onde o dia salva o modelo; o curto não apaga o inteiro, que o dia 5 quantiza."""
    return output or MODELS_DIR / (f"dia{day}" + "-curto" * quick + (f"-{name}" if name else ""))


def result_name(stem: str, quick: bool, name: str | None = None) -> str:
    """O nome do JSON e da figura: cada `--name` guarda os seus."""
    return stem + "_quick" * quick + (f"_{name}" if name else "")


def save_figure(figure, name: str) -> Path:
    """Grava a figura do matplotlib em `resultados/NOME.png`."""
    from comum.numbers import comma_axes  # só aqui: traz o pydantic, e --help responde na hora

    comma_axes(figure)
    figure.tight_layout()
    path = RESULTS_DIR / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
