"""A semana inteira numa GPU: cada script, a memória prevista e a medida, e uma tabela no fim.

    make test-gpu                           # ou python tests/gpu/conferir_gpu.py
    python tests/gpu/conferir_gpu.py --only 7b
    python tests/gpu/conferir_gpu.py --only data_prep --only lora   # um passo e o que ele pede
    python tests/gpu/conferir_gpu.py --anywhere --model MODELO_MINUSCULO   # ensaio, sem GPU

Precisa do modelo padrão (`make setup`) e de uns 40 GB de disco livres (o modelo de 7 bilhões é
sorteado na hora). Cada passo é um processo; um que falha não impede os outros, e o que não cabe em
`--budget` segundos fica por rodar e é dito. O JSON fica em `resultados/gpu.json`; o de um ensaio,
ou de parte dos passos, em `gpu_ensaio.json`.

A memória medida é o pico de `torch.cuda.max_memory_allocated`; a do dia 3, em que esse pico tem
também a cópia do melhor modelo, é a soma das quatro parcelas medidas num passo. A prevista só
existe nas lições: os treinos do mini-projeto não a calculam. A velocidade ao lado dos padrões da
TRL é a de `tests/benchmarks/train_speed.py`. Só importa o torch e as bibliotecas que já estejam no
ambiente (ou em PYTHONPATH): serve também o torch de outra versão.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEEK = ROOT / "semana06-fine-tuning"
LESSONS, PROJECT = WEEK / "exemplos", WEEK / "mini-projeto/mini_projeto_fine_tuning_especializado"
sys.path.append(str(WEEK))  # também onde `pip install -e .` não rodou

from comum import tables  # noqa: E402
from comum.files import read_json  # noqa: E402
from comum.numbers import GIB, MIB, decimal  # noqa: E402
from comum.paths import DEFAULT_MODEL  # noqa: E402
from comum.results import Day3, Day4, Gpu, GpuStep  # noqa: E402
from comum.terminal import Parser, UserError, run_main  # noqa: E402

import psutil  # noqa: E402

R = 16  # o posto padrão da lição do dia 4


def main() -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", default=str(DEFAULT_MODEL), metavar="PASTA", help="o modelo pequeno")
    add("--only", action="append", metavar="PASSO", help="só os passos com este pedaço no nome")
    add("--budget", type=float, default=480, help="segundos ao todo (padrão: 480)")
    add("--anywhere", action="store_true", help="ensaia sem CUDA, sem os passos que a pedem")
    args = parser.parse_args()
    import torch

    if not (torch.cuda.is_available() or args.anywhere):
        print("Pulado: não há CUDA nesta máquina (torch.cuda.is_available() é falso).")
        return 0
    end, rows = time.monotonic() + args.budget, []
    name = "gpu" if torch.cuda.is_available() and not args.only else "gpu_ensaio"
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
        os.environ["SEMANA06_RESULTADOS"] = folder
        given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        paths = map(os.path.abspath, [WEEK, PROJECT, *given])
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        steps = steps_of(args.model, Path(folder))
        wanted = [s for s in steps if not args.only or any(part in s.name for part in args.only)]
        try:
            for step in wanted:
                if step.gpu and not torch.cuda.is_available():
                    rows.append(GpuStep(step=step.name, outcome="pede CUDA", seconds=0))
                    continue
                rows.append(measured(step, end - time.monotonic()))
                print(rows[-1].model_dump_json(exclude_none=True), flush=True)
        finally:  # interrompida, fica o que já mediu
            show(rows)
            print(f"\nResultados: {Gpu(rows=rows).save(name)}")
    return int(any(row.outcome.startswith("falhou") for row in rows))


def run(command: list, left: float) -> None:
    """Um comando, com os processos que ele abrir; UserError com o fim do que disse, se falhou."""
    with opened(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said, failed = process.communicate(timeout=left)
    if process.returncode:
        raise UserError(last_lines(failed or said))


def last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])


@contextmanager
def opened(command: list, **options) -> Iterator[subprocess.Popen]:
    """O comando em andamento; ao sair, morre com os filhos, que segurariam a GPU."""
    with subprocess.Popen([str(part) for part in command], cwd=PROJECT, **options) as process:
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for one in [*parent.children(recursive=True), parent]:
                    one.kill()


def resume_after_kill(command: list, left: float) -> None:
    """Mata o treino depois do primeiro checkpoint e o continua até o fim."""
    end, output = time.monotonic() + left, Path(command[-1].partition("=")[2])
    with tempfile.TemporaryFile("w+") as failed:
        with opened(command, stdout=subprocess.DEVNULL, stderr=failed) as process:
            while process.poll() is None and not [*output.glob("checkpoint-*")]:
                if time.monotonic() > end:
                    raise TimeoutError
                time.sleep(0.02)
        if not [*output.glob("checkpoint-*")]:
            failed.seek(0)
            raise UserError(last_lines(failed.read()))
    run([*command, "--resume"], end - time.monotonic())
    if not read_json(output / "training.json")["resumed"]:
        raise UserError("o treino acabou antes de ser morto")


def answers_on_the_page(command: list, left: float) -> None:
    """Abre a página, faz-lhe uma pergunta e a fecha; um treino de 12 passos não acerta o SQL."""
    import gradio_client
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    end, patient = time.monotonic() + left, {"timeout": 120}
    with opened([*command, "--port", port], stdout=subprocess.DEVNULL) as page:
        while time.monotonic() < end:
            if page.poll() is not None:
                raise UserError("app.py terminou sem abrir a página")
            try:
                url = f"http://127.0.0.1:{port}"
                client = gradio_client.Client(url, verbose=False, httpx_kwargs=patient)
            except (OSError, httpx.HTTPError):
                time.sleep(0.5)
                continue
            asked = client.submit("quantos clientes temos?", api_name="/perguntar")
            answer = asked.result(timeout=max(1, end - time.monotonic()))
            if not (answer["sql"] or answer["error"]):
                raise UserError(f"a página não respondeu: {answer}")
            return
        raise TimeoutError


@dataclass
class Step:
    """Um comando, como se roda e, se ele mede algo, de onde se lê; `gpu`: só com CUDA."""

    name: str
    command: list
    read: Callable[[], dict] = dict
    how: Callable[[list, float], None] = run
    gpu: bool = False


def steps_of(model: str, out: Path) -> list[Step]:
    """Os passos, na ordem em que um precisa do que o outro deixou em `out`."""
    python = [sys.executable]
    quick = ["--quick", "--model", model]
    day4 = [*python, LESSONS / "exemplo_02_lora_peft.py", "--quick"]
    config = ["--config", "configs/rapido.yaml", "--model", model]
    config += [f"data.output_dir={out}/dados", "evaluation.limit=12", "training.max_steps=12"]
    config += ["training.eval_steps=4"]
    train, lora = [*python, PROJECT / "train.py", *config], f"training.output_dir={out}/lora"
    full = ["training.method=full", "training.learning_rate=2e-4"]
    launch = [*python, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    launch += ["--config_file", PROJECT / "configs/accelerate_fsdp.yaml"]

    def script(name: str, *extra) -> list:
        return [*python, PROJECT / name, *config, lora, *extra]

    def training(name: str, *extra: str, **options) -> Step:
        output = out / name.replace(" ", "_")
        command = [*train, f"training.output_dir={output}", *extra]
        return Step(f"treino: {name}", command, lambda: of_training(output), **options)

    def resumed(name: str, *extra: str) -> Step:
        output = out / f"{name.replace(' ', '_')}_retomado"
        command = [*train, *extra, f"training.output_dir={output}"]
        return Step(f"interrompido e retomado: {name}", command, how=resume_after_kill)

    def speed(name: str, row: str) -> Step:
        found, benchmark = out / f"{name}.json", ROOT / "tests/benchmarks/train_speed.py"
        command = [*python, benchmark, "--examples", "160", "--only", row, "--json", found]
        command += [f"model.name={model}", f"data.output_dir={out}/dados"]
        return Step(f"velocidade: {name}", command, lambda: of_speed(found, row))

    big = out / "7b"
    return [
        Step("data_prep", [*python, PROJECT / "data_prep.py", *config]),
        Step("7b: sorteia e grava", [*python, __file__, "--draw", big, model]),
        Step(
            "7b: QLoRA na lição do dia 4",
            [*day4, "--model", big, "--load-in-4bit", "--only-lora", "--no-answers"]
            + ["--name", "7b", "--output", out / "d4b"],
            lambda: of_big(out / "dia4_lora_quick_7b.json", big),
        ),
        speed("padrões da TRL", "padrões da TRL"),
        speed("com as nossas trocas", "+ camadas e perda de fused.py"),
        Step(
            "dia 3",
            [*python, LESSONS / "exemplo_01_fine_tuning_basico.py", *quick, "--output", out / "d3"],
            lambda: of_day_3(out / "dia3_full_quick.json"),
        ),
        Step(
            "dia 4",
            [*day4, "--model", model, "--output", out / "d4"],
            lambda: of_day_4(out / "dia4_lora_quick.json"),
        ),
        Step(
            "dia 4, em 4 bits",
            [*day4, "--model", model, "--output", out / "d4q", "--load-in-4bit", "--only-lora"]
            + ["--name", "q"],
            lambda: of_day_4(out / "dia4_lora_quick_q.json"),
        ),
        Step(
            "dia 5",
            [*python, LESSONS / "exemplo_03_quantizacao.py", "--quick", "--model", out / "d3"]
            + ["--base", model, "--output", out / "d5"],
        ),
        Step("dia 6", [*python, LESSONS / "exemplo_04_dataset_preparation.py", *quick]),
        training("lora"),
        training("lora sem camadas rápidas", "training.fused_layers=false"),
        training("lora em fp16", "training.precision=fp16", gpu=True),
        training("qlora", "model.load_in_4bit=true"),
        training("qlora em fp16", "model.load_in_4bit=true", "training.precision=fp16", gpu=True),
        training("todos os pesos", *full),
        resumed("lora"),
        resumed("qlora", "model.load_in_4bit=true"),
        resumed("todos os pesos", *full),
        Step(
            "accelerate_fsdp.yaml, um processo",
            [*launch, *train[1:], *full, f"training.output_dir={out}/fsdp"],
            lambda: of_training(out / "fsdp"),
            gpu=True,
        ),
        Step("export", script("export.py", "--forms", "bf16,nf4")),
        Step("evaluate", script("evaluate.py", "--forms", "bf16,nf4")),
        Step("inference", script("inference.py", "quantos clientes temos em Minas Gerais?")),
        Step("page", script("app.py"), how=answers_on_the_page),
    ]


def measured(step: Step, left: float) -> GpuStep:
    """Roda um passo, com no máximo `left` segundos, e lê o que ele mediu."""
    begun, found = time.monotonic(), {}
    try:
        if left < 20:
            raise TimeoutError("não coube no tempo")
        step.how(step.command, left)
        found, outcome = step.read(), "certo"
    except (TimeoutError, subprocess.TimeoutExpired):
        outcome = "não coube no tempo"
    except UserError as error:
        outcome = f"falhou: {error}"
    except Exception as error:  # um passo que falha de um jeito novo não leva os outros consigo
        outcome = f"falhou: {type(error).__name__}: {error}"
    return GpuStep(step=step.name, outcome=outcome, seconds=time.monotonic() - begun, **found)


def of_day_3(path: Path) -> dict:
    day = Day3.load(path)
    return {"predicted": day.memory_predicted.total, "measured": day.memory_measured.total}


def of_day_4(path: Path) -> dict:
    found = Day4.load(path).runs["lora"]
    parts = {"predicted": found.memory_predicted.total} if found.memory_predicted else {}
    speed = {"tokens_per_second": found.tokens_per_second}
    return parts | speed | {"measured": found.peak_mib}


def of_big(path: Path, folder: Path) -> dict:
    """O plano do QLoRA para o lote da lição ao lado do pico da GPU."""
    from comum import memory_plan

    found = Day4.load(path).runs["lora"]
    shape = memory_plan.shape_of(memory_plan.config_of(str(folder)))
    plan = memory_plan.plan(shape, R, found.memory_tokens, checkpointing=True)["QLoRA"]
    return {
        "predicted": plan["total"] * GIB / MIB,
        "measured": found.peak_mib,
        "tokens_per_second": found.tokens_per_second,
    }


def of_training(folder: Path) -> dict:
    summary = read_json(folder / "training.json")
    memory = summary["memory_bytes"]
    speed = {"tokens_per_second": summary["tokens_per_second"]}
    return speed | ({"measured": memory / MIB} if memory else {})


def of_speed(path: Path, row: str) -> dict:
    return {"tokens_per_second": read_json(path)[row]["tokens_per_second"]}


def draw(folder: str, tokenizer: str) -> None:
    """Grava um Llama sorteado, do tamanho do Llama 2 de 7 bilhões, com outro vocabulário."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    known = AutoTokenizer.from_pretrained(tokenizer)
    special = {"bos_token_id": known.bos_token_id, "eos_token_id": known.eos_token_id}
    config = LlamaConfig(vocab_size=AutoConfig.from_pretrained(tokenizer).vocab_size, **special)
    if not torch.cuda.is_available():  # o ensaio
        config.update({"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128})
        config.update({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16})
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).save_pretrained(folder)
    known.save_pretrained(folder)


def show(rows: list[GpuStep]) -> None:
    """A tabela do fim."""
    print()
    header = ["passo", "resultado", "s", "previsto (MiB)", "medido (MiB)", "tokens/s"]
    cells = ("seconds", "predicted", "measured", "tokens_per_second")
    numbers = [[decimal(getattr(row, cell)) for cell in cells] for row in rows]
    tables.show(header, [[r.step, r.outcome[:60], *n] for r, n in zip(rows, numbers, strict=True)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--draw"]:
        sys.exit(draw(*sys.argv[2:]))
    sys.exit(run_main(main))
