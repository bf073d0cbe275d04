"""GPTQ em 4 bits (Frantar et al., 2022, arXiv:2210.17323), gravado como pack-quantized.

Bloco a bloco do modelo: com as entradas que o bloco recebe dos anteriores, já quantizados, junta-se
a Hessiana H = Σ x·xᵀ de cada camada linear; os pesos são arredondados coluna a coluna, e o erro de
cada coluna é empurrado para as que faltam, na direção que menos muda a saída. O arquivo sai no
formato do compressed-tensors, que o transformers e o vLLM leem.
"""

import sys
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from loja_sql.config import UserError

BITS = 4
GROUP = 64  # 576, a largura do modelo padrão, não é múltiplo de 128
DAMPING = 0.01  # fração da média da diagonal somada a ela (seção 3.3 do artigo)
TARGET = "pack-quantized"


class _Captured(Exception):
    """Interrompe o forward assim que as entradas do primeiro bloco são conhecidas."""


@torch.no_grad()
def quantize(model: PreTrainedModel, sequences: list[list[int]]) -> dict[str, Tensor]:
    """Troca, no lugar, os pesos lineares dos blocos pelos da grade de 4 bits.

    Args:
        model: em float32, com os blocos em `model.model.layers` (família Llama).
        sequences: tokens de calibração; os do próprio treino servem melhor que texto qualquer.

    Returns:
        {nome da camada: escalas [saída, entrada / GROUP]}.

    Raises:
        UserError: arquitetura desconhecida, ou largura que não se divide em grupos.
    """
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if blocks is None:
        raise UserError(f"o GPTQ daqui não conhece a arquitetura {model.config.model_type}")
    calls = [_block_inputs(model, blocks[0], ids) for ids in sequences]
    scales: dict[str, Tensor] = {}
    for number, block in enumerate(tqdm(blocks, desc="GPTQ", unit="bloco", file=sys.stdout)):
        linears = {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}
        hessians = _hessians(block, linears, calls)
        for name, layer in linears.items():
            rounded, scale = round_columns(layer.weight, hessians[name])
            layer.weight.copy_(rounded)
            scales[f"model.layers.{number}.{name}"] = scale
        calls = [(_output(block, hidden, kwargs), kwargs) for hidden, kwargs in calls]
    return scales


def _block_inputs(model: PreTrainedModel, block: nn.Module, ids: list[int]) -> tuple[Tensor, dict]:
    """O que o primeiro bloco recebe: estados [1, tokens, d] e argumentos (máscara, posições)."""
    found = []

    def capture(module, args, kwargs):
        found.append((args[0], kwargs))
        raise _Captured

    handle = block.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    except _Captured:
        pass
    finally:
        handle.remove()
    return found[0]


def _output(block: nn.Module, hidden: Tensor, kwargs: dict) -> Tensor:
    output = block(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output


def _hessians(block: nn.Module, linears: dict[str, nn.Linear], calls: list) -> dict[str, Tensor]:
    """Σ x·xᵀ das entradas de cada camada do bloco: [entrada, entrada]."""
    sums = {n: torch.zeros(m.in_features, m.in_features, device=m.weight.device)
            for n, m in linears.items()}  # fmt: skip

    def watch(name: str):
        def hook(module, args):
            x = args[0].reshape(-1, args[0].shape[-1])
            sums[name].addmm_(x.T, x)

        return hook

    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in linears.items()]
    for hidden, kwargs in calls:
        _output(block, hidden, kwargs)
    for handle in hooks:
        handle.remove()
    return sums


def round_columns(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """O algoritmo 1 do artigo, com um bloco de colunas por grupo.

    Args:
        weight: [saída, entrada]; hessian: [entrada, entrada].

    Returns:
        (pesos já na grade [saída, entrada], escalas [saída, entrada / GROUP], exatas em bf16).
    """
    rows, columns = weight.shape
    if columns % GROUP:
        raise UserError(f"uma camada de largura {columns} não se divide em grupos de {GROUP}")
    left, hessian = weight.clone(), hessian.clone()
    unused = hessian.diagonal() == 0
    hessian.diagonal()[unused] = 1
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True
    )
    half = 2 ** (BITS - 1)
    scales = torch.empty(rows, columns // GROUP, device=weight.device)
    for start in range(0, columns, GROUP):
        stop = start + GROUP
        largest = left[:, start:stop].abs().amax(1).clamp(min=1e-8)
        scale = (largest / (half - 0.5)).bfloat16().float()
        scales[:, start // GROUP] = scale
        errors = torch.empty(rows, GROUP, device=weight.device)
        for column in range(start, stop):
            exact = left[:, column].clone()
            left[:, column] = (exact / scale).round().clamp(-half, half - 1) * scale
            error = (exact - left[:, column]) / inverse[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : stop] -= error[:, None] * inverse[column, column + 1 : stop]
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return left, scales


def save(model: PreTrainedModel, scales: dict[str, Tensor], folder: Path) -> None:
    """Empacota os pesos de `quantize` (8 por inteiro de 32 bits) e grava a pasta."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    weights = QuantizationArgs(
        num_bits=BITS, type="int", symmetric=True, strategy="group", group_size=GROUP
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    apply_quantization_config(
        model,
        QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], format=TARGET),
    )
    for name, scale in scales.items():
        layer = model.get_submodule(name)
        layer.weight_scale.data = scale
        layer.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=TARGET)
    compressor.compress_model(model)
    compressor.remove_decompression_hook(model)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.bfloat16()
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
