"""Mata um treino em momentos quaisquer e confere o que sobra na pasta.

    python tests/benchmarks/training_kills.py --kills 20

Numa pasta com um treino acabado (A), outro (B) leva `kill -9` vezes seguidas, metade delas durante
a gravação de um checkpoint, e volta com --resume. Depois de cada morte: o que está entregue é A,
inteiro; todo checkpoint está inteiro; não se perde nenhum passo já guardado. No fim, B dá os pesos
e os tokens de um treino que ninguém matou. O modelo é minúsculo e sorteado, com o tokenizador do
padrão: cerca de 15 s por morte em 2 núcleos.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comum.files import sha256, write_jsonl
from comum.paths import DEFAULT_MODEL, WEEK_DIR
from comum.terminal import Parser, above_zero, run_main

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

PROJECT = WEEK_DIR / "mini-projeto" / "mini_projeto_fine_tuning_especializado"
sys.path.insert(0, str(PROJECT))

from loja_sql.model.run_folder import checkpoints, is_whole, read_run  # noqa: E402
from loja_sql.shop import DATA_DIR, create_shop  # noqa: E402

STEPS = 500
METRICS = "unfinished/metrics.jsonl"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=above_zero(int), default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = prepare(folder)
        whole, victim = folder / "inteiro", folder / "vitima"
        train(shared, victim, "training.max_steps=5", "training.learning_rate=1.0e-3").wait()
        train(shared, whole).wait()
        delivered, latest, lost = contents(victim), 0, []
        for number in range(args.kills):
            reached = kill(train(shared, victim, *["--resume"] * (latest > 0)), victim, rng, number)
            assert contents(victim).items() >= delivered.items(), "o que estava entregue mudou"
            found = checkpoints(victim)
            assert all(map(is_whole, found)), "um checkpoint pela metade"
            step = max((int(path.name.partition("-")[2]) for path in found), default=0)
            assert step >= latest, "perdeu-se um passo já guardado"
            latest = step
            lost.append(reached - step)
            print(
                f"morte {number + 1}: no passo {reached} ou pouco mais; volta do {step}", flush=True
            )
        assert train(shared, victim, "--resume").wait() == 0
        assert (
            contents(victim)["adapter_model.safetensors"]
            == contents(whole)["adapter_model.safetensors"]
        )
        tokens = [
            json.loads((f / "training.json").read_text())["tokens_seen"] for f in (whole, victim)
        ]
        assert tokens[0] == tokens[1], tokens
        assert read_run(victim).started != read_run(whole).started
    print(f"{args.kills} mortes; passos refeitos: no máximo {max(lost)}; os mesmos pesos no fim")


def prepare(folder: Path) -> list[str]:
    """O modelo e os dados; devolve os argumentos que A e B dividem."""
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.from_pretrained(DEFAULT_MODEL, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(DEFAULT_MODEL).save_pretrained(folder / "base")
    create_shop(folder / "loja_11.sqlite", 11)
    lines = (DATA_DIR / "perguntas_curadas.jsonl").read_text("utf-8").split("\n")[:60]
    rows = [json.loads(line) | {"id": str(i), "source": "written"} for i, line in enumerate(lines)]
    write_jsonl(folder / "train.jsonl", rows[:48])
    write_jsonl(folder / "validation.jsonl", rows[48:])
    values = {"max_steps": STEPS, "eval_steps": 5, "early_stopping_patience": STEPS}
    values |= {"learning_rate": 2e-3, "precision": "fp32"}
    common = [f"model.name={folder / 'base'}", f"data.output_dir={folder}", "database.seeds=[11]"]
    return common + [f"training.{key}={value}" for key, value in values.items()]


def train(shared: list[str], output: Path, *extra: str) -> subprocess.Popen:
    (output / METRICS).unlink(missing_ok=True)  # quem espera por ele espera o deste treino
    command = [sys.executable, PROJECT / "train.py", *shared, f"training.output_dir={output}"]
    return subprocess.Popen([*command, *extra], stdout=subprocess.DEVNULL)


def kill(process: subprocess.Popen, folder: Path, rng: random.Random, number: int) -> int:
    """Mata depois de até 4 s de treino; nas pares, assim que se começa a gravar um checkpoint."""
    work, metrics = folder / "unfinished", folder / METRICS
    while process.poll() is None and not metrics.is_file():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 4))
    while number % 2 == 0 and process.poll() is None and not any(work.glob("checkpoint-*")):
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02))
    assert process.poll() is None, "o treino acabou antes de morrer: aumente STEPS"
    process.kill()
    process.wait()
    steps = [json.loads(line)["step"] for line in metrics.read_text("utf-8").split("\n")[:-1]]
    return max(steps, default=0)


def contents(folder: Path) -> dict[str, str]:
    """O SHA-256 do que está entregue."""
    return {p.name: sha256(p) for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


if __name__ == "__main__":
    sys.exit(run_main(main))
