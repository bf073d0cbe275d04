"""Quantização escrita à mão: int8, NF4, escalas duplas, arredondamento em grupos e GPTQ.

Cada função recebe um peso [saída, entrada] em float32 e devolve códigos inteiros e escalas.
"""

import torch
import utils  # noqa: F401  (antes do torch)

NF4_OFFSET = 0.9677083  # a última fração da normal que ainda é um nível (QLoRA, apêndice E)
GPTQ_DAMPING = 0.01  # fração da diagonal média somada à Hessiana (Frantar et al., 2022, seção 3.3)


def int8(weight: torch.Tensor, rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Absmax em int8: uma escala para tudo ou uma por linha. Devolve (códigos, escalas)."""
    largest = weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()
    scale = largest.clamp(min=1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


def nf4_levels() -> torch.Tensor:
    """Os 16 níveis do NF4: quantis da normal, com o zero exato (Dettmers et al., 2023)."""
    normal = torch.distributions.Normal(0.0, 1.0)
    upper = normal.icdf(torch.linspace(NF4_OFFSET, 0.5, 9)[:-1])
    lower = -normal.icdf(torch.linspace(NF4_OFFSET, 0.5, 8)[:-1])
    levels = torch.cat([lower, torch.zeros(1), upper]).sort().values
    return levels / levels.max()


def nf4(weight: torch.Tensor, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Códigos NF4 (0 a 15) e o absmax de cada bloco.

    Returns:
        (códigos uint8 [n / block, block], absmax float32 [n / block]).

    Raises:
        utils.UserError: o peso não se divide em blocos inteiros.
    """
    if weight.numel() % block:
        raise utils.UserError(f"{weight.numel()} pesos não se dividem em blocos de {block}.")
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1)
    levels = nf4_levels()
    middle = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(blocks / absmax.clamp(min=1e-12)[:, None], middle).byte(), absmax


def from_nf4(codes: torch.Tensor, absmax: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return (nf4_levels()[codes.long()] * absmax[:, None]).reshape(shape)


def pack4(codes: torch.Tensor) -> torch.Tensor:
    """Dois códigos de 4 bits por byte, o primeiro na metade alta (a ordem do bitsandbytes)."""
    flat = codes.reshape(-1)
    return (flat[::2] << 4) | flat[1::2]


def unpack4(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack([packed >> 4, packed & 15], 1).reshape(-1)


def q4_1(weight: torch.Tensor, block: int = 32) -> torch.Tensor:
    """Ida e volta pela grade do GGUF Q4_1: 16 passos iguais entre o mínimo e o máximo do bloco."""
    blocks = weight.reshape(-1, block)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-12)
    return (((blocks - low) / step).round() * step + low).reshape(weight.shape)


def group_scales(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Uma escala por grupo de colunas, já arredondada a bf16, como será gravada: [saída, grupos].

    Raises:
        utils.UserError: a largura não se divide em grupos inteiros.
    """
    if weight.shape[1] % group:
        raise utils.UserError(
            f"largura {weight.shape[1]} não se divide em grupos de {group}; use 32 ou 64."
        )
    largest = weight.reshape(weight.shape[0], -1, group).abs().amax(2)
    return (largest.clamp(min=1e-8) / ((2**bits - 1) / 2)).bfloat16().float()


def to_grid(values: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    half = 2 ** (bits - 1)
    return (values / scale).round().clamp(-half, half - 1)


def rtn(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Arredonda cada peso ao nível mais próximo: (códigos [saída, entrada], escalas)."""
    scales = group_scales(weight, bits, group)
    return to_grid(weight, scales.repeat_interleave(group, 1), bits), scales


def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group: int, block: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ (Frantar et al., 2022, algoritmo 1): coluna a coluna, empurrando o erro adiante.

    Args:
        weight: [saída, entrada]; hessian: soma de x·xᵀ das entradas da camada [entrada, entrada].
        block: colunas tratadas antes de atualizar as que faltam; é múltiplo de `group`, e então
            cada grupo toma a escala dos pesos já corrigidos, ou divide um grupo maior.

    Returns:
        (códigos [saída, entrada], escalas [saída, entrada / group]).
    """
    scales = group_scales(weight, bits, group)  # recusa aqui o grupo que não cabe
    weight, hessian = weight.clone(), hessian.clone()
    dead = hessian.diagonal() == 0  # entradas que nunca se acenderam na calibração
    hessian[dead, dead] = 1
    hessian.diagonal().add_(GPTQ_DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    inverse = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros_like(weight)
    columns = weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(weight.shape[0], stop - start)
        for column in range(start, stop):
            place = column // group
            if column % group == 0:
                scales[:, place] = group_scales(
                    weight[:, column : column + group], bits, group
                )[:, 0]
            scale = scales[:, place]
            codes[:, column] = to_grid(weight[:, column], scale, bits)
            error = (weight[:, column] - codes[:, column] * scale) / inverse[column, column]
            weight[:, column:stop].sub_(error[:, None] * inverse[None, column, column:stop])
            errors[:, column - start] = error
        weight[:, stop:].sub_(errors @ inverse[start:stop, stop:])
    return codes, scales


def relative_error(approximate: torch.Tensor, weight: torch.Tensor) -> float:
    """‖Ŵ − W‖ / ‖W‖."""
    return ((approximate - weight).norm() / weight.norm()).item()


def bits_per_weight(bits: int, block: int, scale_bits: float) -> float:
    """Bits de cada peso contando a escala do bloco: 4 bits, bloco 64, escala de 32 → 4,5."""
    return bits + scale_bits / block


def double_quantize(
    absmax: torch.Tensor, levels: torch.Tensor, block: int = 256
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantiza as próprias escalas: tira a média e guarda cada uma em 8 bits (QLoRA, seção 3).

    Args:
        absmax: [n]; levels: os 256 níveis de 8 bits, em ordem crescente.

    Returns:
        (códigos uint8 [n], escalas de segundo nível [⌈n / block⌉], média).
    """
    mean = absmax.mean()
    centered = torch.nn.functional.pad(absmax - mean, (0, -absmax.numel() % block))
    blocks = centered.reshape(-1, block)
    second = blocks.abs().amax(1)
    middle = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / second.clamp(min=1e-12)[:, None], middle)
    return codes.reshape(-1)[: absmax.numel()].byte(), second, mean


def undo_double(
    codes: torch.Tensor, second: torch.Tensor, mean: torch.Tensor, levels: torch.Tensor,
    block: int = 256,
) -> torch.Tensor:  # fmt: skip
    """As escalas [n] de volta de `double_quantize`."""
    return levels[codes.long()] * second.repeat_interleave(block)[: codes.numel()] + mean
