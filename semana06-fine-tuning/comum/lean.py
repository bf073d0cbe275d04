"""Carregar um modelo sem importar o scikit-learn, que leva 3 s.

O transformers só o quer para a decodificação assistida com limiar automático. Quem precisa do
scikit-learn, como a lição do dia 6, o importa por si. Vem antes de qualquer modelo do transformers.
"""

import transformers

transformers.utils.is_sklearn_available = lambda: False
