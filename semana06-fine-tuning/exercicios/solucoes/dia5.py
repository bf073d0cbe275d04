import torch


def absmax_int8(weight):
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


def nearest_level(values, levels):
    return (values[..., None] - levels).abs().argmin(-1)


def round_trip(weight, levels, block):
    blocks = weight.reshape(-1, block)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    return (levels[nearest_level(blocks / scale, levels)] * scale).reshape(weight.shape)
