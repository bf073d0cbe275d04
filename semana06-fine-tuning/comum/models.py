"""Carregar um modelo causal e o seu tokenizador, de uma pasta ou do hub, no dispositivo daqui."""

import random
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from comum.files import read_json
from comum.hub import look_for
from comum.paths import DEFAULT_MODEL, PREPARE_COMMAND
from comum.terminal import UserError

import numpy
import torch
import transformers  # cada classe só se importa quando se usa: as dos modelos levam 3 s
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase, logging
from transformers.pytorch_utils import Conv1D  # a camada linear do GPT-2: peso transposto

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

# O transformers importaria o scikit-learn, que leva 3 s, para a decodificação assistida com limiar
# automático. Quem precisa dele, como a lição do dia 6, o importa por si.
transformers.utils.is_sklearn_available = lambda: False
logging.disable_progress_bar()
# O Trainer avisa que falta lm_head nos checkpoints de todo modelo que a divide com a entrada.
logging.set_verbosity_error()

# Como se diz a precisão das contas a quem treina.
PRECISIONS = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16, com a perda escalada",
    torch.float32: "float32",
}

# Para um modelo sem template de chat (GPT-2, por exemplo): uma mensagem por linha, fim explícito.
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


def compute_dtype() -> torch.dtype:
    """A precisão que rende mais aqui, para as contas pesadas e para os pesos congelados.

    Num processador sem instruções de bf16 o torch as emula: medimos 3 a 4 vezes mais lento com
    AVX-512; sem ele, 6 vezes na ida de uma camada, e 70 na volta.
    """
    if torch.cuda.is_available():
        return gpu_dtype(torch.cuda.get_device_capability())
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def gpu_dtype(capability: tuple[int, int]) -> torch.dtype:
    """bf16 a partir da geração Ampere (8.0); as de antes (T4, RTX 20, GTX) só têm fp16."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def autocast(mixed: bool = True) -> torch.autocast:
    """As contas pesadas em `compute_dtype`; os pesos que treinam continuam em float32."""
    dtype = compute_dtype()
    mixed = mixed and dtype != torch.float32
    return torch.autocast(device().type, dtype if mixed else None, enabled=mixed)


def grad_scaler() -> torch.amp.GradScaler:
    """O multiplicador da perda que o fp16 pede; nas outras precisões, não faz nada.

    O menor número do fp16 é 6e-8: sem multiplicar a perda, os gradientes miúdos virariam zero.
    """
    return torch.amp.GradScaler(device().type, enabled=compute_dtype() == torch.float16)


def train_in_float32(model: nn.Module) -> None:
    """Põe em float32 o que treina: metade dos bits perderia os passos miúdos do otimizador.

    Sobre uma base em 4 bits o TRL passa o adaptador a bf16, que o fp16 nem sabe escalar.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def clock() -> float:
    """Os segundos de um cronômetro, com o trabalho já pedido à GPU terminado."""
    if torch.accelerator.is_available():  # CUDA, ou a MPS de um Mac
        torch.accelerator.synchronize()  # a GPU trabalha depois que a chamada volta
    return time.perf_counter()


