"""O que cerca os treinos do dia 4: a barra, as variantes do LoRA, a tabela e a figura."""

import math
from collections.abc import Callable

from comum import memory, tables
from comum.labels import MEMORY, SCORES
from comum.models import gains_from_bf16
from comum.numbers import decimal, interval
from comum.results import MemoryParts, TrainingRun
from comum.terminal import UserError, progress
from comum.tracking import tracker

import torch
from dia4 import memory_plan
from peft import AdaLoraConfig, LoraConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainerCallback
from trl import SFTTrainer

METHODS = {
    "full": "todos os pesos",
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "lora_plus": "LoRA+",
    "adalora": "AdaLoRA",
}
COMPARED = ("perplexity_token", "perplexity_byte", "next_token_accuracy", "bleu")
LORA_PLUS_RATIO = 16  # learning_rate de B sobre o de A (Hayou et al., 2024, seção 5)
RELEASE_EVERY = 5  # passos entre duas devoluções de memória ao sistema
SMOOTH = 10  # passos da média móvel na figura, no máximo


class Bar(TrainerCallback):
    """A barra do treino em português, e o painel de fora, se houver um."""

    def __init__(self, method: str, tracking: str, name: str) -> None:
        self.label = f"Treinando ({METHODS[method]})"
        self.log, self.close = tracker(tracking, name)

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress(None, self.label, "passo", state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()
        if state.global_step % RELEASE_EVERY == 0:
            memory.release()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.bar.set_postfix_str(f"perda {decimal(logs['loss'], 3)}")
            self.log({"loss": logs["loss"]}, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        self.close()


class LoraPlusTrainer(SFTTrainer):
    """B anda mais depressa que A."""

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW com um learning_rate para A e outro para B."""
        self.optimizer = create_loraplus_optimizer(
            self.model,
            torch.optim.AdamW,
            lr=self.args.learning_rate,
            loraplus_lr_ratio=LORA_PLUS_RATIO,
        )
        return self.optimizer


class AdaLoraTrainer(SFTTrainer):
    """O posto de cada camada muda durante o treino (Zhang et al., 2023)."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(Allocate())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """A perda com a penalidade que mantém A e B ortogonais.

        O peft a soma a `loss` da saída; o SFTTrainer usa as log-probabilidades, e a perderia.
        """
        return model(**inputs, fused_lm_head=True).loss


class Allocate(TrainerCallback):
    """Corta os postos menos úteis depois de cada passo do otimizador."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step)


TRAINERS = {"lora_plus": LoraPlusTrainer, "adalora": AdaLoraTrainer}


def variant_of(lora: LoraConfig, method: str, steps: int) -> LoraConfig:
    """A configuração da variante, a partir da do LoRA comum, com o mesmo posto final."""
    if method != "adalora":
        # rsLoRA divide por √r em vez de r (Kalajdzievski, 2023); DoRA treina à parte o tamanho de
        # cada coluna (Liu et al., 2024). No LoRA+ só o otimizador muda.
        lora.use_rslora, lora.use_dora = method == "rslora", method == "dora"
        return lora
    # Começa com posto maior e corta até a média r, do primeiro décimo à metade do treino.
    return AdaLoraConfig(
        init_r=math.ceil(1.5 * lora.r),
        target_r=lora.r,
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps // 2,
        deltaT=max(1, steps // 50),
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def check_targets(linears: dict[str, tuple[int, int]], targets: str | list[str]) -> None:
    """Confere `--target-modules`: o peft ignora um nome que não existe, se outro existir.

    Raises:
        UserError: um nome não é de camada linear do modelo (diz quais há).
    """
    known = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linears))
    missing = [name for name in targets if name not in known] if targets != "all-linear" else []
    if missing:
        raise UserError(
            f"--target-modules: o modelo não tem camada linear chamada {', '.join(missing)}. "
            f"As que tem: {', '.join(known)}."
        )


def memory_of(trainer: SFTTrainer, batch, run) -> tuple[MemoryParts | None, MemoryParts]:
    """As quatro parcelas de um passo do trainer: por aritmética, onde há fórmula, e medidas."""
    half = gains_from_bf16()

    def loss_of(model, batch):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            return trainer.compute_loss(model, dict(batch))

    batch = {key: tensor.to(trainer.model.device) for key, tensor in batch.items()}
    measured = memory_plan.measure(trainer.model, batch, loss_of)
    if run.method not in ("full", "lora") or run.load_in_4bit or run.target_modules != "all-linear":
        return None, measured
    mode = f"{run.method} {'bf16' if half else 'float32'}"
    # O TRL calcula a perda aos pedaços e refaz os logits na volta: nenhum fica guardado.
    config, tokens = trainer.model.config, batch["input_ids"].numel()
    return memory_plan.predict(config, mode, tokens, logits=0, r=run.r), measured


def show_table(runs: dict[str, TrainingRun]) -> None:
    """Imprime treináveis, memória, tempo, qualidade e disco, método a método."""
    cells: dict[str, Callable[[TrainingRun], str]] = {
        "treináveis": lambda r: decimal(r.trainable_parameters),
        **{
            f"{label} (MiB)": lambda r, key=key: decimal(getattr(r.memory_measured, key))
            for key, label in MEMORY.items()
        },
        "soma das quatro (MiB)": lambda r: decimal(r.memory_measured.total),
        "soma prevista (MiB)": lambda r: decimal(getattr(r.memory_predicted, "total", None)),
        "pico do processo (MiB)": lambda r: decimal(r.peak_mib),
        "treino (min)": lambda r: decimal(r.seconds / 60, 1),
        "tokens/s": lambda r: decimal(r.tokens_per_second),
        **{
            SCORES[key][0]: lambda r, key=key: interval(r.test.get(key), *SCORES[key][1:])
            for key in COMPARED
        },
        "salvo em disco (MiB)": lambda r: decimal(r.disk_mib),
    }
    rows = [[label, *(cell(run) for run in runs.values())] for label, cell in cells.items()]
    tables.show(["(intervalos de 95%)", *(METHODS[method] for method in runs)], rows)


def show_verdict(full: TrainingRun, lora: TrainingRun) -> None:
    """Imprime o que a comparação permite dizer, a partir dos números medidos."""
    name = METHODS[lora.method]
    parts = lora.memory_measured.total / full.memory_measured.total
    print(
        f"\nmemória de {name} / todos os pesos: {decimal(parts, 2)} na soma das quatro parcelas, "
        f"{decimal(lora.peak_mib / full.peak_mib, 2)} no pico do processo (que inclui "
        f"{decimal(lora.idle_mib)} MiB de Python e bibliotecas)"
    )
    for key in COMPARED:
        if key not in full.test:
            continue
        (low, high), value = full.test[key].ci95, lora.test[key].value
        where = "dentro do intervalo do treino de todos os pesos"
        if not low <= value <= high:
            better = (value < low) == key.startswith("perplexity")
            where = f"fora do intervalo dele, {'melhor' if better else 'pior'}"
        print(f"{SCORES[key][0]}: {name} fica {where}")


def draw(runs: dict[str, TrainingRun]):
    """A figura: memória por parcela e perda de treino, método a método."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    labels, bottom = [METHODS[method] for method in runs], [0.0] * len(runs)
    for key, label in MEMORY.items():
        heights = [getattr(run.memory_measured, key) for run in runs.values()]
        left.bar(labels, heights, bottom=bottom, label=label)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    left.set(ylabel="MiB", title="Memória de um passo")
    for label, run in zip(labels, runs.values(), strict=True):
        # Média móvel: a perda de um lote só oscila demais; num treino curto, ela some com a curva.
        width = min(SMOOTH, 1 + len(run.losses) // 4)
        ends = range(width, len(run.losses) + 1)
        right.plot(ends, [sum(run.losses[i - width : i]) / width for i in ends], ".-", label=label)
    right.set(xlabel="passo", ylabel="perda (nats por token)", title="Treino (média móvel)")
    for axes in (left, right):
        axes.legend()
    return figure
