"""Ajustes do processo que precisam valer antes de importar o torch. Importe este módulo primeiro.

Dois núcleos disputados por threads que giram em falso ficam muito mais lentos: por isso
`OMP_WAIT_POLICY=PASSIVE`, com uma espera ativa de dezenas de microssegundos (`GOMP_SPINCOUNT`),
que poupa acordar as threads a cada operação. O resto corta telemetria e avisos que não são do nosso
código.
"""

import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")

# O bitsandbytes sugere, a cada importação, um núcleo opcional que se baixa do hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
