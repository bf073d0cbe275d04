"""Dia 5: menos bits por peso. O int8 por linha e o NF4 por bloco.

Complete as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia5`
"""

from torch import Tensor


def absmax_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fácil. Códigos int8 [linhas, colunas] e a escala de cada linha, [linhas, 1].

    A escala é o maior |peso| da linha sobre 127; o código, o inteiro mais próximo de peso / escala
    (Dettmers et al., 2022, LLM.int8(), seção 2). Código vezes escala é o peso de volta.
    Exemplo: [0,3; −1; 0,25]: escala 1/127, códigos 38 (38,1), −127 e 32 (31,75).
    """
    return None  # escreva aqui


def nearest_level(values: Tensor, levels: Tensor) -> Tensor:
    """Médio. O índice do nível mais próximo de cada valor, na forma de `values`; os níveis sobem.

    Os 16 do NF4 não têm passo igual: há mais deles perto do zero, onde há mais pesos (Dettmers et
    al., 2023, QLoRA, seção 3). Por isso não basta arredondar: é preciso comparar distâncias.
    Exemplo: níveis [−1; −0,3; 0; 0,4; 1], valor 0,25: dista 0,25 de 0 e 0,15 de 0,4; índice 3.
    """
    return None  # escreva aqui


def round_trip(weight: Tensor, levels: Tensor, block: int) -> Tensor:
    """Desafio. O peso depois de ir aos níveis e voltar, na forma em que veio.

    Cada `block` números seguidos, linha após linha, têm a sua escala, o maior |peso| do bloco:
    divide-se por ela, vai-se ao nível mais próximo e multiplica-se de volta (QLoRA, eq. 1 e 2). O
    número de pesos é múltiplo de `block`.
    Exemplo: [0,5; −0,2], block = 2, níveis [−1; −0,5; 0; 0,5; 1]: [1; −0,4] vai a [1; −0,5] e
    volta como [0,5; −0,25].
    """
    return None  # escreva aqui
