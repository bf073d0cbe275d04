"""A memória de um treino, por aritmética: pesos, gradientes, otimizador e ativações.

As três primeiras parcelas saem de uma multiplicação. As ativações (o que a ida guarda para a volta)
dependem do lote e do comprimento, e costumam ser a maior quando o modelo é pequeno.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comum import tables
from comum.labels import MEMORY
from comum.models import linears_of
from comum.numbers import GIB, MIB, decimal, percent
from comum.results import MemoryParts
from comum.terminal import UserError

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

FLOAT32, BF16 = 4, 2  # bytes
ADAM_STATES = 2  # média e variância de cada gradiente (Kingma e Ba, 2015)
# NF4: 4 bits, mais uma escala de 8 bits a cada 64 pesos e uma de 32 a cada 256 escalas
# (Dettmers et al., 2023, seção 3, quantização dupla): 4,127 bits por peso.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Todos os pesos em precisão mista: peso, gradiente, e a cópia em float32 com os dois estados.
MIXED_BYTES = (2, 2, 12)

# Bytes guardados por camada e token, pela largura h, a da MLP, f, e o posto r: os tensores do
# autograd numa camada Llama com atenção "sdpa", contados um a um, como em Korthikanti et al. (2022,
# seção 4.1). Congelar um peso dispensa a entrada dele; em bf16, só as normas ficam em float32.
STORED: dict[str, Callable[[int, int, int], int]] = {
    # normas 4h, entrada de q/k/v h, q, k, v e saída da atenção 4h, entrada da MLP h; MLP 4f
    "full float32": lambda h, f, r: 4 * (10 * h + 4 * f),
    # em float32, as normas (4h); em bf16, as mesmas contas e as cópias das entradas (9h, 4f)
    "full bf16": lambda h, f, r: 4 * 4 * h + 2 * (9 * h + 4 * f),
    "lora float32": lambda h, f, r: 4 * (8 * h + 4 * f + 7 * r),
    "lora bf16": lambda h, f, r: 4 * 2 * h + 2 * (6 * h + 4 * f + 7 * r),
}
# Para planejar sem baixar nada: o LlamaConfig sem argumentos é o Llama 2 de 7 bilhões (Touvron et
# al., 2023, tabela 1).
KNOWN_SHAPES = {"meta-llama/Llama-2-7b-hf": LlamaConfig()}


@dataclass(frozen=True)
class Shape:
    """Quantos parâmetros, e (entrada, saída) de cada camada linear, fora a de saída, pelo nome."""

    total: int
    linears: dict[str, tuple[int, int]]

    @property
    def in_linears(self) -> int:
        """Parâmetros nas camadas lineares: as que recebem LoRA e vão a 4 bits."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    def adapter(self, r: int) -> int:
        """Parâmetros do LoRA de posto `r` em todas elas: r x (entrada + saída) por camada."""
        return sum(r * (inputs + outputs) for inputs, outputs in self.linears.values())


