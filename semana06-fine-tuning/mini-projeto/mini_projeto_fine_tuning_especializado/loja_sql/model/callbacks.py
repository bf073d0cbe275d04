"""O que se vê de um treino enquanto ele anda, e o Ctrl-C que não perde o que já foi feito."""

import json
import signal
from pathlib import Path

from comum.terminal import progress

from matplotlib.figure import Figure
from transformers import TrainerCallback

SHOWN = {"loss": "perda", "eval_loss": "validação"}


class Progress(TrainerCallback):
    """Barra com tempo restante; cada medida vira uma linha de `path`; Ctrl-C grava e para.

    Ctrl-C termina o passo e grava um checkpoint; um segundo Ctrl-C mata na hora. Com vários
    processos, só o primeiro mostra e grava.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bar = None
        self.shown: dict[str, str] = {}
        self.tokens_before = 0  # os já vistos, se o treino é retomado
        self.interrupted = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.tokens_before = state.num_input_tokens_seen
        self.previous = signal.signal(signal.SIGINT, self._interrupt)
        if not state.is_world_process_zero:
            return
        if state.global_step == 0:
            self.path.write_text("", encoding="utf-8")
        self.bar = progress(label="Treinando", unit="passo", total=state.max_steps)
        self.bar.n = self.bar.initial = state.global_step

    def _interrupt(self, *_: object) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self.previous)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if self.interrupted:
            control.should_save = control.should_training_stop = True
            # Sem avaliação neste passo não há "melhor" a carregar no fim.
            args.load_best_model_at_end = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is None:
            return
        self.shown |= {SHOWN[key]: f"{value:.3f}" for key, value in logs.items() if key in SHOWN}
        self.bar.set_postfix(self.shown)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGINT, self.previous)
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
    figure.savefig(path, dpi=120)
