"""O que se vê e se grava de um treino enquanto ele anda, e o Ctrl-C que não perde o já feito."""

import json
import math
import signal
import time
from pathlib import Path

from comum.files import write_jsonl
from comum.numbers import comma_axes, decimal
from comum.terminal import UserError, progress

from accelerate import PartialState
from matplotlib.figure import Figure
from transformers import TrainerCallback

from loja_sql.model import run_folder
from loja_sql.model.summary import METRICS

DIVERGED = (
    "o treino divergiu: no passo {}, {} deixou de ser um número. Nada foi entregue. Diminua "
    "training.learning_rate, ou confira o modelo base."
)
# Ctrl-C, e o que o sistema manda a todos ao desligar.
STOPS = (signal.SIGINT, signal.SIGTERM)
SHOWN = {"loss": "perda", "eval_loss": "validação"}


class Checkpoints(TrainerCallback):
    """Põe na pasta, inteiros e assinados, os checkpoints que o Trainer grava em `unfinished/`."""

    def __init__(self, folder: Path, run: run_folder.Run, progress: "Progress") -> None:
        self.folder, self.run, self.progress = folder, run, progress

    def elapsed(self) -> float:
        """Os segundos de treino até aqui, somados os de antes de cada `--resume`."""
        return self.run.seconds + time.perf_counter() - self.started

    def on_train_begin(self, args, state, control, optimizer, lr_scheduler, **kwargs):
        self.started = time.perf_counter()
        # O que veio do checkpoint é do total antigo, e o treino pode ir agora mais longe.
        state.compute_steps(args, state.max_steps)
        curves = zip(lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True)
        for group, (rate, curve) in zip(optimizer.param_groups, curves, strict=True):
            group["lr"] = rate * curve(lr_scheduler.last_epoch)
        best = self.folder / f"checkpoint-{state.best_global_step}"
        if run_folder.is_whole(best):
            state.best_model_checkpoint = str(best)  # a pasta pode ter mudado de lugar
        else:
            state.best_model_checkpoint = state.best_global_step = state.best_metric = None
        control.should_training_stop = self.run.finished
        return control

    def on_save(self, args, state, control, model=None, **kwargs):
        if not all(weights.isfinite().all() for weights in model.parameters()):
            raise UserError(DIVERGED.format(state.global_step, "um peso"))
        processes, best = PartialState(), self.folder / f"checkpoint-{state.best_global_step}"
        stopped = control.should_training_stop and not self.progress.interrupted
        last = stopped or state.global_step >= state.max_steps
        run = self.run.model_copy(update={"seconds": self.elapsed(), "finished": last})
        processes.wait_for_everyone()  # cada um grava o seu sorteio
        if processes.is_main_process:
            run_folder.keep(Path(args.output_dir, f"checkpoint-{state.global_step}"), run, best)
        processes.wait_for_everyone()
        if state.best_global_step is not None:
            state.best_model_checkpoint = str(best)


class Progress(TrainerCallback):
    """Barra com tempo restante; cada medida vira uma linha de `folder`; Ctrl-C grava e para.

    Ctrl-C (ou o fim que o sistema pede, ao desligar) termina o passo e grava um checkpoint; um
    segundo mata na hora. Com vários processos, só o primeiro mostra e grava.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self.bar = None
        self.shown: dict[str, str] = {}
        self.interrupted = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.previous = {number: signal.signal(number, self._interrupt) for number in STOPS}
        if not state.is_world_process_zero:
            return
        write_jsonl(self.path, state.log_history)  # de um treino retomado, as até o checkpoint
        self.bar = progress(label="Treinando", unit="passo", total=state.max_steps)
        self.bar.n = self.bar.initial = state.global_step

    def _interrupt(self, *_: object) -> None:
        self.interrupted = True
        self._stop_listening()

    def _stop_listening(self) -> None:
        for number, previous in self.previous.items():
            signal.signal(number, previous)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if self.interrupted:
            control.should_save = control.should_training_stop = True
            # Sem avaliação neste passo não há "melhor" a carregar no fim.
            args.load_best_model_at_end = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        for key in SHOWN.keys() & logs:
            if not math.isfinite(logs[key]):
                raise UserError(DIVERGED.format(state.global_step, f"a perda ({SHOWN[key]})"))
        if self.bar is None:
            return
        self.shown |= {SHOWN[key]: decimal(logs[key], 3) for key in SHOWN if key in logs}
        self.bar.set_postfix(self.shown)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        self._stop_listening()
        if self.bar is not None:
            self.bar.close()


def plot_curve(history: list[dict], path: Path) -> None:
    """Perda de treino e de validação por passo, em PNG; `history` é o registro do Trainer."""
    figure = Figure(figsize=(7, 4), layout="tight")
    axes = figure.subplots()
    for key, label, marker in (("loss", "treino", None), ("eval_loss", "validação", "o")):
        points = [(line["step"], line[key]) for line in history if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
    axes.set(xlabel="passo", ylabel="perda (nats por token da resposta)", title="Curva de treino")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    comma_axes(figure)
    figure.savefig(path, dpi=120)
