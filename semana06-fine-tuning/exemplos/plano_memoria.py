"""A memória de um treino: a conta antes, a medida depois.

Quatro parcelas: pesos, gradientes, estado do otimizador e ativações (o que a ida guarda para a
volta). As três primeiras saem de uma multiplicação; a quarta depende do lote e do comprimento, e
costuma ser a maior quando o modelo é pequeno.
"""

from collections.abc import Callable
from dataclasses import dataclass

import medidas
import torch
import utils  # noqa: F401  (antes do torch)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D  # a camada linear do GPT-2: peso transposto

MIB = 2**20
FLOAT32, BF16 = 4, 2  # bytes
PARTS = ("pesos", "gradientes", "otimizador", "ativações")
ADAM_STATES = 2  # média e variância de cada gradiente (Kingma e Ba, 2015)


# Bytes que a ida guarda para a volta, por camada e token, em função da largura h, da largura f da
# MLP e do posto r. São os tensores do autograd numa camada Llama com atenção "sdpa", contados um a
# um, como em Korthikanti et al. (2022, seção 4.1). Congelar um peso dispensa guardar a entrada
# dele; em bf16, só as normas continuam em float32.
STORED: dict[str, Callable[[int, int, int], int]] = {
    # normas 4h, entrada de q/k/v h, q, k, v e saída da atenção 4h, entrada da MLP h; MLP 4f
    "completo float32": lambda h, f, r: 4 * (10 * h + 4 * f),
    # em float32, as normas (4h); em bf16, as mesmas contas e as cópias das entradas (9h, 4f)
    "completo bf16": lambda h, f, r: 4 * 4 * h + 2 * (9 * h + 4 * f),
    "lora float32": lambda h, f, r: 4 * (8 * h + 4 * f + 7 * r),
    "lora bf16": lambda h, f, r: 4 * 2 * h + 2 * (6 * h + 4 * f + 7 * r),
}


def predict(
    config: PretrainedConfig, mode: str, tokens: int, answers: int, r: int = 0
) -> dict[str, float]:
    """Memória prevista de um passo de treino com AdamW, em MiB, parcela por parcela.

    Args:
        config: a configuração do modelo (larguras, camadas, vocabulário); a conta das ativações
            é a da arquitetura Llama.
        mode: uma chave de `STORED`: o que treina, e em que precisão são as contas.
        tokens: tokens do lote, contando o preenchimento (exemplos x comprimento).
        answers: os que entram na perda; só deles se calculam os logits.
        r: posto do LoRA em todas as camadas lineares.
    """
    shape = shape_of(config)
    width, half = shape.width, mode.endswith("bf16")
    weights, trainable, copies = FLOAT32 * shape.total, shape.total, 0
    if mode.startswith("lora"):
        trainable = shape.adapter(r)
        weights = (BF16 if half else FLOAT32) * shape.total + FLOAT32 * trainable
        copies = BF16 * trainable if half else 0
    elif half:  # o autocast copia para bf16 os pesos das camadas lineares e da saída
        copies = BF16 * (shape.in_linears + width * shape.vocabulary)
    layers = shape.layers * tokens * STORED[mode](width, shape.mlp, r)
    ends = FLOAT32 * (2 * width * tokens + (width + shape.vocabulary) * answers)
    return {
        "pesos": weights / MIB,
        "gradientes": trainable * FLOAT32 / MIB,
        "otimizador": trainable * ADAM_STATES * FLOAT32 / MIB,
        "ativações": (layers + ends + copies) / MIB,
    }


def _bytes_of(tensors) -> int:
    """Bytes de armazenamento, cada um contado uma vez (dois tensores podem dividir o mesmo)."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(
    model: nn.Module, batch: dict[str, torch.Tensor], loss_of: Callable = medidas.answer_loss
) -> dict[str, float]:
    """Memória medida num passo de treino com AdamW sobre `batch`, em MiB; não altera o modelo.

    As ativações são os tensores que o autograd guarda na ida, fora os próprios parâmetros. O passo
    usa learning_rate zero.

    Args:
        loss_of: a perda, a partir do modelo e do lote.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    own |= {tensor.untyped_storage().data_ptr() for tensor in batch.values()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor
        return tensor

    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, batch)
    activations = _bytes_of(saved.values())
    saved.clear()
    loss.backward()
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    found = {
        "pesos": _bytes_of(model.parameters()) / MIB,
        "gradientes": _bytes_of(p.grad for p in parameters if p.grad is not None) / MIB,
        "otimizador": _bytes_of(states) / MIB,
        "ativações": activations / MIB,
    }
    model.zero_grad(set_to_none=True)
    return found


def comparison(predicted: dict[str, float], measured: dict[str, float]) -> str:
    """Tabela em texto: previsto, medido e a razão, parcela por parcela."""
    lines = [f"{'parcela':<12} {'previsto':>12} {'medido':>12} {'medido/previsto':>16}"]
    rows = [*predicted, "soma"]
    predicted = predicted | {"soma": sum(predicted.values())}
    measured = measured | {"soma": sum(measured.values())}
    for name in rows:
        share = measured[name] / predicted[name] if predicted[name] else float("nan")
        lines.append(
            f"{name:<12} {predicted[name]:>8.0f} MiB {measured[name]:>8.0f} MiB {share:>15.2f}x"
        )
    return "\n".join(lines).replace(".", ",")


