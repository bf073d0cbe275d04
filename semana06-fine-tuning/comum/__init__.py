"""O que as lições e o mini-projeto têm em comum, e que não é o assunto de nenhum deles.

Importar este pacote ajusta o processo, e por isso ele vem antes do torch (a ordem dos imports, que
o ruff confere, garante). Dois núcleos disputados por threads que giram em falso ficam muito mais
lentos: daí `OMP_WAIT_POLICY=PASSIVE`, com uma espera ativa de dezenas de microssegundos
(`GOMP_SPINCOUNT`), que poupa acordar as threads a cada operação. O resto corta telemetria e avisos
que não são do nosso código.
"""

import logging
import os
import sys

for name, value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "20000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "BITSANDBYTES_NOWELCOME": "1",
}.items():
    os.environ.setdefault(name, value)

# O bitsandbytes sugere, a cada importação, um núcleo opcional que se baixa do hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Um terminal em cp1252 (o Windows, ao redirecionar) não escreve "→"; melhor um "?" que um erro.
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
