"""Recarrega um modelo salvo, sozinho num processo, e o mede.

    python medir_quantizado.py PASTA RESULTADO.json REFERENCIA.pt CONVERSAS RESPOSTAS REPETIÇÕES

A primeira medição (a do fp32) grava em REFERENCIA.pt os log-probs das primeiras conversas; as
outras se comparam com eles (KL e concordância do primeiro colocado). Um GGUF é medido pelo próprio
llama.cpp, com os mesmos tokens.
"""

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import medidas
import numpy
import torch
import utils  # antes do torch
from corrida import peak_memory_mib
from motor_llama_cpp import LlamaCpp, LlamaCppError
from tecnicas import GGUF_NAME
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM

COMPARED = 30  # conversas guardadas para a KL: 49.152 log-probs por token ocupam muito
PROMPT_TOKENS = 64
NEW_TOKENS = 16
ANSWER_TOKENS = 60
BATCHES = (1, 8)


def main() -> None:
    try:
        measure()
    except LlamaCppError as error:
        raise utils.UserError(str(error)) from error


def measure() -> None:
    folder, result, reference, count, answers, repeats = sys.argv[1:]
    medidas.fix_seeds(0)
    tokenizer = utils.load_tokenizer(folder)
    test = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", int(count))
    model = load(Path(folder))
    steps = llama_cpp_steps if isinstance(model, LlamaCpp) else transformers_steps
    rates = {f"lote_{batch}": speed(int(repeats), *steps(model, batch)) for batch in BATCHES}
    peak = peak_memory_mib()  # antes das notas: os log-probs guardados não são do modelo
    resident = model.size() if isinstance(model, LlamaCpp) else resident_bytes(model)
    if isinstance(model, LlamaCpp):
        model.resize(1, 2048)
    metrics, nats, tokens = scores(model, tokenizer, test, Path(reference))
    for language in ("portugues", "ingles"):
        text = (utils.DATA_DIR / f"fora_do_dominio_{language}.txt").read_text(encoding="utf-8")
        metrics[f"fora_{language}"] = medidas.text_perplexity(model, tokenizer, text)
    asked = test[: int(answers)]
    texts = answers_of(model, tokenizer, asked)
    metrics["bleu"] = medidas.bleu(texts, [m[-1]["content"] for m in asked])
    files = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.gguf")]
    utils.write_json(Path(result), {
        "metricas": metrics, "nats": nats, "tokens": tokens, "velocidade": rates, "pico_mib": peak,
        "bytes_em_disco": sum(f.stat().st_size for f in files), "bytes_na_memoria": resident,
        "respostas": texts[:3],
    })  # fmt: skip


def load(folder: Path):
    """O modelo salvo; em float32 só o original, os outros fazem as contas em bf16."""
    if (folder / GGUF_NAME).is_file():
        return LlamaCpp(folder / GGUF_NAME, max(BATCHES), PROMPT_TOKENS + NEW_TOKENS)
    dtype = torch.float32 if folder.name == "fp32" else torch.bfloat16
    # O compressed-tensors prepara os pesos ao carregar e os expande na primeira passada, com barras
    # de progresso em inglês no stderr.
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map={"": utils.device()}
        ).eval()
        model(input_ids=torch.tensor([[1]], device=model.device))
    return model


