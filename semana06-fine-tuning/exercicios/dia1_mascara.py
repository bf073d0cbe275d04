"""Dia 1: o que o treino olha. Prever o próximo token, e só os da resposta.

Treinar é aumentar a probabilidade p que o modelo dá a cada token certo; −ln p, zero quando p é 1, é
a perda, e o rótulo de uma posição é o token certo dela (o guia volta aos dois no dia 3). Complete
as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia1`
"""


def answer_labels(prompt: list[int], answer: list[int]) -> list[int]:
    """Fácil. Os rótulos de uma conversa: -100 em cada token do prompt, o próprio token na resposta.

    -100 é o número que a entropia cruzada do torch pula (`ignore_index`, em CrossEntropyLoss): o
    cliente escreve a pergunta, e o modelo só a lê.
    Exemplo: prompt [5, 9, 2], resposta [7, 1] → [-100, -100, -100, 7, 1].
    """
    return None  # escreva aqui


def next_token_loss(probabilities: list[list[float]], labels: list[int]) -> float:
    """Médio. A perda da conversa: a média de −ln p(token certo) nos tokens que contam.

    Quem leu até a posição t prevê o token t + 1 (Radford et al., 2018, eq. 1):
    `probabilities[t][v]` é a probabilidade de que o token t + 1 seja v. Rótulo -100 não conta.
    Exemplo: probabilities [[0,2; 0,5; 0,3], [0,1; 0,1; 0,8], [0,6; 0,2; 0,2]], labels [-100, 1, 2].
    A posição 0 deu 0,5 ao token 1, a posição 1 deu 0,8 ao token 2, e a última não prevê nada que
    se conheça: (−ln 0,5 − ln 0,8) / 2 = (0,693 + 0,223) / 2 = 0,458.
    """
    return None  # escreva aqui


def surprise(logits: list[float], token: int) -> float:
    """Desafio. −ln p(token) direto dos logits, os números que o modelo dá antes das probabilidades.

    p(v) = e^z(v) / Σ e^z, logo −ln p = ln Σ e^z − z(token). Mas e¹⁰⁰⁰ não cabe num float. Somar o
    mesmo número a todos os logits não muda p: escolha um que impeça o estouro (Goodfellow, Bengio
    e Courville, 2016, seção 4.1).
    Exemplo: logits [1000, 1001, 999], token 1 → ln(e⁻¹ + e⁰ + e⁻²) = 0,408.
    """
    return None  # escreva aqui
