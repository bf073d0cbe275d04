"""Dia 2: LoRA, da fórmula ao código. h = W₀x + (α/r)·B·A·x (Hu et al., 2021, eq. 3 e seção 4.1).

W₀ é [saída, entrada] e não treina; A é [r, entrada], B é [saída, r]. Complete as três funções e
confira: `python semana06-fine-tuning/exercicios/conferir.py dia2`
"""

from torch import Tensor


def lora_parameters(inputs: int, outputs: int, r: int) -> int:
    """Fácil. Quantos números o LoRA treina numa camada: os de A mais os de B.
    Exemplo: a gate do modelo da semana (576 → 1.536), r = 16: A tem 16·576 = 9.216, B tem
    1.536·16 = 24.576; são 33.792, 3,8% dos 884.736 de W₀.
    """
    return None  # escreva aqui


def lora_forward(x: Tensor, w0: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Médio. A saída h, [n, saída], para as linhas de x, [n, entrada].

    Os vetores são linhas: W₀x se escreve x @ w0.T. Não forme B·A, que tem o tamanho de W₀.
    Exemplo: x = [1, 2], W₀ a identidade, A = [[1, 1]], B = [[1], [0]], α = 2. Então r = 1,
    Ax = 3, BAx = [3, 0] e h = [1, 2] + 2·[3, 0] = [7, 2].
    """
    return None  # escreva aqui


def lora_gradients(
    x: Tensor, a: Tensor, b: Tensor, alpha: float, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Desafio. Os gradientes da perda em A e em B, sem autograd; g é dL/dh, [n, saída].

    Pela regra da cadeia, o que chega a B é o que sai de A, e o que volta a A passou por B:
    dL/dB = (α/r)·gᵀ(xAᵀ) e dL/dA = (α/r)·(gB)ᵀx. Com B = 0, no primeiro passo, qual deles é zero?
    Exemplo: os A, B, α e x de cima, g = [1, 1]: dL/dB = 2·[[3], [3]] = [[6], [6]]; gB = 1 e
    dL/dA = 2·[[1, 2]] = [[2, 4]].
    """
    return None  # escreva aqui
