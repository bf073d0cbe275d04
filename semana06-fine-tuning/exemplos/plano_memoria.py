"""A memória de um treino: a conta antes, a medida depois.

Quatro parcelas: pesos, gradientes, estado do otimizador e ativações (o que a ida guarda para a
volta). As três primeiras saem de uma multiplicação; a quarta depende do lote e do comprimento, e
costuma ser a maior quando o modelo é pequeno.
"""

import utils  # noqa: F401  (antes do torch)

import torch
from torch import nn
from transformers import PretrainedConfig

MIB = 2**20
FLOAT32 = 4  # bytes
ADAM_STATES = 2  # média e variância de cada gradiente (Kingma e Ba, 2015)


def predict(
    config: PretrainedConfig, total: int, trainable: int, tokens: int, weight_bytes: int = FLOAT32
) -> dict[str, float]:
    """Memória prevista de um passo de treino com AdamW, em MiB.

    As ativações são contadas para a arquitetura Llama com atenção "sdpa" em float32, tensor por
    tensor que o autograd guarda. Por camada e token: 11 vezes a largura `h` (normas 4, entrada de
    q/k/v 1, q, k, v e saída da atenção 4, entrada de o 1, entrada da MLP 1) mais 4 vezes a largura
    `f` da MLP. No fim, 3h da última norma e o vocabulário inteiro, por causa da perda. É a conta de
    Korthikanti et al. (2022, seção 4.1), refeita para esta arquitetura.

    Args:
        config: a configuração do modelo (larguras, camadas, vocabulário).
        total: parâmetros do modelo; trainable: os que treinam.
        tokens: tokens do lote, contando o preenchimento (exemplos x comprimento).
        weight_bytes: bytes por peso guardado.
    """
    width, mlp = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    per_token = config.num_hidden_layers * (11 * width + 4 * mlp) + 3 * width + config.vocab_size
    return {
        "pesos": total * weight_bytes / MIB,
        "gradientes": trainable * FLOAT32 / MIB,
        "otimizador": trainable * ADAM_STATES * FLOAT32 / MIB,
        "ativações": tokens * per_token * FLOAT32 / MIB,
    }


def _bytes_of(tensors) -> int:
    """Bytes de armazenamento, cada um contado uma vez (dois tensores podem dividir o mesmo)."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Memória medida num passo de treino com AdamW sobre `batch`, em MiB; não altera o modelo.

    As ativações são os tensores que o autograd guarda na ida, fora os próprios parâmetros. O passo
    usa learning_rate zero.
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
        loss = model(**batch).loss
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
