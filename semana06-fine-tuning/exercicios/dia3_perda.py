"""Dia 3: medir e treinar. A perplexidade, um passo de treino e o AdamW por dentro.

Complete as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia3`
"""

from torch import Tensor, nn
from torch.optim import Optimizer


def perplexity(logits: Tensor, labels: Tensor) -> float:
    """Fácil. exp da média de −ln p(token certo) (Jelinek et al., 1977); rótulo -100 não conta.

    A linha i de logits, [n, vocabulário], já prevê o rótulo i de labels, [n]: não há o que andar.
    Exemplo: se os dois tokens certos tiveram p = 1/2 e p = 1/8, a perplexidade é
    exp((ln 2 + ln 8) / 2) = 4: o modelo hesita como quem escolhe entre quatro.
    """
    return None  # escreva aqui


def train_step(model: nn.Module, x: Tensor, y: Tensor, optimizer: Optimizer) -> float:
    """Médio. Um passo de treino com a entropia cruzada; devolve a perda de antes do passo.

    Ida (a perda), volta (`backward`) e passo do otimizador. Antes da volta, apague o gradiente que
    sobrou do passo anterior: o torch soma o novo a ele (documentação de `Optimizer.zero_grad`).
    Exemplo: dois logits que são os próprios parâmetros, [0, 0], e y = 0: a perda é ln 2 = 0,693, o
    gradiente é p − [1, 0] = [−0,5; 0,5], e um SGD com lr = 1 os leva a [0,5; −0,5].
    """
    return None  # escreva aqui


def adamw_step(
    weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: int, lr: float, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Desafio. Um passo do AdamW (Loshchilov e Hutter, 2019, algoritmo 2): (weight, m, v) novos.

    m ← 0,9·m + 0,1·g e v ← 0,999·v + 0,001·g²; como partem de zero, corrigem-se:
    m̂ = m / (1 − 0,9^step) e v̂ = v / (1 − 0,999^step). Então
    w ← w − lr·decay·w − lr·m̂ / (√v̂ + 1e-8), como no torch.
    Exemplo: w = 1, g = 4, m = v = 0, step = 1, lr = 0,1, decay = 0: m = 0,4, v = 0,016, m̂ = 4,
    v̂ = 16, w = 0,9. No primeiro passo todo peso anda lr, seja qual for o gradiente.
    """
    return None  # escreva aqui
