"""A memória de um treino, por aritmética: pesos, gradientes, otimizador e ativações.

As três primeiras parcelas saem de uma multiplicação. As ativações (o que a ida guarda para a volta)
dependem do lote e do comprimento, e costumam ser a maior quando o modelo é pequeno.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comum import tables
from comum.hub import look_for
from comum.labels import MEMORY
from comum.numbers import GIB, MIB, decimal, percent
from comum.results import MemoryParts
from comum.terminal import UserError

if TYPE_CHECKING:  # o plano de um modelo conhecido sai sem esperar pelo torch
    from torch import nn
    from transformers import PretrainedConfig

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
# Para planejar sem baixar nada: largura, MLP, camadas, cabeças, cabeças de chave, dimensão de cada
# uma, vocabulário, do config.json de cada modelo. Os testes conferem o total com o publicado.
KNOWN_SHAPES: dict[str, tuple] = {
    "meta-llama/Llama-2-7b-hf": (4096, 11008, 32, 32, 32, 128, 32_000),
    "meta-llama/Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128, 128_256),
    "meta-llama/Llama-3.2-1B": (2048, 8192, 16, 32, 8, 64, 128_256, "tied"),
    "mistralai/Mistral-7B-v0.1": (4096, 14336, 32, 32, 8, 128, 32_000),
    "Qwen/Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 64, 151_936, "tied", "bias"),
    "Qwen/Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 128, 151_936, "tied", "bias"),
    "Qwen/Qwen2.5-7B": (3584, 18944, 28, 28, 4, 128, 152_064, "bias"),
    "google/gemma-2-2b": (2304, 9216, 26, 8, 4, 256, 256_000, "tied", "four norms"),
    "HuggingFaceTB/SmolLM2-1.7B": (2048, 8192, 24, 32, 32, 64, 49_152, "tied"),
    "microsoft/Phi-3-mini-4k-instruct": (3072, 8192, 32, 32, 32, 96, 32_064, "joined"),
}


@dataclass(frozen=True)
class Shape:
    """Quantos parâmetros, e (entrada, saída) de cada camada linear, fora a de saída, pelo nome."""

    total: int
    linears: dict[str, tuple[int, int]]
    width: int = 0
    inner: int = 0  # a largura da MLP
    layers: int = 0
    vocabulary: int = 0

    @property
    def in_linears(self) -> int:
        """Parâmetros nas camadas lineares: as que recebem LoRA e vão a 4 bits."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    def adapter(self, r: int) -> int:
        """Parâmetros do LoRA de posto `r` em todas elas: r x (entrada + saída) por camada."""
        return sum(r * (inputs + outputs) for inputs, outputs in self.linears.values())


def known_shape(name: str) -> Shape:
    """A forma de um modelo de `KNOWN_SHAPES`, só com contas."""
    width, inner, layers, heads, key_heads, size, vocabulary, *options = KNOWN_SHAPES[name]
    query, key = heads * size, key_heads * size
    if "joined" in options:  # o Phi-3 junta numa matriz as que leem a mesma entrada
        sizes = {"qkv_proj": (width, query + 2 * key), "gate_up_proj": (width, 2 * inner)}
    else:
        sizes = {"q_proj": (width, query), "k_proj": (width, key), "v_proj": (width, key)}
        sizes |= {"gate_proj": (width, inner), "up_proj": (width, inner)}
    sizes |= {"o_proj": (query, width), "down_proj": (inner, width)}
    linears = {f"{layer}.{part}": pair for layer in range(layers) for part, pair in sizes.items()}
    norms = width * (4 if "four norms" in options else 2)
    biases = query + 2 * key if "bias" in options else 0
    # A entrada e a saída podem ser a mesma matriz; depois da última camada há mais uma norma.
    ends = vocabulary * width * (1 if "tied" in options else 2) + width
    total = sum(a * b for a, b in linears.values()) + layers * (norms + biases) + ends
    return Shape(total, linears, width, inner, layers, vocabulary)