# Formas publicadas, para planejar sem baixar nada (Touvron et al., 2023, tabela 1 e config.json).
KNOWN_SHAPES = {
    "meta-llama/Llama-2-7b-hf": LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=False,
    ),
}  # fmt: skip
GIB = 2**30
# NF4: 4 bits, mais uma escala de 8 bits a cada 64 pesos e uma de 32 a cada 256 escalas
# (Dettmers et al., 2023, seção 3, quantização dupla): 4,127 bits por peso.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Treino completo misto: peso e gradiente em bf16, cópia em float32 e dois estados do Adam.
MIXED_BYTES = {"pesos": 2, "gradientes": 2, "otimizador": 12}


@dataclass(frozen=True)
class Shape:
    """O que o plano precisa saber: (entrada, saída) de cada camada linear, larguras e total."""

    linears: tuple[tuple[int, int], ...]
    total: int
    width: int
    mlp: int
    layers: int
    vocabulary: int

    @property
    def in_linears(self) -> int:
        """Parâmetros nas camadas lineares, sem a de saída: as que recebem LoRA e vão a 4 bits."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    def adapter(self, r: int) -> int:
        """Parâmetros do LoRA de posto `r` em todas elas: r x (entrada + saída) por camada."""
        return sum(r * (inputs + outputs) for inputs, outputs in self.linears)


def shape_of(config: PretrainedConfig) -> Shape:
    """A forma exata do modelo, montado no dispositivo "meta": com tamanhos e sem pesos."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears = tuple(
        tuple(m.weight.shape if isinstance(m, Conv1D) else reversed(m.weight.shape))
        for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head
    )  # fmt: skip
    return Shape(
        linears, sum(p.numel() for p in model.parameters()), config.hidden_size,
        getattr(config, "intermediate_size", 4 * config.hidden_size),
        config.num_hidden_layers, config.vocab_size,
    )  # fmt: skip


def config_of(name: str) -> PretrainedConfig:
    """A configuração de um modelo conhecido, de uma pasta, de um config.json ou do hub."""
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        known = ", ".join(KNOWN_SHAPES)
        raise utils.UserError(
            f"não achei a configuração de `{name}`. Indique uma pasta, um config.json, um nome no "
            f"hub ou um destes: {known}."
        ) from error


def plan(shape: Shape, r: int, tokens: int, checkpointing: bool = True) -> dict[str, dict]:
    """Memória de um passo, em GiB, para treino completo, LoRA (base bf16) e QLoRA (base NF4).

    Args:
        r: posto do LoRA em todas as camadas lineares.
        tokens: tokens do lote (exemplos x comprimento).
        checkpointing: guarda só a entrada de cada camada e recalcula uma camada por vez.
    """

    def activations(mode: str) -> int:
        layer = STORED[mode](shape.width, shape.mlp, r)
        kept = shape.layers * BF16 * shape.width + layer if checkpointing else shape.layers * layer
        return tokens * (kept + FLOAT32 * (2 * shape.width + shape.vocabulary))

    adapter = shape.adapter(r)
    outside = BF16 * (shape.total - shape.in_linears)
    frozen = {"gradientes": FLOAT32 * adapter, "otimizador": ADAM_STATES * FLOAT32 * adapter,
              "ativações": activations("lora bf16")}  # fmt: skip
    plans = {
        "completo": {part: size * shape.total for part, size in MIXED_BYTES.items()}
        | {"ativações": activations("completo bf16")},
        "LoRA": {"pesos": BF16 * shape.total + FLOAT32 * adapter, **frozen},
        "QLoRA": {"pesos": NF4_BITS / 8 * shape.in_linears + outside + FLOAT32 * adapter, **frozen},
    }
    saved = {"completo": BF16 * shape.total, "LoRA": BF16 * adapter, "QLoRA": BF16 * adapter}
    return {
        name: {
            **{part: parts[part] / GIB for part in PARTS},
            "soma": sum(parts.values()) / GIB,
            "arquivo": saved[name] / GIB,
        }
        for name, parts in plans.items()
    }


def plan_table(name: str, r: int, batch: int, length: int) -> str:
    """O plano de um modelo, em texto, com e sem recálculo das ativações."""
    shape = shape_of(config_of(name))
    counts = f"{shape.total:,} parâmetros; LoRA de posto {r}: {shape.adapter(r):,}"
    share = f"{100 * shape.adapter(r) / shape.total:.2f}%".replace(".", ",")
    lines = [f"{name}: {counts.replace(',', '.')} ({share})"]
    for checkpointing in (False, True):
        plans = plan(shape, r, batch * length, checkpointing)
        how = "recalculadas na volta" if checkpointing else "todas guardadas"
        lines.append(f"\nlote de {batch} x {length} tokens, ativações {how} (GiB)")
        lines.append(f"{'':<12}" + "".join(f"{column:>12}" for column in plans))
        for part in next(iter(plans.values())):
            cells = "".join(f"{values[part]:>12.2f}" for values in plans.values())
            lines.append(f"{part:<12}{cells}".replace(".", ","))
    return "\n".join(lines)
