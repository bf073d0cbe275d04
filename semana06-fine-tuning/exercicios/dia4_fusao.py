"""Dia 4: fundir, contar e extrair um LoRA. As formas são as do dia 2.

Complete as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia4`
"""

from torch import Tensor


def merge(w0: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Fácil. Um peso só, W₀ + (α/r)·BA: depois de fundido, o LoRA não custa nada ao responder.

    Fonte: Hu et al., 2021, seção 4.1.
    Exemplo: W₀ a identidade, A = [[1, 1]], B = [[1], [0]], α = 2: [[3, 2], [0, 1]]; vezes [1, 2],
    dá o mesmo [7, 2] dos dois caminhos do dia 2.
    """
    return None  # escreva aqui


def trainable(linears: dict[str, tuple[int, int]], targets: list[str], r: int) -> int:
    """Médio. Os parâmetros que o LoRA treina no modelo, só nas camadas de `targets`.

    `linears` dá (entrada, saída) pelo nome inteiro da camada. Como no peft, um alvo vale para os
    nomes que terminam nele depois de um ponto (documentação de `LoraConfig.target_modules`).
    Exemplo: {"layers.0.q_proj": (576, 576), "layers.0.gate_proj": (576, 1536)}, ["q_proj"], r = 8:
    8·(576 + 576) = 9.216.
    """
    return None  # escreva aqui


def extract_lora(delta: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Desafio. O A e o B de posto r que mais aproximam ΔW, a mudança que um treino fez num peso.

    Com ΔW = U·S·Vᵀ, nada de posto r erra menos que as r primeiras direções (Eckart e Young, 1936):
    B·A = U[:, :r]·S[:r]·Vᵀ[:r]. Como repartir S entre A e B é com você.
    Exemplo: ΔW = [[3, 0], [0, 1]], r = 1: B·A = [[3, 0], [0, 0]], e o que se perde tem norma 1.
    """
    return None  # escreva aqui
