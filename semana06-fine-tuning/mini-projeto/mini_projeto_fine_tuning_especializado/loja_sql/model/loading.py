"""Carrega o modelo base, com ou sem adaptador, e gera respostas em lote."""

import copy
from collections.abc import Iterator
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from loja_sql.config import DEFAULT_MODEL, Config, UserError, trained_kind

logging.disable_progress_bar()

PREPARE_COMMAND = "python semana06-fine-tuning/ferramentas/preparar_modelo.py"
GROUPED_ATTENTION = "sdpa_agrupada"
MIN_SHARED_PREFIX = 64  # tokens: abaixo disto, guardar o começo comum não compensa
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


def grouped_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, **options,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """A atenção do torch sem copiar chaves e valores, quando se gera um token por vez.

    Num modelo com menos cabeças de chave que de consulta (GQA: Ainslie et al., 2023,
    arXiv:2305.13245), o transformers repete as chaves antes de cada produto. Com uma posição só, as
    consultas que dividem uma chave podem entrar como se fossem posições dela: a conta é a mesma.
    Com o esquema e exemplos no prompt, 32 perguntas por lote, gerar ficou 4 vezes mais rápido.

    Args:
        query: [lote, cabeças, posições, dimensão]; key e value, [lote, cabeças de chave, …].

    Returns:
        [lote, posições, cabeças, dimensão] e None, como pede o transformers.
    """
    batch, heads, positions, size = query.shape
    if positions > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    grouped = query.reshape(batch, key.shape[1], -1, size)
    output = functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(batch, 1, heads, size), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)


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


def load_model(
    config: Config, adapter: Path | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel | PeftModel:
    """Modelo base em modo de avaliação; com `adapter`, o que train.py deixou naquela pasta.

    Numa base em precisão cheia o adaptador é fundido aos pesos (W + s·BA): as respostas são as
    mesmas e a geração faz metade das multiplicações. Numa base em 4 bits, não: fundir perderia
    qualidade. Se a pasta tem um modelo inteiro (`training.method: full`), é ele que se carrega.
    `dtype` é o dos pesos; None é o de `training.precision`.
    """
    kind = None if adapter is None else trained_kind(adapter)
    if adapter is not None and kind is None:
        raise UserError(f"{adapter} não tem um modelo treinado. Treine antes: python train.py")
    if kind == "full":
        config = config.model_copy(deep=True)
        config.model.name = str(adapter)
    options: dict = {"dtype": dtype or (torch.bfloat16 if uses_bf16(config) else torch.float32)}
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
    if device().type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED_ATTENTION)
    if kind == "lora":
        model = PeftModel.from_pretrained(model, adapter)
        if not config.model.load_in_4bit:
            model = model.merge_and_unload()
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

    O começo comum a todos os prompts (a mensagem de sistema, com o esquema) é calculado uma vez.

    Yields:
        Para cada lote, pares (índice em `prompts`, texto da resposta).
    """
    encoded = tokenizer(prompts, add_special_tokens=False).input_ids
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    shared = SharedPrefix(model, encoded)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        output = model.generate(
            **shared.batch([encoded[i] for i in indices], tokenizer.pad_token_id),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        width = max(len(encoded[i]) for i in indices)
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        yield list(zip(indices, (text.strip() for text in texts), strict=True))


@torch.inference_mode()
def stream(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
) -> Iterator[str]:
    """Gera a resposta de um prompt, gulosa; produz o texto acumulado a cada token."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    following, cache, answer = ids.to(model.device), None, []
    for _ in range(max_new_tokens):
        output = model(
            input_ids=following, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        following, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        token = following.item()
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
        yield tokenizer.decode(answer, skip_special_tokens=True).strip()


class SharedPrefix:
    """As chaves e valores de atenção do começo comum a várias sequências, calculados uma vez."""

    def __init__(self, model: PreTrainedModel | PeftModel, sequences: list[list[int]]) -> None:
        self.model = model
        first, last = (min(sequences), max(sequences)) if sequences else ([], [])
        same = [a == b for a, b in zip(first, last, strict=False)]
        common = same.index(False) if False in same else len(same)
        # Ao menos um token tem de sobrar para o modelo processar em cada sequência.
        self.size = min(common, min(map(len, sequences), default=1) - 1)
        if self.size < MIN_SHARED_PREFIX:
            self.size = 0
            return
        ids = torch.tensor([first[: self.size]], device=model.device)
        self.cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def batch(self, sequences: list[list[int]], pad: int) -> dict:
        """Entradas de `generate` ou `forward`: o preenchimento fica entre o começo e o resto."""
        width = max(map(len, sequences))
        ids, mask = [], []
        for sequence in sequences:
            gap = width - len(sequence)
            head, tail = sequence[: self.size], sequence[self.size :]
            ids.append(head + [pad] * gap + tail)
            mask.append([1] * len(head) + [0] * gap + [1] * len(tail))
        inputs = {
            "input_ids": torch.tensor(ids, device=self.model.device),
            "attention_mask": torch.tensor(mask, device=self.model.device),
        }
        if self.size:
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(sequences))
            inputs["past_key_values"] = cache
        return inputs


@torch.inference_mode()
def answer_losses(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[tuple[list[int], list[int]]],
    batch_size: int,
) -> Iterator[list[tuple[int, float, int]]]:
    """Perda da resposta dado o prompt, para cada par (tokens do prompt, tokens da resposta).

    Yields:
        Para cada lote, triplas (índice, soma da entropia cruzada em nats, tokens da resposta).
    """
    shared = SharedPrefix(model, [prompt for prompt, _ in pairs])
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        inputs = shared.batch(
            [pairs[i][0] + pairs[i][1] for i in indices], tokenizer.pad_token_id
        )
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        inputs["input_ids"] = inputs["input_ids"][:, shared.size :]
        inputs["position_ids"] = positions[:, shared.size :]
        longest = max(len(pairs[i][1]) for i in indices)
        logits = model(**inputs, logits_to_keep=longest + 1).logits.float()
        found = []
        for row, index in enumerate(indices):
            answer = torch.tensor(pairs[index][1], device=logits.device)
            scores = logits[row, -len(answer) - 1 : -1]
            loss = functional.cross_entropy(scores, answer, reduction="sum").item()
            found.append((index, loss, len(answer)))
        yield found
