"""Motores de inferência atrás de uma interface só: o transformers e, em CPU, o llama.cpp.

O terminal, a página e a avaliação falam com `Engine` e não sabem qual é. O prompt é o mesmo
(`prompt.py`), e os tokens também: quem tokeniza é sempre o tokenizador do modelo base. A resposta é
a da decodificação gulosa; entre um motor e outro só muda o que a quantização mudar.

`export.py` grava as formas do modelo em `<training.output_dir>/exportado/`, com um `exportado.json`
que diz o que há; `generation.engine` escolhe entre elas (`auto`: o mais rápido que houver).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import queue
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

from loja_sql.config import Config, UserError
from loja_sql.model.drafts import drafts_ready, dynamic_path, static_path

EXPORT_FOLDER = "exportado"
MANIFEST = "exportado.json"
GGUF_FORMS = ("q8_0", "q4_k_m", "q4_0", "f16")  # na ordem em que `auto` as prefere
FORMS = ("bf16", "nf4", "gptq", *GGUF_FORMS)
LLAMA_CPP_PACKAGE = "xllamacpp"
LLAMA_CPP_COMMAND = "python -m pip install -e '.[cpu]'"
EXPORT_COMMAND = "python export.py"
SLOTS = 4  # perguntas que o llama.cpp responde ao mesmo tempo
CONTEXT = 8192  # tokens, divididos por quem estiver perguntando
MAX_DRAFT = 4  # tokens adivinhados de cada vez
GREEDY = {"temperature": 0.0, "top_k": 1}


class Engine:
    """Um modelo pronto para responder.

    Attributes:
        name: o que se mostra a quem usa, por exemplo `llama.cpp q8_0`.
        tokenizer: o do modelo base, com template de chat.
        slots: quantas respostas correm ao mesmo tempo.
    """

    name: str
    tokenizer: object
    slots = 1

    def generate(
        self, prompts: list[str], max_new_tokens: int, batch_size: int
    ) -> Iterator[list[tuple[int, str]]]:
        """Responde vários prompts; produz listas de (índice em `prompts`, texto da resposta)."""
        raise NotImplementedError

    def stream(self, prompt: str, max_new_tokens: int) -> Iterator[str]:
        """Responde um prompt; produz o texto acumulado até ali, a cada token."""
        raise NotImplementedError

    def losses(
        self, pairs: list[tuple[list[int], list[int]]], batch_size: int
    ) -> Iterator[list[tuple[int, float, int]]] | None:
        """Perda das respostas de referência, como `model.answer_losses`; None se não sabe medir."""
        return None

    def close(self) -> None:
        """Libera o que o motor ocupa."""


class TransformersEngine(Engine):
    """O modelo carregado pelo transformers: base, base com adaptador ou uma pasta exportada."""

    def __init__(self, config: Config, adapter: Path | None = None, label: str = "") -> None:
        from loja_sql.model.loading import load_model, load_tokenizer

        self.tokenizer = load_tokenizer(config)
        self.model = load_model(config, adapter)
        kind = label or str(self.model.dtype).removeprefix("torch.")
        self.name = f"transformers {kind}"

    def generate(self, prompts, max_new_tokens, batch_size):
        from loja_sql.model import loading as model

        yield from model.generate(self.model, self.tokenizer, prompts, max_new_tokens, batch_size)

    def stream(self, prompt, max_new_tokens):
        from loja_sql.model import loading as model

        yield from model.stream(self.model, self.tokenizer, prompt, max_new_tokens)

    def losses(self, pairs, batch_size):
        from loja_sql.model import loading as model

        return model.answer_losses(self.model, self.tokenizer, pairs, batch_size)


class LlamaCppEngine(Engine):
    """Um GGUF executado pelo próprio llama.cpp (pacote `xllamacpp`), em CPU.

    Com as tabelas de `drafts.py` ao lado do arquivo, o llama.cpp adivinha alguns tokens e o modelo
    os confere. Ele recebe os tokens prontos, e por isso o template de chat dentro do GGUF não
    importa aqui. O servidor embutido escuta numa porta sorteada de 127.0.0.1, fechada por uma chave
    que só este processo conhece.
    """

    slots = SLOTS

    def __init__(self, config: Config, gguf: Path, label: str) -> None:
        import xllamacpp

        from loja_sql.model.loading import load_tokenizer

        self.tokenizer = load_tokenizer(config)
        self._tokenizing = threading.Lock()
        self.name = f"llama.cpp {label}"
        self._gguf = gguf
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(gguf)
        parameters.n_parallel = SLOTS
        parameters.n_ctx = CONTEXT
        parameters.kv_unified = True  # uma pergunta comprida pode tomar o lugar das que não há
        # O padrão guarda até 8 GiB de perguntas já feitas: a memória crescia 1,6 MB por pergunta, e
        # reler os 33 tokens de uma custa menos que isso.
        parameters.cache_ram_mib = 0
        parameters.n_gpu_layers = 0
        parameters.cpuparams.n_threads = threads or os.cpu_count() or 1
        parameters.cpuparams_batch.n_threads = parameters.cpuparams.n_threads
        parameters.verbosity = 0
        parameters.ui = False
        parameters.offline = True
        parameters.fit_params = False
        drafts = gguf.parent
        if drafts_ready(drafts):
            kinds = xllamacpp.common_speculative_type
            parameters.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_CACHE]
            parameters.speculative.draft.n_max = MAX_DRAFT
            cache = parameters.speculative.ngram_cache
            cache.lookup_cache_dynamic = str(dynamic_path(drafts))
            cache.lookup_cache_static = str(static_path(drafts))
        parameters.api_keys = [secrets.token_hex(16)]
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise UserError(
                f"o llama.cpp não conseguiu abrir {gguf} ({error}). Exporte de novo: "
                f"{EXPORT_COMMAND}"
            ) from error

    def generate(self, prompts, max_new_tokens, batch_size):
        with ThreadPoolExecutor(self.slots) as pool:
            jobs = {pool.submit(self._complete, p, max_new_tokens): i
                    for i, p in enumerate(prompts)}  # fmt: skip
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
                self._server.handle_completions(
                    self._request(prompt, max_new_tokens) | {"stream": True}, receive
                )
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
        """O servidor não dá a probabilidade do prompt: o arquivo é aberto de novo, sem ele."""
        import motor_llama_cpp

        return None if motor_llama_cpp.missing() else self._losses(pairs)

    def _losses(
        self, pairs: list[tuple[list[int], list[int]]]
    ) -> Iterator[list[tuple[int, float, int]]]:
        import torch
        from motor_llama_cpp import LlamaCpp, LlamaCppError
        from torch.nn import functional

        try:
            longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
            model = LlamaCpp(self._gguf, length=longest)
            for index, (prompt, answer) in enumerate(pairs):
                logits = model(torch.tensor([prompt + answer])).logits[0]
                scores, wanted = logits[len(prompt) - 1 : -1], torch.tensor(answer)
                loss = functional.cross_entropy(scores, wanted, reduction="sum").item()
                yield [(index, loss, len(answer))]
            model.close()
        except LlamaCppError as error:
            raise UserError(str(error)) from error

    def _complete(self, prompt: str, max_new_tokens: int) -> str:
        return _text_of(
            self._server.handle_completions(self._request(prompt, max_new_tokens))
        ).strip()

    def _request(self, prompt: str, max_new_tokens: int) -> dict:
        with self._tokenizing:
            ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return {"prompt": ids, "max_tokens": max_new_tokens, **GREEDY}

    def close(self) -> None:
        self._server = None


def _text_of(chunk: dict) -> str:
    if "choices" not in chunk:
        raise UserError(f"o llama.cpp recusou a pergunta: {chunk.get('error', chunk)}")
    return chunk["choices"][0]["text"]


def form_list(text: str) -> list[str]:
    """Lê `bf16,q8_0` ou `todas` na linha de comando."""
    names = list(FORMS) if text == "todas" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"forma desconhecida: {', '.join(unknown)} (há: {', '.join(FORMS)}, ou todas)"
        )
    return names


def has_llama_cpp() -> bool:
    """Diz se o pacote do llama.cpp está instalado."""
    return importlib.util.find_spec(LLAMA_CPP_PACKAGE) is not None


def adapter_digest(adapter: Path) -> str:
    """SHA-256 dos pesos treinados: liga a exportação ao treino de que ela saiu."""
    digest = hashlib.sha256()
    for path in sorted(adapter.glob("*.safetensors")):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def exported_forms(adapter: Path) -> dict[str, Path]:
    """As formas exportadas deste adaptador: nome → pasta ou arquivo GGUF.

    Uma exportação de outro treino (o adaptador mudou desde então) não conta.
    """
    manifest = adapter / EXPORT_FOLDER / MANIFEST
    if not manifest.is_file():
        return {}
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        current = content["adaptador_sha256"] == adapter_digest(adapter)
        paths = {name: adapter / EXPORT_FOLDER / form["caminho"]
                 for name, form in content["formas"].items() if "caminho" in form}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest} está estragado ({error!r}); exporte de novo: {EXPORT_COMMAND}"
        ) from error
    return {name: path for name, path in paths.items() if path.exists()} if current else {}


def open_form(config: Config, adapter: Path, form: str) -> Engine:
    """Abre uma forma exportada pelo nome, um dos de `FORMS`.

    Raises:
        UserError: a forma não foi exportada, ou falta o pacote do llama.cpp.
    """
    available = exported_forms(adapter)
    if form not in available:
        shown = ", ".join(available) or "nenhuma"
        raise UserError(
            f"a forma {form} não está exportada para {adapter} (há: {shown}). Exporte-a com os "
            f"mesmos argumentos: {EXPORT_COMMAND} --forms {form}"
        )
    if form in GGUF_FORMS:
        if not has_llama_cpp():
            raise UserError(f"falta o llama.cpp: {LLAMA_CPP_COMMAND}")
        return LlamaCppEngine(config, available[form], form)
    settings = config.model_copy(deep=True)
    settings.model.name, settings.model.load_in_4bit = str(available[form]), False
    return TransformersEngine(settings, label=form)


def open_engine(config: Config, adapter: Path | None) -> Engine:
    """O motor pedido por `generation.engine`; sem adaptador, o modelo base no transformers.

    `auto` toma o llama.cpp quando ele está instalado, há um GGUF exportado e não há GPU.

    Raises:
        UserError: pediu-se `llamacpp` e falta o pacote ou o arquivo.
    """
    wanted = config.generation.engine
    if adapter is None or wanted == "transformers":
        return TransformersEngine(config, adapter)
    ready = [form for form in GGUF_FORMS if form in exported_forms(adapter)]
    if wanted == "llamacpp":
        return open_form(config, adapter, ready[0] if ready else GGUF_FORMS[0])
    if ready and has_llama_cpp() and not _has_gpu():
        return open_form(config, adapter, ready[0])
    return TransformersEngine(config, adapter)


def _has_gpu() -> bool:
    from loja_sql.model.loading import device

    return device().type != "cpu"
