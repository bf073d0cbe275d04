"""GPTQ (Frantar et al., 2022, arXiv:2210.17323), gravado no formato pack-quantized.

Bloco a bloco do modelo: com as entradas que o bloco recebe dos anteriores, já quantizados, junta-se
a Hessiana H = Σ x·xᵀ de cada camada linear; os pesos são arredondados coluna a coluna, e o erro de
cada coluna é empurrado para as que faltam, na direção que menos muda a saída. O arquivo sai no
formato do compressed-tensors, que o transformers e o vLLM leem.
"""

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path

from comum.terminal import UserError, progress

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BITS = 4
GROUP = 64  # 576, a largura do modelo padrão, não é múltiplo de 128
DAMPING = 0.01  # fração da média da diagonal somada a ela (seção 3.3 do artigo)
FORMAT = "pack-quantized"


class _Captured(Exception):
    """Interrompe o forward assim que as entradas do primeiro bloco são conhecidas."""


@torch.no_grad()
def quantize(
    model: PreTrainedModel, sequences: list[list[int]], bits: int = BITS, group: int = GROUP
) -> dict[str, Tensor]:
    """Troca, no lugar, os pesos lineares dos blocos pelos de uma grade de `bits` bits.

    Args:
        model: em float32, com os blocos em `model.model.layers` (família Llama).
        sequences: tokens de calibração; os do próprio treino servem melhor que texto qualquer. Sem
            nenhuma, cada peso é só arredondado.
        group: pesos seguidos de uma linha que dividem uma escala.

    Returns:
        {nome da camada: escalas [saída, entrada / group]}.

    Raises:
        UserError: arquitetura desconhecida, ou largura que não se divide em grupos.
    """
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if blocks is None:
        raise UserError(f"o GPTQ daqui não conhece a arquitetura {model.config.model_type}.")
    calls = [_block_inputs(model, blocks[0], ids) for ids in sequences]
    scales: dict[str, Tensor] = {}
    for number, block in enumerate(progress(blocks, "GPTQ", "bloco")):
        linears = {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}
        hessians = _hessians(block, linears.values(), calls)
        for name, layer in linears.items():
            if sequences:
                found = round_columns(layer.weight, hessians[layer], bits, group)
            else:
                found = round_to_nearest(layer.weight, bits, group)
            rounded, scales[f"model.layers.{number}.{name}"] = found
            layer.weight.copy_(rounded)
        calls = [(block(hidden, **options), options) for hidden, options in calls]
    return scales


def _block_inputs(model: PreTrainedModel, block: nn.Module, ids: list[int]) -> tuple[Tensor, dict]:
    """O que o primeiro bloco recebe: estados [1, tokens, d] e argumentos (máscara, posições)."""
    found = []

    def capture(module, args, options):
        found.append((args[0], options))
        raise _Captured

    handle = block.register_forward_pre_hook(capture, with_kwargs=True)
    with contextlib.suppress(_Captured):
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    handle.remove()
    return found[0]


def _hessians(block: nn.Module, linears: Iterable[nn.Linear], calls: list) -> dict:
    """Σ x·xᵀ das entradas de cada camada do bloco: [entrada, entrada]."""
    sums = {x: x.weight.new_zeros(x.in_features, x.in_features) for x in linears}

    def add(layer: nn.Linear, args: tuple) -> None:
        x = args[0].reshape(-1, args[0].shape[-1])
        sums[layer].addmm_(x.T, x)

    hooks = [layer.register_forward_pre_hook(add) for layer in sums]
    for hidden, options in calls:
        block(hidden, **options)
    for handle in hooks:
        handle.remove()
    return sums


def round_columns(
    weight: Tensor, hessian: Tensor, bits: int = BITS, group: int = GROUP
) -> tuple[Tensor, Tensor]:
    """O algoritmo 1 do artigo, com um bloco de colunas por grupo.

    Args:
        weight: [saída, entrada]; hessian: [entrada, entrada].

    Returns:
        (pesos já na grade [saída, entrada], escalas [saída, entrada / group], exatas em bf16).

    Raises:
        UserError: a largura não se divide em grupos.
    """
    _check(weight, group)
    left, hessian = weight.clone(), hessian.clone()
    unused = hessian.diagonal() == 0  # entradas que nunca se acenderam na calibração
    hessian.diagonal()[unused] = 1
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    inverse = torch.linalg.cholesky(inverse, upper=True)
    scales = weight.new_empty(len(weight), weight.shape[1] // group)
    for start in range(0, weight.shape[1], group):
        stop = start + group
        # A escala sai dos pesos já corrigidos pelos erros das colunas anteriores.
        scale = scales[:, start // group] = _scale(left[:, start:stop], bits)
        errors = weight.new_empty(len(weight), group)
        for column in range(start, stop):
            exact = left[:, column].clone()
            left[:, column] = _to_grid(exact, scale, bits)
            error = (exact - left[:, column]) / inverse[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : stop] -= error[:, None] * inverse[column, column + 1 : stop]
        # As colunas dos outros grupos recebem os erros deste de uma vez: uma só multiplicação.
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return left, scales


def round_to_nearest(weight: Tensor, bits: int = BITS, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """Cada peso no nível mais próximo, sem olhar as entradas; devolve o mesmo que `round_columns`.

    Raises:
        UserError: a largura não se divide em grupos.
    """
    _check(weight, group)
    groups = weight.reshape(len(weight), -1, group)
    scales = _scale(groups, bits)
    return _to_grid(groups, scales[..., None], bits).reshape(weight.shape), scales


def _check(weight: Tensor, group: int) -> None:
    if weight.shape[1] % group:
        raise UserError(
            f"uma camada de largura {weight.shape[1]} não se divide em grupos de {group}; "
            "use 32 ou 64."
        )


def _scale(weights: Tensor, bits: int) -> Tensor:
    """O passo da grade de cada grupo (a última dimensão), já arredondado a bf16, como se grava."""
    largest = weights.abs().amax(-1).clamp(min=1e-8)
    return (largest / (2 ** (bits - 1) - 0.5)).bfloat16().float()


def _to_grid(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return (values / scale).round().clamp(-half, half - 1) * scale


def save(
    model: PreTrainedModel, scales: dict[str, Tensor], bits: int, group: int, folder: Path
) -> None:
    """Empacota os pesos já na grade (oito de 4 bits por inteiro de 32) e grava a pasta.

    Args:
        model: com os pesos de `quantize` ou de `round_to_nearest`; sai empacotado, em bf16.
        scales: as escalas de cada camada, pelo nome.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
    )

    grid = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group}
    groups = {"group_0": {"targets": ["Linear"], "weights": grid}}
    config = QuantizationConfig(config_groups=groups, ignore=["lm_head"], format=FORMAT)
    with contextlib.redirect_stderr(io.StringIO()):  # barras de progresso em inglês
        apply_quantization_config(model, config)
        for name, scale in scales.items():
            layer = model.get_submodule(name)
            layer.weight_scale.data = scale
            layer.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model, quantization_format=FORMAT)
        compressor.compress_model(model)
        compressor.remove_decompression_hook(model)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.bfloat16()
        model.config.dtype = torch.bfloat16
        model.save_pretrained(folder)
    compressor.update_config(str(folder))
