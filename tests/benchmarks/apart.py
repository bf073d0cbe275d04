"""Uma medida num processo só dela: o que a anterior deixou na memória não a atrasa nem a ajuda."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "semana06-fine-tuning"
PROJECT = ROOT / "mini-projeto" / "mini_projeto_fine_tuning_especializado"
MARK = "RESULTADO "


def report(found: dict[str, float]) -> None:
    """No processo à parte: entrega o que se mediu."""
    print(MARK + json.dumps(found))


def measured_apart(*options: str) -> dict[str, float] | str:
    """Roda este mesmo script, com os argumentos que tem e mais `options`; se falha, o motivo."""
    paths = [str(PROJECT), str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, *sys.argv, *options]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(lines[0].removeprefix(MARK))
