"""As lições como quem as digita, com os resultados longe dos seus."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def lesson_process() -> Callable[..., str]:
    """Roda uma lição num processo só dela, com os resultados numa pasta; devolve o que mostrou."""

    def run(results: Path, lesson: ModuleType, *arguments, **environment: str) -> str:
        environment = os.environ | environment | {"SEMANA06_RESULTADOS": str(results)}
        command = [sys.executable, lesson.__file__, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A pasta de resultados de uma lição chamada aqui mesmo, neste processo."""
    folder = tmp_path / "resultados"
    for module in ("comum.results", "utils"):
        monkeypatch.setattr(f"{module}.RESULTS_DIR", folder)
    return folder


@pytest.fixture(scope="session")
def day6(lesson_process, tiny_llama, tmp_path_factory) -> SimpleNamespace:
    """O dia 6 inteiro, uma vez, noutro processo: o que mostrou, os dados e os resultados.

    A semente do hash é outra: a ordem dos conjuntos do Python muda, e os dados não podem mudar.
    """
    import exemplo_04_dataset_preparation as lesson

    folder = tmp_path_factory.mktemp("dia6")
    arguments = ["--quick", "--model", tiny_llama, "--output", folder / "dados"]
    shown = lesson_process(folder, lesson, *arguments, PYTHONHASHSEED="1")
    return SimpleNamespace(shown=shown, data=folder / "dados", results=folder)


@pytest.fixture(scope="session")
def prepare(tmp_path_factory, tiny_llama) -> Callable[..., Path]:
    """Prepara dados no dia 6; devolve a pasta deles, com `resultados/` ao lado."""
    import exemplo_04_dataset_preparation as lesson

    def run(*options) -> Path:
        folder = tmp_path_factory.mktemp("preparo")
        command = ["--only", "prep", "--model", tiny_llama, "--output", folder / "dados", *options]
        args = lesson.arguments([str(part) for part in command])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("comum.results.RESULTS_DIR", args.output.with_name("resultados"))
            lesson.main(args)
        return args.output

    return run
