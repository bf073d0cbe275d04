"""A forma declarada de cada resultado: quem mede, quem guarda e quem faz tabelas usam a mesma.

Um resultado é um JSON em `resultados/` (o seu) ou em `referencia/` (o nosso). As chaves são em
inglês, os termos da área; o que se mostra a quem lê é traduzido na hora de mostrar.
"""

import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from comum.files import read_json, write_json
from comum.paths import RECORD_COMMAND, RESULTS_DIR, WEEK_DIR
from comum.terminal import UserError

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes")


class Shape(BaseModel):
    """Uma parte de um resultado: chave a mais ou a menos é erro."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Lê o que se gravou.

        Raises:
            UserError: o arquivo não se lê ou é de outra forma (de outra versão, ou editado).
        """
        try:
            return cls.model_validate(read_json(path))
        except UserError as error:
            raise UserError(f"{error} Se ele se estragou, apague-o e faça-o de novo.") from error
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "raiz"
            raise UserError(
                f"{path} não tem a forma esperada (em `{where}`). Foi editado, ou é de outra "
                "versão? Apague-o e faça-o de novo."
            ) from error


class Score(Shape):
    """Uma medida com o intervalo de 95%; `n` são as unidades (conversas, perguntas)."""

    value: float
    ci95: tuple[float, float]
    n: int | None = None
    signature: str | None = None  # como o sacreBLEU mediu

    def apart(self, other: "Score") -> bool:
        """Diz se os dois intervalos de 95% ficam sem nada em comum."""
        return self.ci95[1] < other.ci95[0] or other.ci95[1] < self.ci95[0]


class Paired(Shape):
    """Duas variantes nas mesmas perguntas: as que só uma acerta, e o p de McNemar."""

    only_first: int
    only_second: int
    p_value: float


class Machine(Shape):
    system: str
    processor: str
    threads: int | None = None
    gpu: str | None = None  # None: sem GPU


class Result(Shape):
    """O que todo resultado diz de si; `save` preenche o que o subtipo não pede."""

    script: str = ""
    when: str = ""
    command: str = ""
    commit: str | None = None
    machine: Machine | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def save(self, name: str, command: str | None = None) -> Path:
        """Grava `resultados/NOME.json`, de uma vez só, com data, comando, commit e versões."""
        script = Path(sys.argv[0]).name
        provenance = {
            "script": script,
            "when": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command or shlex.join(["python", script, *sys.argv[1:]]),
            "commit": commit(),
            "machine": machine(),
            "versions": library_versions(),
        }
        path = RESULTS_DIR / f"{name}.json"
        write_json(path, self.model_copy(update=provenance).model_dump(mode="json"))
        return path

    def announce(self, name: str) -> None:
        """Grava o resultado e diz onde está e como levá-lo ao caderno."""
        print(f"\nResultados: {self.save(name)}")
        print(f"Para levar os números ao caderno: make experimentos (ou {RECORD_COMMAND})")


def machine() -> Machine:
    """O que identifica a máquina num resultado."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = torch.get_num_threads()
    return Machine(system=platform.platform(), processor=_processor(), threads=threads, gpu=gpu)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """Versão de cada biblioteca da semana, das instaladas: o bitsandbytes pode faltar."""
    return {name: version(name) for name in LIBRARIES if find_spec(name)}


@cache
def commit() -> str | None:
    """O commit do código que mede; None fora de um repositório."""
    command = ["git", "-C", str(WEEK_DIR), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# --- lições: treino -----------------------------------------------------------------------------
class MemoryParts(Shape):
    """As quatro parcelas da memória de um passo de treino, em MiB."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


class CurvePoint(Shape):
    step: int
    loss: float | None = None
    eval_loss: float | None = None


class Day3(Result):
    """O fine-tuning de todos os pesos. As notas têm as chaves de `comum.labels.SCORES`."""

    model: str
    seed: int
    epochs: float
    batch_size: int
    learning_rate: float
    parameters: int
    train_minutes: float
    before: dict[str, Score]
    after: dict[str, Score]
    memory_tokens: int  # tokens do lote em que se mediu a memória
    memory_predicted: MemoryParts
    memory_measured: MemoryParts
    curve: list[CurvePoint]


class TrainingRun(Shape):
    """Um treino medido num processo só dele; `method` é full, lora ou uma variante do LoRA."""

    method: str
    settings: dict[str, float | int | str | bool | list[str] | None]
    validation: dict[str, Score]
    test: dict[str, Score]
    total_parameters: int
    trainable_parameters: int
    memory_tokens: int
    memory_predicted: MemoryParts | None = None
    memory_measured: MemoryParts
    peak_mib: float
    idle_mib: float  # o processo com as bibliotecas, antes do modelo
    steps: int
    seconds: float
    tokens_per_second: float
    losses: list[float]
    disk_mib: float | None = None
    answers: list[str] = Field(default_factory=list)


class Day4(Result):
    """LoRA ao lado do completo; `checks` são as conferências à mão e se passaram."""

    model: str
    seed: int
    checks: dict[str, bool]
    runs: dict[str, TrainingRun]


class StudyRow(Shape):
    """Uma configuração do estudo: o que muda do ponto base e a perplexidade de validação média."""

    factor: str
    change: dict[str, float | int | str | list[str]]
    perplexity: float
    spread: float | None  # desvio entre sementes
    by_seed: list[float]
    test: float
    trainable_parameters: int
    minutes: float
    peak_mib: float


