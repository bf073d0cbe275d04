"""O que cerca um treino do SFTTrainer: a barra, as medidas e a tabela que as põe lado a lado."""

import math
from collections.abc import Callable, Sequence

from comum import memory_plan, tables
from comum.conversations import Messages, encode, greedy_answers, prompt_of
from comum.labels import MEMORY, SCORES
from comum.memory import measure_step, peak_mib, release
from comum.models import autocast, compute_dtype, device
from comum.numbers import MISSING, decimal, interval
from comum.results import MemoryParts, TrainingRun
from comum.scoring import answer_scores
from comum.statistics import bleu
from comum.terminal import UserError, progress
from comum.tracking import tracker
from comum.training import DIVERGED

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback, TrainerCallback

RELEASE_EVERY = 5  # passos entre duas devoluções de memória ao sistema
COMPARED = ("perplexity_token", "perplexity_byte", "next_token_accuracy", "bleu")


class Bar(TrainerCallback):
    """A barra do treino em português, e o painel de fora, se houver um.

    Args:
        release_every: passos entre duas devoluções de memória ao sistema.
    """

    def __init__(
        self, label: str, release_every: int = RELEASE_EVERY, tracking: str = "none", name: str = ""
    ) -> None:
        self.label, self.release_every = label, release_every
        self.log, self.close = tracker(tracking, name)

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress(None, self.label, "passo", state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()
        if state.global_step % self.release_every == 0:
            release()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(f"no passo {state.global_step}, {DIVERGED}")
        if "loss" in logs:
            self.bar.set_postfix_str(f"perda {decimal(logs['loss'], 3)}")
            self.log({"loss": logs["loss"]}, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.close()


def use_cheaper_attention(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Troca a atenção por outra de mesma conta, onde a volta dela sai mais barata em `dtype`."""
    if device().type == "cpu" and dtype == torch.bfloat16:
        # Em bf16, a volta da atenção "sdpa" do torch em CPU leva o dobro da por extenso.
        model.set_attn_implementation("eager")


def step_memory(trainer, batch: dict[str, torch.Tensor]) -> MemoryParts:
    """A memória medida num passo do `SFTTrainer` sobre `batch`, em MiB; não altera o modelo."""

    def loss_of(model, batch):
        with autocast():
            return trainer.compute_loss(model, dict(batch))

    batch = {key: tensor.to(trainer.model.device) for key, tensor in batch.items()}
    return measure_step(trainer.model, batch, loss_of)


def training_run(
    trainer,
    batch: dict[str, torch.Tensor],
    texts: dict[str, list[Messages]],
    new_tokens: int,
    settings: dict,
    idle_mib: float,
    asked: Sequence[str] = (),
) -> TrainingRun:
    """Treina com um `SFTTrainer` já montado e mede memória, tempo e notas.

    Args:
        batch: o lote em que se mede a memória de um passo, [conversas, comprimento].
        texts: as conversas reservadas: "test" e, se houver, "validation".
        new_tokens: tokens por resposta; com 0 não se gera nenhuma, nem se mede o BLEU.
        settings: as opções do treino: `method`, `r`, `target_modules`, `load_in_4bit` e as que se
            queiram guardar.
        idle_mib: a memória do processo antes do modelo.
        asked: prompts respondidos antes dos do teste; guardam-se as três primeiras respostas.
    """
    trainer.remove_callback(PrinterCallback)  # sem a barra dele, o Trainer imprime dicionários
    model, tokenizer = trainer.model, trainer.processing_class
    # O peft copia a entrada de cada camada para o float32 do adaptador, e a volta guarda as cópias;
    # o autocast já põe os dois lados na mesma precisão.
    with disable_input_dtype_casting(model):
        measured = step_memory(trainer, batch)
        seconds = trainer.train().metrics["train_runtime"]
    peak = peak_mib()
    scores, answers = {}, []
    for part, found in texts.items():
        rows, expected = [encode(tokenizer, m) for m in found], [m[-1]["content"] for m in found]
        scores[part] = answer_scores(model, tokenizer, rows, expected)
    if new_tokens:
        prompts = [*asked, *(prompt_of(tokenizer, messages) for messages in texts["test"])]
        answers = greedy_answers(model, tokenizer, prompts, new_tokens)
        expected = [messages[-1]["content"] for messages in texts["test"]]
        scores["test"]["bleu"] = bleu(answers[len(asked) :], expected)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainingRun(
        method=settings["method"],
        settings=settings,
        validation=scores.get("validation", {}),
        test=scores["test"],
        total_parameters=model.num_parameters(),
        trainable_parameters=model.num_parameters(only_trainable=True),
        memory_tokens=batch["input_ids"].numel(),
        memory_predicted=predicted_memory(trainer, batch, settings),
        memory_measured=measured,
        peak_mib=peak,
        idle_mib=idle_mib,
        steps=len(losses),
        seconds=seconds,
        tokens_per_second=sum(map(len, trainer.train_dataset["input_ids"])) / seconds,
        losses=losses,
        answers=answers[:3],
    )


def show_runs(runs: dict[str, TrainingRun]) -> None:
    """Imprime treináveis, memória, tempo, qualidade e disco, uma coluna por treino."""
    where = "da GPU" if torch.cuda.is_available() else "do processo"
    cells: dict[str, Callable[[TrainingRun], str]] = {
        "treináveis": lambda r: decimal(r.trainable_parameters),
        **{
            f"{label} (MiB)": lambda r, key=key: decimal(getattr(r.memory_measured, key))
            for key, label in MEMORY.items()
        },
        "soma das quatro (MiB)": lambda r: decimal(r.memory_measured.total),
        "soma prevista (MiB)": lambda r: decimal(getattr(r.memory_predicted, "total", None)),
        f"pico {where} (MiB)": lambda r: decimal(r.peak_mib),
        "treino (min)": lambda r: decimal(r.seconds / 60, 1),
        "tokens/s": lambda r: decimal(r.tokens_per_second),
        **{
            SCORES[key][0]: lambda r, key=key: interval(r.test.get(key), *SCORES[key][1:])
            for key in COMPARED
        },
        "salvo em disco (MiB)": lambda r: decimal(r.disk_mib),
    }
    rows = [[label, *(cell(run) for run in runs.values())] for label, cell in cells.items()]
    # O que nenhum dos treinos mediu não ganha linha.
    rows = [row for row in rows if set(row[1:]) != {MISSING}]
    tables.show(["(intervalos de 95%)", *runs], rows)


def predicted_memory(trainer, batch: dict, settings: dict) -> MemoryParts | None:
    """A memória de um passo do SFTTrainer sobre `batch`, por aritmética; None onde não há conta.

    Args:
        settings: as opções do treino (veja `training_run`).
    """
    method, recomputed = settings["method"], trainer.args.gradient_checkpointing
    if method not in ("full", "lora") or settings["target_modules"] != "all-linear" or recomputed:
        return None
    # Para a memória, o fp16 é o bf16.
    mode = f"{method} {'float32' if compute_dtype() == torch.float32 else 'bf16'}"
    return memory_plan.predict(
        trainer.model.config,
        mode,
        batch["input_ids"].numel(),
        logits=0,  # o TRL calcula a perda aos pedaços e os refaz na volta: nenhum fica guardado
        r=settings["r"],
        load_in_4bit=settings["load_in_4bit"],
    )
