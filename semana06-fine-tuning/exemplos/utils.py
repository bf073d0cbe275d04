"""O que as lições dividem sem ser o assunto de nenhuma: pastas, nomes, tabelas e figuras."""

from pathlib import Path

from comum.conversations import (  # noqa: F401  (as lições as chamam por aqui)
    DATA_DIR,
    PROMPTS,
    SYSTEM,
    Messages,
    encode,
    fixed_prompts,
    greedy_answers,
    prompt_of,
    read_conversations,
)
from comum.paths import MODELS_DIR, RECORD_COMMAND, RESULTS_DIR
from comum.results import Result, Score


def model_folder(day: int, quick: bool, output: Path | None, name: str | None = None) -> Path:
    """Onde o dia salva o modelo; o curto não apaga o inteiro, que o dia 5 quantiza."""
    return output or MODELS_DIR / (f"dia{day}" + "-curto" * quick + (f"-{name}" if name else ""))


def result_name(stem: str, quick: bool, name: str | None = None) -> str:
    """O nome do JSON e da figura: cada `--name` guarda os seus."""
    return stem + "_quick" * quick + (f"_{name}" if name else "")


def save_result(result: Result, name: str) -> Path:
    """Grava o resultado e diz onde está e como levá-lo ao caderno."""
    path = result.save(name)
    print(f"\nResultados: {path}")
    print(f"Para levar os números ao caderno: make experimentos (ou {RECORD_COMMAND})")
    return path


def save_figure(figure, name: str) -> Path:
    """Grava a figura do matplotlib em `resultados/NOME.png`."""
    figure.tight_layout()
    path = RESULTS_DIR / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def scores_table(columns: dict[str, dict[str, Score]], keys: list[str]) -> None:
    """Imprime as notas pedidas, uma coluna por modelo, com os intervalos de 95%."""
    from comum import tables
    from comum.labels import SCORES
    from comum.numbers import interval

    rows = []
    for key in keys:
        label, places, scale = SCORES[key]
        rows.append([label, *(interval(found[key], places, scale) for found in columns.values())])
    tables.show(["(intervalos de 95%)", *columns], rows)
