"""Dia 6: treino e teste que não se conhecem. Semelhança, divisão por grupo, famílias.

Complete as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia6`
"""


def jaccard(left: set[str], right: set[str]) -> float:
    """Fácil. O tamanho da interseção sobre o da união (Jaccard, 1901); 0 para dois vazios.
    Exemplo: {quero, trocar, a, jaqueta} e {quero, trocar, o, sapato}: 2 em comum de 6, 0,333.
    """
    return None  # escreva aqui


def split_by_group(groups: list[int], share: float, seed: int) -> list[bool]:
    """Médio. True em cada linha que vai para o teste; um grupo vai inteiro para um lado só.

    Mensagens da mesma conversa se parecem: separadas, o teste premia quem decorou. Sorteie os
    grupos (`random.Random(seed)`) e mande-os ao teste até que ele tenha ao menos `share` das
    linhas. A mesma semente dá a mesma divisão (`GroupShuffleSplit`, no scikit-learn).
    Exemplo: groups [0, 0, 1, 2, 2, 2], share = 1/3: se o sorteio começa por 0, o teste já tem as
    2 linhas de 6: [True, True, False, False, False, False].
    """
    return None  # escreva aqui


def families(size: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Desafio. O grupo de cada texto, de 0 a size − 1, dados os pares de quase iguais.

    Se 0 se parece com 1, e 1 com 2, os três ficam juntos, mesmo que 0 e 2 não se pareçam: são os
    componentes conexos de um grafo (Cormen et al., Algoritmos, cap. de conjuntos disjuntos). O
    número de cada grupo é com você, desde que grupos diferentes tenham números diferentes.
    Exemplo: size = 5, pairs [(0, 1), (1, 2)]: [0, 0, 0, 1, 2].
    """
    return None  # escreva aqui
