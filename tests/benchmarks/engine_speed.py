"""Compara os motores do mini-projeto numa pergunta por vez, em rodadas intercaladas.

    python tests/benchmarks/engine_speed.py                              # o modelo completo
    python tests/benchmarks/engine_speed.py --config configs/rapido.yaml --forms fp32,q8_0

A velocidade de uma máquina dividida varia de um minuto a outro: em cada rodada todos os motores
respondem às mesmas perguntas, um logo depois do outro, e as razões são tiradas dentro da rodada.
Cada medida tem o seu processo: depois do transformers, no mesmo processo, o llama.cpp responde
quase duas vezes mais devagar. `fp32` é o adaptador no transformers, sem bf16; as outras, o que
`python export.py --forms …` gravou (o llama.cpp, com os rascunhos por n-gramas; com `-puro` no fim
do nome, sem eles). Precisa do modelo treinado; de 5 a 10 minutos.
"""

import argparse
import statistics
import sys
from pathlib import Path

PROJECT = (
    Path(__file__).resolve().parents[2]
    / "semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado"
)
sys.path.insert(0, str(PROJECT))

import comum  # noqa: F401  (antes do torch)

from data_prep import load_split  # noqa: E402
from evaluate import in_own_process, latency, one_by_one, spread  # noqa: E402
from loja_sql.config import Config, as_trained, load_config  # noqa: E402
from loja_sql.model import engines  # noqa: E402
from loja_sql.model.engines import Engine, TransformersEngine, open_form  # noqa: E402
from loja_sql.prompt import render  # noqa: E402
from train import read_schema  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--forms", default="fp32,bf16,q8_0,q4_k_m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=20)
    args = parser.parse_args()
    forms = args.forms.split(",")
    found: dict[str, list[dict]] = {form: [] for form in forms}
    for _ in range(args.rounds):
        for form in forms:
            found[form].append(in_own_process(measure, args.config, form, args.questions))
    base = found[forms[0]]
    print(f"{'motor':<10}{'p50 (s)':>9}{'p95 (s)':>9}{'tokens/s':>10}{'respostas/s':>13}"
          f"   vezes o {forms[0]} (menor; maior)")  # fmt: skip
    for form, rounds in found.items():
        speeds = [r["respostas_por_segundo"] for r in rounds]
        ratios = [speed / b["respostas_por_segundo"]
                  for speed, b in zip(speeds, base, strict=True)]  # fmt: skip
        middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        print(f"{form:<10}{middle['p50_s']:>9.2f}{middle['p95_s']:>9.2f}"
              f"{middle['tokens_por_segundo']:>10.1f}{middle['respostas_por_segundo']:>13.2f}   "
              f"{statistics.median(ratios):.1f} ({min(ratios):.1f}; "
              f"{max(ratios):.1f})")  # fmt: skip


def measure(path: Path | None, form: str, questions: int) -> dict[str, float]:
    """Abre um motor e responde; p50 e p95 em segundos, tokens e respostas por segundo."""
    config = load_config(path)
    config = as_trained(config, config.output_dir)
    rows = spread(load_split(config, "teste"), questions)
    engine = open_engine(config, form)
    found = answer_all(engine, config, rows)
    engine.close()
    return found


def open_engine(config: Config, form: str) -> Engine:
    if form.endswith("-puro"):
        engines.drafts_ready = lambda folder: False
    if form != "fp32":
        return open_form(config, config.output_dir, form.removesuffix("-puro"))
    full = config.model_copy(deep=True)
    full.training.precision = "fp32"
    return TransformersEngine(full, config.output_dir)


def answer_all(engine: Engine, config: Config, rows: list[dict]) -> dict[str, float]:
    """Responde uma a uma, como evaluate.py, e acrescenta as respostas por segundo."""
    schema = read_schema(config)
    prompts = [render(engine.tokenizer, config, row["question"], schema) for row in rows]
    seconds, tokens = one_by_one(engine, prompts, config.generation.max_new_tokens, engine.name)
    return latency(seconds, tokens) | {"respostas_por_segundo": len(seconds) / sum(seconds)}


if __name__ == "__main__":
    main()
