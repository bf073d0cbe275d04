"""Poupa 3 s a cada programa: o transformers importa o scikit-learn para uma opção que não se usa.

É a da decodificação assistida com limiar automático. Quem precisa do scikit-learn, como a lição do
dia 6, o importa por si. Vem antes de qualquer modelo do transformers.
"""

import transformers

transformers.utils.is_sklearn_available = lambda: False
