"""As lições como quem as digita, com os resultados longe dos seus."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def lesson_process(tmp_path):
    """Roda um script num processo só dele, com os resultados em `tmp_path / "resultados"`."""

    def run(script: str | Path, *arguments) -> subprocess.CompletedProcess:
        environment = os.environ | {"SEMANA06_RESULTADOS": str(tmp_path / "resultados")}
        command = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A pasta de resultados de uma lição chamada aqui mesmo, neste processo."""
    folder = tmp_path / "resultados"
    for module in ("comum.results", "utils"):
        monkeypatch.setattr(f"{module}.RESULTS_DIR", folder)
    return folder
