"""Onde ficam as coisas da semana."""

import os
from pathlib import Path

WEEK_DIR = Path(__file__).resolve().parents[1]
MODELS_DIR = WEEK_DIR / "modelos"
REFERENCE_DIR = WEEK_DIR / "referencia"
# SEMANA06_RESULTADOS põe os resultados noutra pasta (os testes a usam para não tocar nos seus).
RESULTS_DIR = Path(os.environ.get("SEMANA06_RESULTADOS", WEEK_DIR / "resultados"))
DEFAULT_MODEL = MODELS_DIR / "smollm2-135m-instruct"
PREPARE_COMMAND = "python semana06-fine-tuning/ferramentas/preparar_modelo.py"
RECORD_COMMAND = "python semana06-fine-tuning/ferramentas/registrar_experimentos.py"
