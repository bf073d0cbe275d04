"""O que as lições têm em comum e que não é o assunto de nenhuma: modelo, dados, resultados, erros.

Importe este módulo antes do torch: ele ajusta as threads do processo.
"""

import os

# Dois núcleos disputados por threads que giram em falso ficam muito mais lentos.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")

import ctypes
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

sys.path.append(str(Path(__file__).resolve().parents[1] / "ferramentas"))
from argumentos import Parser as Parser

# O bitsandbytes sugere, a cada importação, um núcleo opcional que se baixa do hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

WEEK_DIR = Path(__file__).resolve().parents[1]
DATA_DIR = Path(__file__).resolve().parent / "dados"
RESULTS_DIR = WEEK_DIR / "resultados"
DEFAULT_MODEL = WEEK_DIR / "modelos" / "smollm2-135m-instruct"
PREPARE_COMMAND = "python semana06-fine-tuning/ferramentas/preparar_modelo.py"
RECORD_COMMAND = "python semana06-fine-tuning/ferramentas/registrar_experimentos.py"
RELEASE_EVERY = 5  # passos de treino entre duas chamadas de release_memory
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")
# Para modelos sem template de chat (GPT-2, por exemplo): uma mensagem por linha, fim explícito.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
)


_saved: list[Path] = []  # os resultados que este processo gravou


class UserError(Exception):
    """Algo que quem usa pode corrigir; a mensagem diz o quê, onde e como."""


def run_main(main: Callable[[], None]) -> None:
    """Executa a lição; um erro do usuário vira uma frase e código 2, Ctrl-C vira 130."""
    transformers_logging.disable_progress_bar()
    # O Trainer avisa que falta lm_head nos checkpoints de todo modelo que a divide com a entrada.
    transformers_logging.set_verbosity_error()
    try:
        main()
        if _saved:
            print(f"Para levar os números ao caderno: make experimentos (ou {RECORD_COMMAND})")
    except UserError as error:
        print(f"Erro: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("\nInterrompido.", file=sys.stderr)
        raise SystemExit(130) from None


def banner(number: int, title: str) -> None:
    """Anuncia um passo da lição."""
    print(f"\n{'=' * 78}\n{number}. {title}\n{'=' * 78}", flush=True)


def device() -> torch.device:
    """CUDA ou MPS quando há; senão, CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def release_memory() -> None:
    """Devolve ao sistema a memória que o malloc da glibc guardou sem usar; nos outros, nada faz.

    Lotes de tamanhos variados fragmentam o que ele guarda: num treino de 100 passos, o processo
    chega ao dobro do que os tensores ocupam.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def gains_from_bf16() -> bool:
    """Diz se contas em bf16 são mais rápidas aqui: um processador sem as instruções as emula."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Tokenizador com template de chat e com um pad que não é o fim da resposta.

    Com pad igual ao fim, quem mascara o preenchimento mascara também o fim, e o modelo nunca
    aprende a parar.
    """
    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Qualquer token serve de preenchimento: a máscara de atenção o esconde.
        first = tokenizer.convert_ids_to_tokens(0)
        spare = tokenizer.convert_ids_to_tokens(1) if first == tokenizer.eos_token else first
        tokenizer.pad_token = spare
    # Alguns modelos trazem "left", que só serve para gerar.
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(name: str, **options) -> PreTrainedModel:
    """Modelo causal em float32 (ou no `dtype` pedido), no aparelho desta máquina."""
    options = {"dtype": torch.float32, **options}
    return _load(AutoModelForCausalLM, name, **options).to(device())


def _load(factory, name: str, **options):
    if name == str(DEFAULT_MODEL) and not DEFAULT_MODEL.is_dir():
        raise UserError(
            f"o modelo padrão ainda não foi preparado. Rode {PREPARE_COMMAND} ou indique outro "
            "com --model (uma pasta ou um nome no hub)."
        )
    try:
        return factory.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["sem detalhes"])[0]
        raise UserError(
            f"não consegui carregar o modelo `{name}` ({reason}). Se é uma pasta, confira o "
            "caminho; se é um nome no hub, confira o nome e a conexão. Sem internet, use o modelo "
            f"padrão: {PREPARE_COMMAND}"
        ) from error


def read_conversations(path: Path, limit: int | None = None) -> list[list[dict[str, str]]]:
    """Lê um JSONL de conversas (`messages` com papéis user e assistant, a resposta por último).

    Raises:
        UserError: arquivo ausente, vazio ou com uma linha fora do formato (diz qual).
    """
    if not path.is_file():
        raise UserError(f"o arquivo de dados {path} não existe.")
    conversations = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            messages = json.loads(line)["messages"]
            valid = messages[-1]["role"] == "assistant" and all(
                isinstance(m["content"], str) and m["content"].strip() for m in messages
            )
        except (ValueError, KeyError, TypeError, IndexError):
            valid = False
        if not valid:
            raise UserError(
                f"{path}, linha {number}: esperava um objeto JSON com `messages`, cada mensagem "
                "com `role` e `content`, e a última do assistant. Corrija ou apague a linha."
            )
        conversations.append(messages)
    if not conversations:
        raise UserError(f"{path} está vazio.")
    return conversations[:limit]


def decimal(value: float, places: int = 0) -> str:
    """O número com vírgula decimal."""
    return f"{value:.{places}f}".replace(".", ",")


def thousands(value: float) -> str:
    """Inteiro com ponto de milhar: 4.884.480."""
    return f"{value:,.0f}".replace(",", ".")


def library_versions() -> dict[str, str]:
    """Versão de cada biblioteca da semana; "ausente" para a que falta."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "ausente"
    return found


def machine() -> dict[str, str | int]:
    """O que identifica a máquina num resultado."""
    cpuinfo = Path("/proc/cpuinfo")
    names = []
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "nenhuma"
    return {"sistema": platform.platform(), "processador": cpu, "threads": torch.get_num_threads(),
            "gpu": gpu}  # fmt: skip


def save_result(name: str, payload: dict) -> Path:
    """Grava `resultados/NOME.json`, de uma vez só, com data, comando, commit e versões."""
    RESULTS_DIR.mkdir(parents=True, exist_ok=True)
    record = {
        "script": Path(sys.argv[0]).name,
        "quando": datetime.now().astimezone().isoformat(timespec="seconds"),
        "comando": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "maquina": machine(),
        "versoes": library_versions(),
        **payload,
    }
    path = RESULTS_DIR / f"{name}.json"
    write_json(path, record)
    _saved.append(path)
    return path


def write_json(path: Path, content: dict) -> None:
    """Grava `content` em `path`, de uma vez só: quem lê nunca vê um arquivo pela metade."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    os.replace(temporary, path)


def save_figure(figure, name: str) -> Path:
    """Grava a figura do matplotlib em `resultados/NOME.png` e a fecha."""
    from matplotlib import pyplot

    figure.tight_layout()
    path = RESULTS_DIR / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _commit() -> str | None:
    command = ["git", "-C", str(WEEK_DIR), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
