"""Carrega o modelo base, com ou sem adaptador, e gera respostas em lote."""

import runtime  # noqa: F401  (antes do torch)

from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from config import DEFAULT_MODEL, Config, UserError

logging.disable_progress_bar()

PREPARE_COMMAND = "python semana06-fine-tuning/ferramentas/preparar_modelo.py"
# Para um modelo sem template de chat próprio (GPT-2, por exemplo).
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
)


def device() -> torch.device:
    """CUDA ou MPS quando há; senão, CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def gains_from_bf16() -> bool:
    """Diz se contas em bf16 são mais rápidas aqui.

    Num processador sem instruções de bf16 o torch as emula: medimos 3 a 4 vezes mais lento.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def uses_bf16(config: Config) -> bool:
    """Resolve `training.precision`."""
    wanted = config.training.precision
    return gains_from_bf16() if wanted == "auto" else wanted == "bf16"


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """Tokenizador do modelo base, com template de chat e um pad que não é o fim da resposta."""
    tokenizer = _load(AutoTokenizer, config)
    tokenizer.padding_side = "left"
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Um token novo obrigaria a aumentar a matriz de embeddings; qualquer outro token especial
        # serve de preenchimento, porque a máscara de atenção o esconde.
        spare = tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        if spare == tokenizer.eos_token:
            spare = tokenizer.convert_ids_to_tokens(1)
        tokenizer.pad_token = spare
    return tokenizer


def load_model(config: Config, adapter: Path | None = None) -> PreTrainedModel | PeftModel:
    """Modelo base em modo de avaliação, com o adaptador de `adapter` quando dado."""
    options: dict = {"dtype": torch.bfloat16 if uses_bf16(config) else torch.float32}
    if config.model.load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    model = _load(AutoModelForCausalLM, config, **options)
    if not config.model.load_in_4bit:
        model = model.to(device())
    if adapter is not None:
        if not (adapter / "adapter_config.json").is_file():
            raise UserError(
                f"{adapter} não tem um adaptador treinado. Treine antes: python train.py"
            )
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def _load(factory, config: Config, **options):
    path = config.model_path
    if path == str(DEFAULT_MODEL) and not DEFAULT_MODEL.is_dir():
        raise UserError(
            f"o modelo padrão ainda não foi preparado. Rode {PREPARE_COMMAND} ou indique outro "
            "com --model (uma pasta ou um nome no hub)."
        )
    try:
        return factory.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "sem detalhes"
        raise UserError(
            f"não consegui carregar o modelo `{path}` ({reason}). Se é uma pasta, confira o "
            "caminho; se é um nome no hub, confira o nome e a conexão. Sem internet, use o modelo "
            f"padrão: {PREPARE_COMMAND}"
        ) from error


@torch.inference_mode()
def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[list[tuple[int, str]]]:
    """Gera por decodificação gulosa, em lotes de comprimento parecido.

    Yields:
        Para cada lote, pares (índice em `prompts`, texto da resposta).
    """
    lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False).input_ids]
    order = sorted(range(len(prompts)), key=lambda i: lengths[i])
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = tokenizer(
            [prompts[i] for i in indices],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(model.device)
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = output[:, batch.input_ids.shape[1] :]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        yield list(zip(indices, (text.strip() for text in texts), strict=True))