def resident_bytes(model) -> int:
    """Bytes dos pesos em uso, com as escalas que o bitsandbytes guarda fora dos parâmetros."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        extras = [getattr(weight, "SCB", None)]
        while state is not None:  # com escala dupla, o estado das escalas tem o seu próprio
            extras += [getattr(state, name, None) for name in ("absmax", "code", "offset")]
            state = getattr(state, "state2", None)
        tensors += [t for t in extras if isinstance(t, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def speed(repeats: int, batch: int, prefill: Callable, step: Callable) -> dict[str, float]:
    """Tokens/s de prefill e de decodificação: mediana de `repeats`, depois de aquecer."""

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU trabalha depois que a chamada volta
        return time.perf_counter()

    prefills, decodes = [], []
    for _ in range(repeats + 1):
        started = clock()
        state = prefill()
        prefills.append(batch * PROMPT_TOKENS / (clock() - started))
        started = clock()
        for number in range(NEW_TOKENS):
            state = step(state, number)
        decodes.append(batch * NEW_TOKENS / (clock() - started))
    return {"prefill": statistics.median(prefills[1:]), "decode": statistics.median(decodes[1:])}


def transformers_steps(model, batch: int) -> tuple[int, Callable, Callable]:
    """(lote, leitura do prompt, um token a mais em cada sequência), no transformers."""
    ids = torch.randint(10, model.config.vocab_size, (batch, PROMPT_TOKENS), device=model.device)

    @torch.inference_mode()
    def prefill():
        return model(input_ids=ids, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def step(output, number: int):
        token = output.logits[:, -1:].argmax(-1)
        return model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)

    return batch, prefill, step


def llama_cpp_steps(model: LlamaCpp, batch: int) -> tuple[int, Callable, Callable]:
    """O mesmo que `transformers_steps`, no llama.cpp."""
    ids = numpy.random.default_rng(0).integers(10, model.vocabulary, (batch, PROMPT_TOKENS))
    model.resize(batch, PROMPT_TOKENS + NEW_TOKENS)

    def prefill() -> torch.Tensor:
        model.clear()
        return model.decode(ids, 0, last_only=True)

    def step(logits: torch.Tensor, number: int) -> torch.Tensor:
        token = logits[:, -1:].argmax(-1).numpy()
        return model.decode(token, PROMPT_TOKENS + number, last_only=True)

    return batch, prefill, step


def answers_of(model, tokenizer, conversations: list) -> list[str]:
    """As respostas gulosas, na ordem das conversas."""
    if not isinstance(model, LlamaCpp):
        return medidas.greedy_answers(model, tokenizer, conversations, ANSWER_TOKENS)
    texts = []
    for messages in tqdm(conversations, desc="Respondendo", unit="conversa", file=sys.stdout):
        prompt = tokenizer(
            medidas.prompt_of(tokenizer, messages), add_special_tokens=False
        ).input_ids
        answer = model.greedy(prompt, ANSWER_TOKENS, tokenizer.eos_token_id)
        texts.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    return texts


@torch.inference_mode()
def scores(model, tokenizer, conversations: list, reference: Path) -> tuple[dict, list, list]:
    """Notas na resposta de cada conversa e os nats e tokens de cada uma (para o teste pareado)."""
    saved = torch.load(reference) if reference.is_file() else None
    kept, sums = [], []  # nats, tokens, acertos, KL, concordâncias
    for number, messages in enumerate(
        tqdm(conversations, desc="Perplexidade", unit="conversa", file=sys.stdout)
    ):
        row = medidas.encode(tokenizer, messages)
        logits = model(input_ids=torch.tensor([row["input_ids"]], device=model.device)).logits
        labels = torch.tensor(row["labels"])[1:]
        answer = labels != medidas.IGNORED
        logp = logits[0, :-1].cpu()[answer].float().log_softmax(-1)
        target, best = labels[answer], logp.argmax(-1)
        divergence, agreed = 0.0, 0.0
        if number < COMPARED:
            if saved is None:
                kept.append(logp.half())
            truth = logp if saved is None else saved[number].float()
            divergence = functional.kl_div(logp, truth, reduction="sum", log_target=True).item()
            agreed = (truth.argmax(-1) == best).sum().item()
        nats = -logp.gather(1, target[:, None]).sum().item()
        sums.append((nats, len(target), (best == target).sum().item(), divergence, agreed))
    if saved is None:
        torch.save(kept, reference)
    nats, tokens, hits, divergence, agreed = numpy.array(sums, dtype=float).T
    some = slice(0, COMPARED)
    return {
        "perplexidade_token": medidas.ratio(nats, tokens, numpy.exp),
        "acuracia_proximo_token": medidas.ratio(hits, tokens),
        "kl_fp32": medidas.ratio(divergence[some], tokens[some]),
        "concordancia_fp32": medidas.ratio(agreed[some], tokens[some]),
    }, nats.tolist(), tokens.tolist()


if __name__ == "__main__":
    utils.run_main(main)