def meta_model(config: PretrainedConfig) -> nn.Module:
    """O modelo no dispositivo "meta": com todos os tamanhos e nenhum peso."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shape_of(config: PretrainedConfig) -> Shape:
    """A forma exata do modelo, sem os pesos."""
    model = meta_model(config)
    linears = {
        name: tuple(m.weight.shape if isinstance(m, Conv1D) else reversed(m.weight.shape))
        for name, m in linears_of(model).items()
    }
    return Shape(sum(p.numel() for p in model.parameters()), linears)


def stored(config: PretrainedConfig, mode: str, r: int) -> int:
    """Bytes que uma camada guarda por token."""
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return STORED[mode](config.hidden_size, inner, r)


def config_of(name: str) -> PretrainedConfig:
    """A configuração de um modelo conhecido, de uma pasta, de um config.json ou do hub."""
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # um config.json estragado sai de muitas formas
        raise UserError(
            f"não achei a configuração de `{name}`. Indique uma pasta, um config.json, um nome no "
            f"hub ou um destes: {', '.join(KNOWN_SHAPES)}."
        ) from error


def predict(
    config: PretrainedConfig, mode: str, tokens: int, logits: int, r: int = 0
) -> MemoryParts:
    """Memória de um passo com AdamW, em MiB; as ativações são as da arquitetura Llama.

    Args:
        mode: uma chave de `STORED`: o que treina, e em que precisão são as contas.
        tokens: tokens do lote, contando o preenchimento (exemplos x comprimento).
        logits: posições cujos logits ficam guardados: as da resposta, ou nenhuma quando a perda
            sai aos pedaços e os refaz na volta (o `SFTTrainer`).
        r: posto do LoRA em todas as camadas lineares.
    """
    shape, width, half = shape_of(config), config.hidden_size, mode.endswith("bf16")
    weights, trainable, copies = FLOAT32 * shape.total, shape.total, 0
    if mode.startswith("lora"):
        trainable = shape.adapter(r)
        weights = (BF16 if half else FLOAT32) * shape.total + FLOAT32 * trainable
        copies = BF16 * trainable if half else 0
    elif half:  # o autocast copia para bf16 os pesos das camadas lineares e, com logits, da saída
        copies = BF16 * (shape.in_linears + (width * config.vocab_size if logits else 0))
    layers = config.num_hidden_layers * tokens * stored(config, mode, r)
    ends = FLOAT32 * (2 * width * tokens + (width + config.vocab_size) * logits)
    return MemoryParts(
        weights=weights / MIB,
        gradients=trainable * FLOAT32 / MIB,
        optimizer=trainable * ADAM_STATES * FLOAT32 / MIB,
        activations=(layers + ends + copies) / MIB,
    )


def show_comparison(predicted: MemoryParts, measured: MemoryParts) -> None:
    """Imprime o previsto, o medido e a razão, parcela por parcela."""
    pairs = [(MEMORY[key], value, getattr(measured, key)) for key, value in predicted]
    pairs.append(("soma", predicted.total, measured.total))
    tables.show(
        ["parcela", "prevista (MiB)", "medida (MiB)", "medida / prevista"],
        [[label, decimal(a), decimal(b), decimal(b / a, 2)] for label, a, b in pairs],
    )


def plan(config: PretrainedConfig, r: int, tokens: int, checkpointing: bool) -> dict[str, dict]:
    """Memória de um passo, em GiB: todos os pesos, LoRA (base em bf16) e QLoRA (base em NF4).

    Com `checkpointing`, guarda-se só a entrada de cada camada, e recalcula-se uma por vez.
    """
    shape, width, layers = shape_of(config), config.hidden_size, config.num_hidden_layers

    def activations(mode: str) -> int:
        layer = stored(config, mode, r)
        kept = layers * BF16 * width + layer if checkpointing else layers * layer
        return tokens * (kept + FLOAT32 * (2 * width + config.vocab_size))

    adapter, outside = shape.adapter(r), BF16 * (shape.total - shape.in_linears)
    # Gradiente e os dois estados do Adam, só do adaptador.
    frozen = (FLOAT32 * adapter, ADAM_STATES * FLOAT32 * adapter, activations("lora bf16"))
    full = (*(size * shape.total for size in MIXED_BYTES), activations("full bf16"))
    base = {"LoRA": BF16 * shape.total, "QLoRA": NF4_BITS / 8 * shape.in_linears + outside}
    plans = {"todos os pesos": (*full, sum(full), BF16 * shape.total)}  # o último é o arquivo
    for name, size in base.items():
        parts = (size + FLOAT32 * adapter, *frozen)
        plans[name] = (*parts, sum(parts), BF16 * adapter)
    keys = (*MEMORY, "total", "file")
    gib = {name: [size / GIB for size in sizes] for name, sizes in plans.items()}
    return {name: dict(zip(keys, sizes, strict=True)) for name, sizes in gib.items()}


def show_plan(name: str, r: int, batch: int = 1, length: int = 1024) -> None:
    """Imprime o plano de um modelo, com e sem recálculo das ativações."""
    config = config_of(name)
    shape = shape_of(config)
    adapter, share = shape.adapter(r), percent(shape.adapter(r) / shape.total, 2)
    print(f"{name}: {decimal(shape.total)} parâmetros")
    print(f"LoRA de posto {r} em todas as lineares: {decimal(adapter)} ({share})\n")
    labels = MEMORY | {"total": "soma", "file": "arquivo salvo"}
    for checkpointing, how in ((False, "todas guardadas"), (True, "recalculadas na volta")):
        plans = plan(config, r, batch * length, checkpointing)
        print(f"lote de {batch} x {length} tokens, ativações {how} (GiB)")
        columns = [[decimal(parts[key], 2) for key in labels] for parts in plans.values()]
        tables.show(["", *plans], zip(labels.values(), *columns, strict=True))
