"""Dia 7: a nota do mini-projeto. Linhas iguais, acurácia de execução, intervalo.

Complete as três funções e confira: `python semana06-fine-tuning/exercicios/conferir.py dia7`
"""

from sqlite3 import Connection


def same_rows(found: list[tuple], expected: list[tuple], ordered: bool) -> bool:
    """Fácil. Se duas consultas deram as mesmas linhas; a ordem só conta com `ordered`.

    Linhas repetidas contam: um JOIN errado repete linhas, e quem compara conjuntos não vê.
    Exemplo: [(1,), (2,)] e [(2,), (1,)] são iguais sem ordem e diferentes com ela;
    [(1,), (1,), (2,)] e [(1,), (2,)] são diferentes de todo modo.
    """
    return None  # escreva aqui


def execution_accuracy(bank: Connection, pairs: list[tuple[str, str]]) -> float:
    """Médio. A fração dos pares (SQL do modelo, SQL de referência) que dão as mesmas linhas.

    Executa-se (`bank.execute(sql).fetchall()`) em vez de comparar textos: há muitos jeitos certos
    de escrever uma consulta (Yu et al., 2018, Spider). A ordem só conta se a referência tem ORDER
    BY; um SQL do modelo que não executa (`sqlite3.Error`) é um erro dele, e não seu.
    Exemplo: ("SELECT 1 + 1", "SELECT 2") acerta, ("SELEC 2", "SELECT 2") erra: 0,5.
    """
    return None  # escreva aqui


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Desafio. O intervalo de 95% de uma proporção (Wilson, 1927), com z = 1,959964.

    Centro (p + z²/2n) / (1 + z²/n), meia largura z·√(p(1 − p)/n + z²/4n²) / (1 + z²/n), com
    p = hits / total. Ao contrário de p ± z·√(p(1 − p)/n), não encolhe a zero com 0 acertos.
    Exemplo: 8 de 10: centro 0,717, meia largura 0,227: de 0,490 a 0,943.
    """
    return None  # escreva aqui
