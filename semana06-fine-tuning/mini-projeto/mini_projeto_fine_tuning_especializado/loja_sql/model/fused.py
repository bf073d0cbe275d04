"""Treino mais rápido em CPU, com a mesma matemática.

Num processador, o treino com LoRA perde tempo em três lugares que não são as multiplicações da
rede: as idas à memória das operações elemento a elemento, os produtos finos do LoRA feitos um a um,
e a camada de saída calculada também para a pergunta, que não entra na perda. Aqui cada um vira uma
função com o gradiente escrito à mão: `tests/mini_projeto/test_fused.py` os confere contra o
autograd, e `tests/benchmarks/train_speed.py` mede o que rendem.

Símbolos: N = tokens do lote (exemplos x comprimento), d = largura da entrada, o = da saída,
r = posto (rank) do LoRA, V = vocabulário.
"""

from collections.abc import Callable
from functools import partial

from comum.training import IGNORED

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

# Arquiteturas cujos logits são exatamente lm_head(última camada), sem escala nem corte no fim.
PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3"}
HEAD_CHUNK = 128  # tokens por vez na camada de saída: 128 x 49.152 floats são 24 MiB


class _LoraFunction(torch.autograd.Function):
    """y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, com W congelado (Hu et al., 2021, eq. 3)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # [N, d]
        ctx.adapter_dtype = a.dtype
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        low = flat @ a.T  # [N, r]
        out = (flat @ weight.T).addmm_(low, b.T, alpha=scale)  # [N, o]
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        flat, low, weight, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])  # [N, o]
        g_low = g @ b  # [N, r]
        # A e B vivem em float32: o otimizador precisa dos passos miúdos que o bf16 arredondaria.
        grad_a = (g_low.T @ flat).to(ctx.adapter_dtype).mul_(ctx.scale)
        grad_b = (g.T @ low).to(ctx.adapter_dtype).mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_a, grad_b, None
        grad_x = (g @ weight).addmm_(g_low, a, alpha=ctx.scale)  # [N, d]
        return grad_x.view(*grad.shape[:-1], -1), None, grad_a, grad_b, None


class _RmsNormFunction(torch.autograd.Function):
    """y = w·x/√(média(x²) + ε), com w congelado (Zhang e Sennrich, 2019)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        inverse = norm.square_().div_(width).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, inverse = ctx.saved_tensors
        gw = grad * weight
        # dL/dx = inv·gw − x·inv³·média(gw·x)
        mean = torch.linalg.vecdot(gw, x).unsqueeze_(-1).div_(x.shape[-1])
        mean.mul_(inverse).mul_(inverse).mul_(inverse)
        return gw.mul_(inverse).addcmul_(x, mean, value=-1), None, None


class _SwigluFunction(torch.autograd.Function):
    """y = silu(gate)·up (Shazeer, 2020); guarda só as entradas e recalcula o resto na volta."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, functional.silu(gate).mul_(grad)


class _AnswerLossFunction(torch.autograd.Function):
    """Soma das entropias cruzadas de h·[W; E]ᵀ contra os alvos, em blocos, sem guardar os logits.

    W está congelado e E são as linhas dos tokens novos. Os gradientes são calculados já na ida: os
    logits (N·V números) nunca existem todos ao mesmo tempo.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, extra: Tensor, targets: Tensor) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total, known = hidden.new_zeros((), dtype=exact), len(weight)
        learning = any(ctx.needs_input_grad)
        grads, grad_extra = torch.empty_like(hidden), torch.zeros_like(extra, dtype=exact)
        new = extra.to(weight.dtype)
        for start in range(0, len(hidden), HEAD_CHUNK):
            block = slice(start, start + HEAD_CHUNK)
            target = targets[block, None]
            logits = torch.cat([hidden[block] @ weight.T, hidden[block] @ new.T], dim=-1)
            log_p = torch.log_softmax(logits, dim=-1, dtype=exact)  # [bloco, V]
            total -= log_p.gather(1, target).sum()
            if learning:
                off = log_p.exp_()  # p − 1 no alvo, p nos outros
                off.scatter_add_(1, target, torch.full_like(target, -1, dtype=off.dtype))
                off = off.to(weight.dtype)
                grads[block] = (off[:, :known] @ weight).addmm_(off[:, known:], new)
                grad_extra += off[:, known:].T @ hidden[block]
        ctx.save_for_backward(grads, grad_extra.to(extra.dtype))
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        grads, grad_extra = ctx.saved_tensors
        return grads * grad, None, grad_extra * grad, None