def fix_seeds(seed: int) -> None:
    """A mesma semente para Python, numpy e torch."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def load_tokenizer(name: str, plain: bool = False) -> PreTrainedTokenizerBase:
    """Tokenizador com template de chat (o seu, ou o mais simples) e um pad que não é o fim.

    Com pad igual ao fim, quem mascara o preenchimento mascara também o fim, e o modelo nunca
    aprende a parar.
    """
    folder = Path(name)
    alone = folder.is_dir() and not (folder / "config.json").is_file()  # ao lado de um adaptador
    tokenizer = _load(_saved_class(folder) if alone else transformers.AutoTokenizer, name)
    if plain or tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Um token novo obrigaria a aumentar a matriz de embeddings; um que já existe serve, porque
        # a máscara de atenção o esconde. Melhor que texto nenhum o use, e "Ā" é o byte zero nos BPE
        # de bytes: o "!", primeiro do GPT-2, sumiria das respostas do modelo salvo e recarregado.
        known = tokenizer.get_vocab()
        first = [tokenizer.unk_token, "Ā", *tokenizer.convert_ids_to_tokens([0, 1])]
        tokenizer.pad_token = next(t for t in first if t in known and t != tokenizer.eos_token)
    tokenizer.padding_side = "right"
    _check_template(tokenizer, name)
    if not alone:
        _check_sizes(tokenizer, name)
    return tokenizer


def _saved_class(folder: Path) -> type:
    """A que o AutoTokenizer tomaria na pasta de um adaptador, sem os 2 s dele se ela o diz."""
    settings = folder / "tokenizer_config.json"
    known = settings.is_file() and read_json(settings).get("tokenizer_class") == "TokenizersBackend"
    return transformers.TokenizersBackend if known else transformers.AutoTokenizer


def _check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    turns = [{"role": role, "content": f"<{role}>"} for role in ("system", "user")]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        complete = all(turn["content"] in text for turn in turns)
    except Exception:  # o template é um programa, e falha do seu jeito
        complete = False
    if not complete:
        raise UserError(
            f"o template de chat de `{name}` não escreve a mensagem de sistema e a pergunta; "
            "escolha outro modelo ou, no mini-projeto, prompt.template=plain."
        )


def _check_sizes(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    config = _load(transformers.AutoConfig, name).get_text_config()
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"o tokenizador de `{name}` tem {len(tokenizer)} tokens, e o modelo só conhece "
            f"{config.vocab_size}: os arquivos da pasta não são do mesmo modelo."
        )
    tokenizer.model_max_length = getattr(config, "max_position_embeddings", None) or 1 << 30


def check_length(tokenizer: PreTrainedTokenizerBase, tokens: int) -> None:
    """Recusa um texto (com a resposta) de mais tokens que as posições do modelo."""
    if tokens > tokenizer.model_max_length:
        raise UserError(
            f"o modelo lê e escreve até {tokenizer.model_max_length} tokens por vez, e eram "
            f"precisos {tokens}: encurte o texto, ou escolha outro modelo."
        )


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    load_in_4bit: bool = False,
    place: torch.device | None = None,
    **options,
) -> "PreTrainedModel":
    """Modelo causal em `place` (sem ele, no dispositivo desta máquina), em modo de avaliação.

    Args:
        dtype: o dos pesos. Com `load_in_4bit`, o das contas e do que não se quantiza: sem dizê-lo,
            embeddings e normas ficariam em float32.
        options: outras, da configuração do modelo.

    Raises:
        UserError: o modelo não existe, não se lê, ainda não foi preparado ou é só um adaptador.
    """
    adapter = Path(name) / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter).get("base_model_name_or_path")
        raise UserError(
            f"`{name}` é um adaptador LoRA, e não um modelo. Indique o modelo de que ele saiu "
            f"({base}), ou funda os dois com export.py --forms bf16 e indique a pasta exportada."
        )
    options |= {"dtype": dtype, "output_loading_info": True}
    if load_in_4bit:
        options |= {"quantization_config": nf4(dtype), "device_map": {"": place or device()}}
    model, found = _load(transformers.AutoModelForCausalLM, name, **options)
    if missing := sorted(found["missing_keys"]):  # o transformers os sortearia, em silêncio
        raise UserError(f"faltam pesos em `{name}`: {missing[0]} e outros {len(missing) - 1}.")
    # O bitsandbytes faria as contas na precisão de quem gravou, que pode não render aqui.
    for layer in model.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = dtype
    return (model if load_in_4bit else model.to(place or device())).eval()


def linears_of(model: nn.Module) -> dict[str, nn.Module]:
    """As camadas lineares, pelo nome, sem a de saída: as que recebem LoRA e vão a poucos bits."""
    head = model.get_output_embeddings()
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return {name: module for name, module in found.items() if module is not head}


def check_targets(names: Iterable[str], targets: str | list[str]) -> None:
    """Confere as camadas que recebem LoRA; o peft ignora um nome errado se outro existir.

    Args:
        names: os nomes inteiros das camadas do modelo.
        targets: "all-linear", nomes (ou finais de nomes), ou uma expressão para o nome inteiro.

    Raises:
        UserError: um dos nomes não é de camada nenhuma.
    """
    if targets == "all-linear":
        return
    names = list(names)
    if isinstance(targets, str):
        try:
            missing = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
        except re.error:
            missing = [targets]
    else:
        missing = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in names)]
    if missing:
        known = dict.fromkeys(name.rpartition(".")[2] for name in names)
        raise UserError(
            f"o modelo não tem camada linear chamada {', '.join(missing)}. As que tem: "
            f"{', '.join(known)}; escolha entre elas, numa lista, ou use all-linear."
        )


def nf4(compute: torch.dtype) -> "BitsAndBytesConfig":
    """Pesos em NF4 com escala dupla, como no QLoRA (Dettmers et al., 2023)."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _load(factory, name: str, **options):
    if name == str(DEFAULT_MODEL) and not DEFAULT_MODEL.is_dir():
        raise UserError(
            f"o modelo padrão ainda não foi preparado. Rode {PREPARE_COMMAND} ou indique outro "
            "com --model (uma pasta ou um nome no hub)."
        )
    look_for(name)
    try:
        return factory.from_pretrained(name, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # o que está errado numa pasta sai das bibliotecas de muitas formas
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fault = (
            _fault(Path(name)) or f"os arquivos não formam um modelo, e a biblioteca diz: {first}"
        )
        raise UserError(
            f"não consegui carregar o modelo `{name}`: {fault}. Confira o caminho ou, no hub, o "
            "nome, a conexão e a licença, se ele pede uma. Sem internet, use o modelo padrão: "
            f"{PREPARE_COMMAND}"
        ) from error


def _fault(folder: Path) -> str | None:
    """O que há de errado nos arquivos de uma pasta, se é dos erros comuns."""
    if folder.is_file():
        return "é um arquivo, e não uma pasta"
    if not folder.is_dir():
        return "não há uma pasta com esse nome, e o hub não o trouxe"
    if not (folder / "config.json").is_file():
        return "falta config.json na pasta"
    for path in sorted(folder.glob("*.json")):
        try:
            read_json(path)
        except UserError as error:
            return str(error).rstrip(".")
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        with path.open("rb") as stream:
            if stream.read(7) == b"version":
                return f"{path.name} é um ponteiro do git-lfs; baixe os pesos com git lfs pull"
        try:
            safe_open(path, "pt").keys()
        except (SafetensorError, OSError):
            return f"{path.name} está cortado ou estragado"
    return None if weights else "a pasta não tem pesos (*.safetensors)"
