"""As medidas de um treino enquanto ele anda, num painel de fora: wandb, trackio ou tensorboard."""

import os
from collections.abc import Callable
from importlib.util import find_spec

from comum.paths import RESULTS_DIR
from comum.terminal import UserError

TRACKERS = ("none", "wandb", "trackio", "tensorboard")
PROJECT = "semana06-fine-tuning"

Log = Callable[[dict[str, float], int], object]  # (medidas, passo)


def require(kind: str) -> None:
    """Confere, antes de gastar tempo, que a biblioteca do painel está instalada.

    O wandb só envia a quem entrou na conta (`wandb login`); sem isso, guarda tudo no disco.

    Raises:
        UserError: não está (diz como instalar).
    """
    if kind != "none" and find_spec(kind) is None:
        raise UserError(f"falta a biblioteca {kind}. Instale com: pip install {kind}")
    if kind == "wandb" and "WANDB_MODE" not in os.environ:
        import wandb

        if not wandb.login(prompt=False):
            os.environ["WANDB_MODE"] = "offline"
            wandb.teardown()  # o login já leu o ambiente: que o leia de novo


def tracker(kind: str, name: str) -> tuple[Log, Callable[[], object]]:
    """Abre o painel `kind` para o treino `name`; devolve como anotar um passo e como fechar."""
    require(kind)
    if kind == "wandb":
        import wandb

        RESULTS_DIR.mkdir(parents=True, exist_ok=True)
        run = wandb.init(project=PROJECT, name=name, dir=RESULTS_DIR)
        return lambda values, step: run.log(values, step=step), run.finish
    if kind == "trackio":
        import trackio

        run = trackio.init(project=PROJECT, name=name)
        return lambda values, step: run.log(values, step=step), trackio.finish
    if kind == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(RESULTS_DIR / "tensorboard" / name)
        return lambda values, step: writer.add_scalars("treino", values, step), writer.close
    return lambda values, step: None, lambda: None