def supports(model: nn.Module) -> bool:
    """Diz se o modelo, ainda sem LoRA, é de uma arquitetura que este módulo conhece."""
    quantized = getattr(model, "quantization_method", None) is not None
    return model.config.model_type in PLAIN_HEADS and not quantized


def supports_answer_loss(model: nn.Module) -> bool:
    """Diz se `answer_loss` dá a mesma perda que o modelo: saída linear, sem escala nem viés."""
    head = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        head = head.token_adapter.base_layer
    return model.config.model_type in PLAIN_HEADS and type(head) is nn.Linear and head.bias is None


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Soma da perda (em nats) sobre os tokens da resposta, e quantos são.

    Args:
        model: modelo causal, com ou sem peft, aceito por `supports_answer_loss`.
        batch: `input_ids`, `attention_mask` e `labels`, todos [exemplos, comprimento].
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    following = batch["labels"][:, 1:]
    supervised = following != IGNORED
    chosen, targets = hidden[:, :-1][supervised], following[supervised]  # [tokens da resposta, d]
    head = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        return _AnswerLossFunction.apply(chosen, *_split(head.token_adapter), targets), len(targets)
    if head.weight.requires_grad:  # no treino completo a saída também aprende: fica o autograd
        loss = functional.cross_entropy(head(chosen).float(), targets, reduction="sum")
    else:
        loss = _AnswerLossFunction.apply(chosen, head.weight, head.weight[:0], targets)
    return loss, len(targets)


def _split(layer: TrainableTokensLayer) -> tuple[Tensor, Tensor]:
    """As linhas congeladas da tabela e as que treinam, que são as últimas."""
    (extra,) = layer.trainable_tokens_delta.values()
    weight = layer.base_layer.weight
    return weight[: len(weight) - len(extra)], extra


def accelerate_layers(model: nn.Module) -> int:
    """Troca, no lugar, os `forward` que têm versão rápida; devolve quantas camadas mudaram.

    Os pesos continuam onde estavam: salvar, carregar e fundir o adaptador nada percebem.
    """
    changed = 0
    for layer in model.modules():
        forward = _fast_forward(layer)
        if forward is not None:
            layer.forward = forward
            changed += 1
    return changed


def _embedded(weight: Tensor, extra: Tensor, ids: Tensor) -> Tensor:
    """As linhas de `ids`, sem a cópia da tabela inteira que o peft faz a cada passo."""
    known = len(weight)
    new = ids >= known
    learned = functional.embedding(torch.where(new, ids - known, 0), extra).to(weight.dtype)
    return torch.where(
        new[..., None], learned, functional.embedding(ids.clamp(max=known - 1), weight)
    )


def _fast_forward(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    if isinstance(layer, LlamaRMSNorm) and not layer.weight.requires_grad:
        return lambda x: _RmsNormFunction.apply(x, layer.weight, layer.variance_epsilon)
    if isinstance(layer, LlamaMLP) and isinstance(layer.act_fn, nn.SiLU | SiLUActivation):
        gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
        return lambda x: down(_SwigluFunction.apply(gate(x), up(x)))
    if isinstance(layer, TrainableTokensLayer) and isinstance(layer.base_layer, nn.Embedding):
        return partial(_embedded, *_split(layer))
    if not isinstance(layer, LoraLinear) or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    # Só a forma simples: um adaptador em float32, sem dropout, sem viés, sem DoRA.
    simple = (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.use_dora.get(name)
        and base.bias is None
        and not layer.merged
        and base.weight.dtype in (torch.float32, torch.bfloat16)
        and a.dtype == torch.float32
    )
    weight, scale = base.weight, layer.scaling[name]
    return (lambda x: _LoraFunction.apply(x, weight, a, b, scale)) if simple else None
