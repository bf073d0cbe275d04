"""O llama.cpp por dentro: os logits de cada posição, que o servidor dele não dá, e o quantizador.

A perplexidade e a KL pedem a distribuição inteira. Aqui a biblioteca que o pacote `xllamacpp` traz
compilada é chamada pela interface C pública dela (`llama.h`), com ctypes e as opções padrão, entre
elas o cache de chaves e valores em float16.
"""

import ctypes
import importlib.util
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path
from types import SimpleNamespace

from comum.terminal import UserError

import numpy
import torch

PACKAGE = "xllamacpp"
# A versão conta: as estruturas abaixo são as do llama.h dela.
INSTALL_COMMAND = f"python -m pip install {PACKAGE}==2026.10.11549"
LONGEST = 2048  # tokens de uma sequência


class ModelOptions(ctypes.Structure):
    """`llama_model_params`, que aqui fica como vem: só o tamanho importa, e pode sobrar."""

    _fields_ = [("rest", ctypes.c_uint8 * 512)]


class ContextOptions(ctypes.Structure):
    """`llama_context_params`: os primeiros campos pelo nome, o resto como vem."""

    _fields_ = [(name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")]
    _fields_ += [("rest", ctypes.c_uint8 * 496)]


class Batch(ctypes.Structure):
    """`llama_batch`: tokens, a posição e a sequência de cada um, e de quais se querem os logits."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(ctypes.c_int8)),
    ]


# Função: (o que devolve, o que recebe).
SIGNATURES = {
    "llama_log_set": (None, [c_void_p, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelOptions, []),
    "llama_context_default_params": (ContextOptions, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelOptions]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextOptions]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_model_size": (ctypes.c_uint64, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_free": (None, [c_void_p]),
    "llama_model_free": (None, [c_void_p]),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        [c_int32, c_void_p, c_void_p, *[c_int64] * 3, c_void_p],
    ),
}


@ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
def silence(level, text, data):
    """O llama.cpp escreve páginas de diagnóstico, em inglês, ao abrir um modelo."""


def missing() -> str | None:
    """Por que o llama.cpp não roda aqui e como obtê-lo; None quando roda."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"falta o llama.cpp: {INSTALL_COMMAND}"
    try:
        library()
    except (OSError, AttributeError):
        return f"neste sistema o pacote {PACKAGE} não expõe a interface C do llama.cpp"
    return None


def library() -> ctypes.CDLL:
    """A biblioteca do pacote, com os tipos de cada função declarados."""
    folder = Path(importlib.util.find_spec(PACKAGE).origin).parent
    files = [path for path in folder.glob(f"{PACKAGE}*") if path.suffix in (".so", ".pyd")]
    if not files:
        raise OSError(f"{folder} não tem a biblioteca do llama.cpp")
    found = ctypes.CDLL(str(files[0]))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def quantize(weight: numpy.ndarray, kind: int, shape: tuple[int, ...]) -> numpy.ndarray:
    """As linhas de `weight` no tipo `kind` do GGUF, pelo llama.cpp: bytes com a forma `shape`.

    Raises:
        UserError: o llama.cpp falta, ou os bytes não são tantos.
    """
    if why := missing():
        raise UserError(why)
    weight = numpy.ascontiguousarray(weight, dtype=numpy.float32)
    output = numpy.empty(shape, dtype=numpy.uint8)
    done = library().ggml_quantize_chunk(
        kind, weight.ctypes.data, output.ctypes.data, 0, *weight.shape, None
    )
    if done != output.nbytes:
        raise UserError(f"o llama.cpp escreveu {done} bytes em vez de {output.nbytes}.")
    return output


class LlamaCpp:
    """Um GGUF aberto pelo llama.cpp, chamado como um modelo do transformers.

    O cache é para `sequences` ao mesmo tempo (o lote), de até `length` tokens cada uma.

    Raises:
        UserError: o llama.cpp não abriu o arquivo.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, sequences: int = 1, length: int = LONGEST) -> None:
        self.lib = library()
        self.lib.llama_log_set(silence, None)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(
            str(path).encode(), self.lib.llama_model_default_params()
        )
        if not self.model:
            raise UserError(f"o llama.cpp não conseguiu abrir {path}; apague-o e repita.")
        vocabulary = self.lib.llama_model_get_vocab(self.model)
        self.weights_bytes = self.lib.llama_model_size(self.model)
        self.config = SimpleNamespace(vocab_size=self.lib.llama_vocab_n_tokens(vocabulary))
        self.context = None
        self.resize(sequences, length)

    def resize(self, sequences: int, length: int) -> None:
        """Um contexto novo, com o cache do tamanho pedido."""
        if self.context is not None:
            self.lib.llama_free(self.context)
        options = self.lib.llama_context_default_params()
        options.n_ctx, options.n_seq_max = sequences * length, sequences
        options.n_batch = sequences * length
        self.context = self.lib.llama_init_from_model(self.model, options)
        if not self.context or self.lib.llama_n_ctx(self.context) < sequences * length:
            raise UserError("o llama.cpp não conseguiu reservar memória para o cache.")
        threads = torch.get_num_threads()  # o padrão dele, quatro, atrapalha quem tem dois núcleos
        self.lib.llama_set_n_threads(self.context, threads, threads)

    def close(self) -> None:
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def eval(self) -> "LlamaCpp":
        return self

    def decode(self, tokens: numpy.ndarray, start: int, last_only: bool) -> torch.Tensor:
        """Lê `tokens` [sequências, n], nas posições a partir de `start`.

        Returns:
            logits [sequências, n ou 1, vocabulário], em float32.
        """
        sequences, length = tokens.shape
        batch = self.lib.llama_batch_init(tokens.size, 0, 1)
        batch.n_tokens = tokens.size
        for i, (sequence, place) in enumerate(numpy.ndindex(sequences, length)):
            batch.token[i] = int(tokens[sequence, place])
            batch.pos[i] = start + place
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = not last_only or place == length - 1
        status = self.lib.llama_decode(self.context, batch)
        self.lib.llama_batch_free(batch)
        if status:
            raise UserError(f"o llama.cpp parou com o código {status} ao ler o texto.")
        shape = (sequences, 1 if last_only else length, self.config.vocab_size)
        values = numpy.ctypeslib.as_array(self.lib.llama_get_logits(self.context), shape)
        return torch.from_numpy(values.copy())  # o llama.cpp reaproveita essa memória

    def __call__(
        self,
        input_ids: torch.Tensor,
        past_key_values: int | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
    ) -> SimpleNamespace:
        """`logits` e `past_key_values` (aqui, quantos tokens já foram lidos), como no transformers.

        `logits_to_keep` é 1, os da última posição, ou 0, os de todas; o cache é sempre usado.
        """
        if past_key_values is None:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        start = past_key_values or 0
        logits = self.decode(input_ids.numpy(), start, last_only=logits_to_keep == 1)
        return SimpleNamespace(logits=logits, past_key_values=start + input_ids.shape[1])
