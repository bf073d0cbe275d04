"""Treino mais rápido em CPU, com a mesma matemática.

Num processador, o treino com LoRA perde tempo em três lugares que não são as multiplicações de
matrizes da rede: as idas e vindas à memória das operações elemento a elemento, os produtos finos
do LoRA feitos um a um, e a camada de saída (49.152 colunas) calculada também para a pergunta, que
não entra na perda. Aqui cada um vira uma função com o gradiente escrito à mão. As fórmulas são as
usuais; `tests/mini_projeto/test_fused.py` confere saídas e gradientes contra o autograd, e
`tests/benchmarks/train_speed.py` mede o que elas rendem.

Símbolos: N = tokens do lote (exemplos x comprimento), d = largura da entrada, o = da saída,
r = posto (rank) do LoRA, V = vocabulário.
"""

from comum.training import IGNORED

import torch
from peft.tuners.lora import Linear as LoraLinear
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
        out = flat @ weight.T  # [N, o]
        out.addmm_(low, b.T, alpha=scale)
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
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = g @ weight  # [N, d]
            grad_x.addmm_(g_low, a, alpha=ctx.scale)
            grad_x = grad_x.view(*grad.shape[:-1], -1)
        return grad_x, None, grad_a, grad_b, None


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
        grad_up = functional.silu(gate).mul_(grad)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, grad_up


class _AnswerLossFunction(torch.autograd.Function):
    """Soma das entropias cruzadas de h·Wᵀ contra os alvos, em blocos, sem guardar os logits.

    O gradiente em relação a `h` é calculado já na ida, bloco a bloco, porque W está congelado: os
    logits (N·V números) nunca existem todos ao mesmo tempo.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=exact)
        needs_grad = ctx.needs_input_grad[0]
        grads = torch.empty_like(hidden) if needs_grad else None
        for start in range(0, len(hidden), HEAD_CHUNK):
            block = slice(start, start + HEAD_CHUNK)
            target = targets[block, None]
            log_p = torch.log_softmax(hidden[block] @ weight.T, dim=-1, dtype=exact)  # [bloco, V]
            total -= log_p.gather(1, target).sum()
            if needs_grad:
                off = log_p.exp_()  # p − 1 no alvo, p nos outros
                off.scatter_add_(1, target, torch.full_like(target, -1, dtype=off.dtype))
                grads[block] = off.to(weight.dtype) @ weight
        ctx.save_for_backward(grads)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        (grads,) = ctx.saved_tensors
        return grads * grad, None, None


def supports(model: nn.Module) -> bool:
    """Diz se o modelo, ainda sem LoRA, é de uma arquitetura que este módulo conhece."""
    quantized = getattr(model, "quantization_method", None) is not None
    return model.config.model_type in PLAIN_HEADS and not quantized


def supports_answer_loss(model: nn.Module) -> bool:
    """Diz se `answer_loss` dá a mesma perda que o modelo: saída linear, sem escala nem viés."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = causal.get_output_embeddings()
    return causal.config.model_type in PLAIN_HEADS and type(head) is nn.Linear and head.bias is None


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Soma da perda (em nats) sobre os tokens da resposta, e quantos são.

    Args:
        model: modelo causal, com ou sem peft, aceito por `supports_answer_loss`.
        batch: `input_ids`, `attention_mask` e `labels`, todos [exemplos, comprimento].
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state  # [exemplos, comprimento, d]
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORED
    chosen = hidden[:, :-1][supervised]  # [tokens da resposta, d]
    head = causal.get_output_embeddings()
    if head.weight.requires_grad:  # no treino completo a saída também aprende: fica o autograd
        logits = head(chosen).float()
        loss = functional.cross_entropy(logits, targets[supervised], reduction="sum")
    else:
        loss = _AnswerLossFunction.apply(chosen, head.weight, targets[supervised])
    return loss, int(supervised.sum())


def _lora_forward(layer: LoraLinear):
    (name,) = layer.active_adapters
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    weight = layer.base_layer.weight
    return lambda x: _LoraFunction.apply(x, weight, a, b, scale)


def _can_fuse(layer: nn.Module) -> bool:
    """Só a forma simples: um adaptador em float32, sem dropout, sem viés, sem DoRA."""
    if not isinstance(layer, LoraLinear) or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    return (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.use_dora.get(name)
        and layer.base_layer.bias is None
        and not layer.merged
        and layer.base_layer.weight.dtype in (torch.float32, torch.bfloat16)
        and layer.lora_A[name].weight.dtype == torch.float32
    )


def accelerate_layers(model: nn.Module) -> int:
    """Troca, no lugar, os `forward` que têm versão rápida; devolve quantas camadas mudaram.

    Os pesos continuam onde estavam: salvar, carregar e fundir o adaptador nada percebem.
    """
    changed = 0
    for layer in model.modules():
        if _can_fuse(layer):
            layer.forward = _lora_forward(layer)
        elif isinstance(layer, LlamaRMSNorm) and not layer.weight.requires_grad:
            layer.forward = lambda x, m=layer: _RmsNormFunction.apply(
                x, m.weight, m.variance_epsilon
            )
        elif isinstance(layer, LlamaMLP) and isinstance(layer.act_fn, nn.SiLU | SiLUActivation):
            layer.forward = lambda x, m=layer: m.down_proj(
                _SwigluFunction.apply(m.gate_proj(x), m.up_proj(x))
            )
        else:
            continue
        changed += 1
    return changed
