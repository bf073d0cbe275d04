"""Motores de inferência atrás de uma interface só: o transformers e, em CPU, o llama.cpp.

O terminal, a página e a avaliação falam com `Engine` e não sabem qual é. O prompt é o mesmo
(`prompt.py`), e os tokens também: quem tokeniza é sempre o tokenizador do treino. A resposta é a da
decodificação gulosa; entre um motor e outro só muda o que a quantização mudar.
"""

import importlib.util
import queue
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from comum import llama_cpp
from comum.models import device
from comum.terminal import UserError

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from loja_sql.config import Config
from loja_sql.model.exports import ADAPTER, EXPORT_COMMAND, GGUF_FORMS, exported_forms
from loja_sql.model.tokens import load_tokenizer

SLOTS = 4  # perguntas que o llama.cpp responde ao mesmo tempo
CONTEXT = 8192  # tokens, divididos por quem estiver perguntando

Pairs = list[tuple[list[int], list[int]]]  # (tokens do prompt, tokens da resposta)
Losses = Iterator[list[tuple[int, float, int]]]  # (índice, nats, tokens da resposta)


class Engine:
    """Um modelo pronto para responder."""

    name: str  # o que se mostra a quem usa, por exemplo `llama.cpp q8_0`
    tokenizer: PreTrainedTokenizerBase  # o do treino (ou o da base), com template de chat
    slots = 1  # quantas respostas correm ao mesmo tempo

    def generate(
        self, prompts: list[str], max_new_tokens: int, batch_size: int
    ) -> Iterator[list[tuple[int, str]]]:
        """Responde vários prompts; produz listas de (índice em `prompts`, texto da resposta)."""
        raise NotImplementedError

    def stream(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """Responde um prompt; produz o texto acumulado até ali, a cada token."""
        raise NotImplementedError

    def losses(self, pairs: Pairs, batch_size: int) -> Losses | None:
        """Perda das respostas de referência, como `decoding.answer_losses`; None se não sabe."""
        return None

    def close(self) -> None:
        """Libera o que o motor ocupa."""


class LlamaCppEngine(Engine):
    """Um GGUF executado pelo próprio llama.cpp (pacote `xllamacpp`), em CPU.

    O servidor embutido escuta numa porta sorteada de 127.0.0.1, fechada por uma chave que só este
    processo conhece.
    """

    slots = SLOTS

    def __init__(self, config: Config, adapter: Path, gguf: Path, label: str) -> None:
        import xllamacpp

        self.tokenizer = load_tokenizer(config, adapter)
        self.name, self._gguf = f"llama.cpp {label}", gguf
        self._tokenizing = threading.Lock()
        try:
            self._server = xllamacpp.Server(_server_options(gguf))
        except RuntimeError as error:
            again = f"Exporte de novo: {EXPORT_COMMAND} --force"
            raise UserError(f"o llama.cpp não abriu {gguf} ({error}). {again}") from error

    def generate(self, prompts, max_new_tokens, batch_size):
        def answer(prompt: str) -> str:
            request = self._request(prompt, max_new_tokens)
            return _text_of(self._server.handle_completions(request)).strip()

        with ThreadPoolExecutor(self.slots) as pool:
            jobs = {pool.submit(answer, prompt): place for place, prompt in enumerate(prompts)}
            for job in as_completed(jobs):
                yield [(jobs[job], job.result())]

    def stream(self, prompt, max_new_tokens):
        pieces: queue.SimpleQueue = queue.SimpleQueue()
        abandoned = threading.Event()

        def receive(chunk: dict) -> bool:
            pieces.put(chunk)
            return abandoned.is_set()  # True para a geração

        def work() -> None:
            try:
                request = self._request(prompt, max_new_tokens) | {"stream": True}
                self._server.handle_completions(request, receive)
                pieces.put(None)
            except Exception as error:  # quem consome a vê
                pieces.put({"error": error})

        threading.Thread(target=work, daemon=True).start()
        text = ""
        try:
            while (chunk := pieces.get()) is not None:
                text += _text_of(chunk)
                yield text.strip()
        finally:
            abandoned.set()

    def losses(self, pairs, batch_size):
        return None if llama_cpp.missing() else self._losses(pairs)

    def _losses(self, pairs: Pairs) -> Losses:
        # O servidor não dá a probabilidade do prompt: o arquivo é aberto de novo, sem ele.
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        model = llama_cpp.LlamaCpp(self._gguf, length=longest)
        for index, (prompt, answer) in enumerate(pairs):
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            loss = functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
            yield [(index, loss.item(), len(answer))]
        model.close()

    def _request(self, prompt: str, max_new_tokens: int) -> dict:
        with self._tokenizing:
            ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return {"prompt": ids, "max_tokens": max_new_tokens, "temperature": 0.0, "top_k": 1}

    def close(self) -> None:
        self._server = None


def _server_options(gguf: Path):
    """As opções do servidor embutido do llama.cpp (`xllamacpp.CommonParams`)."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = str(gguf)
    options.n_parallel = SLOTS
    options.n_ctx = CONTEXT
    options.kv_unified = True  # uma pergunta comprida pode tomar o lugar das que não há
    # O padrão guarda até 8 GiB de perguntas já feitas: a memória crescia 1,6 MB por pergunta, e
    # reler os 33 tokens de uma custa menos que isso.
    options.cache_ram_mib = 0
    options.n_gpu_layers = options.verbosity = 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = torch.get_num_threads()
    options.ui = options.fit_params = False
    options.offline = True
    options.api_keys = [secrets.token_hex(16)]
    return options


def _text_of(chunk: dict) -> str:
    if "choices" not in chunk:
        raise UserError(f"o llama.cpp recusou a pergunta: {chunk.get('error', chunk)}")
    return chunk["choices"][0]["text"]


def has_llama_cpp() -> bool:
    """Diz se o pacote do llama.cpp está instalado."""
    return importlib.util.find_spec(llama_cpp.PACKAGE) is not None


def with_transformers(config: Config, adapter: Path | None = None, label: str = "") -> Engine:
    """O modelo carregado pelo transformers: base, base com adaptador ou uma pasta exportada."""
    from loja_sql.model.transformers_engine import TransformersEngine  # quem não o usa poupa 4 s

    return TransformersEngine(config, adapter, label)


def open_form(config: Config, adapter: Path, form: str) -> Engine:
    """Abre uma forma exportada pelo nome, um dos de `FORMS`.

    Raises:
        UserError: a forma não foi exportada, ou falta o pacote do llama.cpp.
    """
    available = exported_forms(adapter)
    if form not in available:
        raise UserError(
            f"a forma {form} não está exportada para {adapter} (há: "
            f"{', '.join(available) or 'nenhuma'}). Exporte-a com os mesmos argumentos: "
            f"{EXPORT_COMMAND} --forms {form}"
        )
    if form in GGUF_FORMS:
        if not has_llama_cpp():
            raise UserError(f"falta o llama.cpp: {llama_cpp.INSTALL_COMMAND}")
        return LlamaCppEngine(config, adapter, available[form], form)
    if form == ADAPTER:
        return with_transformers(config, available[form], label=form)
    settings = config.model_copy(deep=True)
    settings.model.name, settings.model.load_in_4bit = str(available[form]), False
    return with_transformers(settings, label=form)


def open_engine(config: Config, adapter: Path | None) -> Engine:
    """O motor pedido por `generation.engine`; sem adaptador, o modelo base no transformers.

    `auto` toma o llama.cpp quando ele está instalado, há um GGUF exportado e não há GPU.

    Raises:
        UserError: pediu-se `llamacpp` e falta o pacote ou o arquivo.
    """
    wanted = config.generation.engine
    if adapter is None or wanted == "transformers":
        return with_transformers(config, adapter)
    ready = [form for form in GGUF_FORMS if form in exported_forms(adapter)]
    if wanted == "llamacpp" or (ready and has_llama_cpp() and device().type == "cpu"):
        return open_form(config, adapter, ready[0] if ready else GGUF_FORMS[0])
    return with_transformers(config, adapter)