def meta_model(config: "PretrainedConfig") -> "nn.Module":
    """O modelo no dispositivo "meta": com todos os tamanhos e nenhum peso."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shape_of(config: "PretrainedConfig") -> Shape:
    """A forma exata do modelo, sem os pesos."""
    from comum.models import linears_of

    from transformers.pytorch_utils import Conv1D

    model, width = meta_model(config), config.hidden_size
    linears = {
        name: tuple(m.weight.shape if isinstance(m, Conv1D) else reversed(m.weight.shape))
        for name, m in linears_of(model).items()
    }
    inner = getattr(config, "intermediate_size", 4 * width)
    ends = width, inner, config.num_hidden_layers, config.vocab_size
    return Shape(sum(p.numel() for p in model.parameters()), linears, *ends)


def config_of(name: str) -> "PretrainedConfig":
    """A configuração de um modelo, de uma pasta, de um config.json ou do hub."""
    from transformers import AutoConfig

    look_for(name)
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # um config.json estragado sai de muitas formas
        raise UserError(
            f"não achei a configuração de `{name}`. Indique uma pasta, um config.json, um nome no "
            f"hub ou um destes: {', '.join(KNOWN_SHAPES)}."
        ) from error


def predict(
    config: "PretrainedConfig",
    mode: str,
    tokens: int,
    logits: int,
    r: int = 0,
    load_in_4bit: bool = False,
) -> MemoryParts:
    """Memória de um passo com AdamW, em MiB; as ativações são as da arquitetura Llama.

    Args:
        mode: uma chave de `STORED`: o que treina, e em que precisão são as contas.
        tokens: tokens do lote, contando o preenchimento (exemplos x comprimento).
        logits: posições cujos logits ficam guardados: as da resposta, ou nenhuma quando a perda
            sai aos pedaços e os refaz na volta (o `SFTTrainer`).
        r: posto do LoRA em todas as camadas lineares, que com `load_in_4bit` ficam em NF4.
    """
    shape, half = shape_of(config), mode.endswith("bf16")
    weights, trainable, copies = FLOAT32 * shape.total, shape.total, 0
    if mode.startswith("lora"):
        trainable = shape.adapter(r)
        each = BF16 if half else FLOAT32
        linears = shape.in_linears * (NF4_BITS / 8 if load_in_4bit else each)
        weights = linears + each * (shape.total - shape.in_linears) + FLOAT32 * trainable
        copies = BF16 * trainable if half else 0
    elif half:  # o autocast copia para bf16 os pesos das camadas lineares e, com logits, da saída
        copies = BF16 * (shape.in_linears + (shape.width * shape.vocabulary if logits else 0))
    layers = shape.layers * tokens * STORED[mode](shape.width, shape.inner, r)
    ends = FLOAT32 * (2 * shape.width * tokens + (shape.width + shape.vocabulary) * logits)
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


def plan(shape: Shape, r: int, tokens: int, checkpointing: bool) -> dict[str, dict]:
    """Memória de um passo, em GiB: todos os pesos, LoRA (base em bf16) e QLoRA (base em NF4).

    Com `checkpointing`, guarda-se só a entrada de cada camada, e recalcula-se uma por vez.
    """

    def activations(mode: str) -> int:
        layer = STORED[mode](shape.width, shape.inner, r)
        inputs = shape.layers * BF16 * shape.width
        kept = inputs + layer if checkpointing else shape.layers * layer
        return tokens * (kept + FLOAT32 * (2 * shape.width + shape.vocabulary))

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
    shape = known_shape(name) if name in KNOWN_SHAPES else shape_of(config_of(name))
    adapter, share = shape.adapter(r), percent(shape.adapter(r) / shape.total, 2)
    print(f"{name}: {decimal(shape.total)} parâmetros")
    print(f"LoRA de posto {r} em todas as lineares: {decimal(adapter)} ({share})\n")
    labels = MEMORY | {"total": "soma", "file": "arquivo salvo"}
    for checkpointing, how in ((False, "todas guardadas"), (True, "recalculadas na volta")):
        plans = plan(shape, r, batch * length, checkpointing)
        print(f"lote de {batch} x {length} tokens, ativações {how} (GiB)")
        columns = [[decimal(parts[key], 2) for key in labels] for parts in plans.values()]
        tables.show(["", *plans], zip(labels.values(), *columns, strict=True))
