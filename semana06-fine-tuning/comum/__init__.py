"""O que as lições e o mini-projeto têm em comum, e que não é o assunto de nenhum deles.

Importar este pacote ajusta o processo, e por isso ele vem antes do torch (a ordem dos imports, que
o ruff confere, garante). O que mais muda a velocidade é quanto uma thread gira à espera das outras,
entre uma operação e a seguinte, antes de dormir (`GOMP_SPINCOUNT`). Girar muito rende de 3 a 10%
numa máquina quieta e custa várias vezes a velocidade quando outro programa quer um dos núcleos; não
girar nada deixa o llama.cpp com metade dela. Na libgomp, `ACTIVE` só faz com que também se gire
quando há mais threads que núcleos, como depois de o transformers e o llama.cpp responderem no mesmo
processo; noutras bibliotecas seria girar para sempre. O resto corta telemetria, avisos alheios e
trabalho que não se vê.
"""

import gc
import logging
import os
import sys

for name, value in {
    "OMP_WAIT_POLICY": "ACTIVE" if sys.platform == "linux" else "PASSIVE",
    "GOMP_SPINCOUNT": "2000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",  # sem rede, contaria em inglês cada tentativa
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",  # a cada pergunta, um resumo que não se vê
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "BITSANDBYTES_NOWELCOME": "1",
}.items():
    os.environ.setdefault(name, value)

# O padrão (700 objetos novos; 2.000, no Python 3.13) faria o coletor percorrer centenas de vezes o
# que se importa: a página abre 1 s antes. Num treino, nem o pico de memória nem o ritmo mudaram.
gc.set_threshold(50_000)

# O bitsandbytes sugere, a cada importação, um núcleo opcional que se baixa do hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Um terminal em cp1252 (o Windows, ao redirecionar) não escreve "→"; melhor um "?" que um erro.
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
