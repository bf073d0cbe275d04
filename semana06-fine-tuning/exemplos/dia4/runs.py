"""O que cerca os treinos do dia 4: as variantes do LoRA, a comparação e a figura."""

import math

from comum.labels import MEMORY, METHODS, SCORES
from comum.numbers import decimal
from comum.results import TrainingRun

import torch
from peft import AdaLoraConfig, LoraConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainerCallback
from trl import SFTTrainer

LORA_PLUS_RATIO = 16  # learning_rate de B sobre o de A (Hayou et al., 2024, seção 5)
SMOOTH = 10  # passos da média móvel na figura, no máximo


class LoraPlusTrainer(SFTTrainer):
    """AdamW com um learning_rate para A e outro, maior, para B."""

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        rates = {"lr": self.args.learning_rate, "loraplus_lr_ratio": LORA_PLUS_RATIO}
        self.optimizer = create_loraplus_optimizer(self.model, torch.optim.AdamW, **rates)
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


def show_verdict(full: TrainingRun, lora: TrainingRun) -> None:
    """Imprime o que a comparação permite dizer, a partir dos números medidos."""
    name = METHODS[lora.method]
    parts = lora.memory_measured.total / full.memory_measured.total
    where = "da GPU"  # em que nada havia antes do modelo
    if lora.idle_mib:
        where = f"do processo (que inclui {decimal(lora.idle_mib)} MiB de Python e bibliotecas)"
    print(
        f"\nmemória de {name} / todos os pesos: {decimal(parts, 2)} na soma das quatro parcelas, "
        f"{decimal(lora.peak_mib / full.peak_mib, 2)} no pico {where}"
    )
    for key, score in full.test.items():
        (low, high), value = score.ci95, lora.test[key].value
        where = "dentro do"
        if not low <= value <= high:
            better = (value < low) == key.startswith("perplexity")
            where = f"{'melhor' if better else 'pior'}, fora do"
        print(f"{SCORES[key][0]}: {name} fica {where} intervalo do treino de todos os pesos")


def draw(runs: dict[str, TrainingRun]):
    """A figura: memória por parcela e perda de treino, método a método."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
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
