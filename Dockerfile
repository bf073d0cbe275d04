# A página do mini-projeto com o modelo que vem pronto, em CPU. Use pelo compose.yaml.
FROM python:3.11-slim

# O llama.cpp e o bitsandbytes pedem o OpenMP do sistema, que a imagem enxuta não traz.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /semana

# Antes do código: mudá-lo não reinstala nada.
COPY requirements.lock ./
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-deps -r requirements.lock

COPY . .
# Quem roda a página não é root, e só grava em três pastas: a do modelo base, que o safetensors faz
# legível só a quem o gravou, a do GGUF do modelo pronto e a dos dados (as lojas, as opiniões).
RUN pip install --no-deps -e . \
    && useradd --create-home loja \
    && install --directory --owner=loja semana06-fine-tuning/modelos \
       semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado/models/pronto/exported \
       semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado/dados/gerados
USER loja
RUN python semana06-fine-tuning/ferramentas/preparar_modelo.py \
    && python semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado/export.py training.output_dir=models/pronto --forms q8_0

EXPOSE 7860
HEALTHCHECK --start-period=2m \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:7860/saude')"]
CMD ["python", "semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado/app.py", "--adapter", "models/pronto", "--host", "0.0.0.0"]
