"""Recarrega um modelo salvo, sozinho num processo, e o mede.

    python medir_quantizado.py PASTA RESULTADO.json REFERENCIA.pt CONVERSAS RESPOSTAS

A primeira medição (a do fp32) grava em REFERENCIA.pt os log-probs das primeiras conversas; as
outras se comparam com eles (KL e concordância do primeiro colocado).
"""

import utils  # antes do torch

import statistics
import sys
import time
from pathlib import Path

import numpy
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM

import medidas
from corrida import peak_memory_mib

COMPARED = 30  # conversas guardadas para a KL: 49.152 log-probs por token ocupam muito
PROMPT_TOKENS = 64
NEW_TOKENS = 16
REPEATS = 3


def load(folder: str):
    """O modelo salvo; em float32 só o original, os outros fazem as contas em bf16."""
    dtype = torch.float32 if Path(folder).name == "fp32" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": utils.device()}
    ).eval()


@torch.inference_mode()
def speed(model, batch: int) -> dict[str, float]:
    """Tokens/s de prefill e de decodificação: mediana de `REPEATS`, depois de aquecer."""
    ids = torch.randint(10, model.config.vocab_size, (batch, PROMPT_TOKENS), device=model.device)
    prefill, decode = [], []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        prefill.append(batch * PROMPT_TOKENS / (time.perf_counter() - started))
        cache = output.past_key_values
        started = time.perf_counter()
        for _ in range(NEW_TOKENS):
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=cache, use_cache=True)
        decode.append(batch * NEW_TOKENS / (time.perf_counter() - started))
    return {"prefill": statistics.median(prefill[1:]), "decode": statistics.median(decode[1:])}


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


def main() -> None:
    folder, result, reference, count, answers = sys.argv[1:]
    medidas.fix_seeds(0)
    tokenizer = utils.load_tokenizer(folder)
    test = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", int(count))
    model = load(folder)
    rates = {f"lote_{batch}": speed(model, batch) for batch in (1, 8)}
    peak = peak_memory_mib()  # antes das notas: os log-probs guardados não são do modelo
    resident = model.get_memory_footprint()
    metrics, nats, tokens = scores(model, tokenizer, test, Path(reference))
    for language in ("portugues", "ingles"):
        text = (utils.DATA_DIR / f"fora_do_dominio_{language}.txt").read_text(encoding="utf-8")
        metrics[f"fora_{language}"] = medidas.text_perplexity(model, tokenizer, text)
    asked = test[: int(answers)]
    texts = medidas.greedy_answers(model, tokenizer, asked, max_new_tokens=40)
    metrics["bleu"] = medidas.bleu(texts, [m[-1]["content"] for m in asked])
    disk = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
    utils.write_json(Path(result), {
        "metricas": metrics, "nats": nats, "tokens": tokens, "velocidade": rates, "pico_mib": peak,
        "bytes_em_disco": disk, "bytes_na_memoria": resident, "respostas": texts[:3],
    })  # fmt: skip


if __name__ == "__main__":
    utils.run_main(main)