class Day4Study(Result):
    model: str
    level: str
    seeds: list[int]
    base: dict[str, float | int | str | bool | list[str] | None]
    rows: list[StudyRow]
    chosen: StudyRow


# --- lições: quantização ------------------------------------------------------------------------
class Speed(Shape):
    """Tokens por segundo, somadas as sequências do lote."""

    prefill: float
    decode: float


class Technique(Shape):
    """Um modelo quantizado, gravado, recarregado noutro processo e medido."""

    scores: dict[str, Score]
    nats: list[float]  # por conversa, para o teste pareado
    tokens: list[float]
    speed: dict[str, Speed]  # "1" e "8": o tamanho do lote
    peak_mib: float
    disk_bytes: int
    memory_bytes: int
    predicted_disk_bytes: float
    predicted_memory_bytes: float
    quantize_seconds: float
    answers: list[str]


class TrapModel(Shape):
    """Perplexidade sem arredondar ("none") e em cada grade; erro relativo dos pesos por grade."""

    perplexity: dict[str, Score]
    weight_error: dict[str, float]


class Trap(Shape):
    """O que a grade de origem (Q4_1) e outra (NF4) fazem ao modelo base e ao treinado."""

    base: TrapModel
    trained: TrapModel
    moved_steps: float  # quanto o treino moveu cada peso, em passos da grade
    kept: dict[str, float]  # fração do treino que sobra em cada grade


class Day5(Result):
    model: str
    sizes: dict[str, int]
    checks: dict[str, bool]
    trap: Trap
    techniques: dict[str, Technique]
    absent: dict[str, str]
    gptq_over_rounding: dict[str, Score]
    qlora: dict[str, TrainingRun]  # "lora" e "qlora"


# --- lições: dados ------------------------------------------------------------------------------
class Quantiles(Shape):
    minimum: int
    median: int
    p95: int
    maximum: int


class Day6Data(Result):
    """O preparo: linhas por tipo de sujeira, fora por motivo, e cada formato por parte."""

    seed: int
    minutes: float
    source: str
    read: int
    accepted: int
    formats: dict[str, dict[str, int]]
    dirt: dict[str, int]
    rejected: dict[str, int]
    labels: dict[str, dict[str, int]]
    tokens: dict[str, Quantiles]
    vocabulary_coverage: float | None
    naive_leaks: int
    naive_held_out: int


class MetricCheck(Shape):
    ours: float
    library: float


class Day6Metrics(Result):
    checks: dict[str, MetricCheck]


class BeforeAfter(Shape):
    """Um formato de texto, antes e depois de um ajuste curto; `rougeL_gain` é pareado."""

    train: int
    test: int
    train_seconds: float
    before: dict[str, Score]
    after: dict[str, Score]
    rougeL_gain: Score
    examples: list[dict[str, str]]


class Classifier(Shape):
    accuracy: Score
    macro_f1: Score
    p_against_tfidf: float
    train_seconds: float
    answer_seconds: float
    trainable_parameters: int
    predicted: list[str]


class Classification(Shape):
    train: int
    test: int
    labels: list[str]
    classifiers: dict[str, Classifier]
    best: str
    best_confusion: list[list[int]]


class Day6Training(Result):
    model: str
    seed: int
    settings: dict[str, float | int | str | None]
    minutes: float
    texts: dict[str, BeforeAfter]
    classification: Classification | None = None


# --- uma GPU ------------------------------------------------------------------------------------
class GpuStep(Shape):
    """Um passo de tests/gpu; as memórias são em MiB, e None é o que ele não mede."""

    step: str
    outcome: str
    seconds: float
    predicted: float | None = None
    measured: float | None = None
    tokens_per_second: float | None = None


class Gpu(Result):
    """A semana inteira numa GPU, passo a passo."""

    rows: list[GpuStep]


# --- mini-projeto -------------------------------------------------------------------------------
class Latency(Shape):
    """Perguntas feitas uma a uma, com o prompt; `tokens_per_second` é da resposta."""

    questions: int
    p50_s: float
    p95_s: float
    tokens_per_second: float


class TrainingSummary(Shape):
    """O `training.json` que train.py deixa ao lado do que treinou."""

    method: str
    steps: int
    minutes: float
    examples: int
    tokens_per_second: float
    tokens_seen: int
    memory_bytes: int | None
    processes: int
    trainable_parameters: int
    best_step: int
    best_eval_loss: float | None
    resumed: bool


class Variant(Shape):
    """Um modelo (ou uma forma dele) medido no teste; as notas são das perguntas respondíveis.

    `declined_right` é a fração recusada das que o banco não responde; `declined_wrong`, a das
    outras. None: não se mediu.
    """

    command: str
    group: str
    engine: str
    execution_accuracy: Score
    valid_sql: Score
    exact_match: Score
    declined_right: Score | None = None
    declined_wrong: Score | None = None
    bleu: Score
    gold_perplexity: Score | None
    by_kind: dict[str, Score]
    by_difficulty: dict[str, Score]
    error_causes: dict[str, int]
    prompt_tokens: float
    weights_bytes: int | None
    memory_bytes: int | None
    latency: Latency
    training: TrainingSummary | None
    seconds: float
    questions_per_second: float


class Evaluation(Result):
    """A avaliação do mini-projeto; `against_trained` compara cada variante com o treinado."""

    model: str
    questions: str
    config: dict
    variants: dict[str, Variant]
    training: TrainingSummary | None
    base_against_trained: Paired | None = None
    against_trained: dict[str, Paired] = Field(default_factory=dict)
