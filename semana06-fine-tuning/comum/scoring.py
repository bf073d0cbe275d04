"""As notas de um modelo de linguagem, com intervalos: perplexidade e próximo token certo.

Perplexidade por token não se compara entre tokenizadores diferentes; por byte, sim.
"""

from comum.results import Score
from comum.statistics import perplexity, ratio
from comum.terminal import UserError, progress
from comum.training import IGNORED, answer_logits, pad

import numpy
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 64  # tokens por trecho de um texto corrido


@torch.inference_mode()
def answer_sums(
    model: PreTrainedModel | PeftModel,
    rows: list[dict[str, list[int]]],
    pad_token_id: int,
    batch_size: int = 8,
) -> numpy.ndarray:
    """Nats, tokens e acertos do próximo token na resposta de cada linha: [linhas, 3]."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    sums = numpy.zeros((len(rows), 3))
    with progress(None, "Perplexidade", "conversa", len(rows)) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad([rows[i] for i in chosen], pad_token_id)
            counts = (batch["labels"][:, 1:] != IGNORED).sum(1).tolist()
            batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
            logits, answers = answer_logits(model, batch)
            # De volta à CPU: o numpy não lê tensores da GPU.
            nats = functional.cross_entropy(logits, answers, reduction="none").cpu()
            hits = (logits.argmax(-1) == answers).cpu()
            parts = zip(chosen, nats.split(counts), hits.split(counts), strict=True)
            for index, row_nats, row_hits in parts:
                sums[index] = row_nats.sum().item(), len(row_nats), row_hits.sum().item()
            bar.update(len(chosen))
    return sums


def answer_scores(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, list[int]]],
    answers: list[str],
    batch_size: int = 8,
) -> dict[str, Score]:
    """Perplexidade (por token e por byte) e acurácia do próximo token, só na resposta.

    Args:
        rows: as linhas de `comum.training.masked`; answers: o texto da resposta de cada uma.
    """
    nats, tokens, hits = answer_sums(model, rows, tokenizer.pad_token_id, batch_size).T
    return {
        "perplexity_token": perplexity(nats, tokens),
        "perplexity_byte": perplexity(nats, [len(text.encode()) for text in answers]),
        "next_token_accuracy": ratio(hits, tokens),
    }


@torch.inference_mode()
def text_perplexity(model, tokenizer: PreTrainedTokenizerBase, text: str) -> Score:
    """Perplexidade por byte de um texto corrido, em trechos de `WINDOW` tokens.

    Raises:
        UserError: o texto não enche meio trecho.
    """
    model.eval()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW // 2, WINDOW)]
    if not pieces:
        raise UserError(f"um texto fora do domínio só tem {len(ids)} tokens: é curto para medir.")
    nats, sizes = [], []
    for piece in pieces:
        batch = torch.tensor([piece], device=model.device)
        scores = model(input_ids=batch).logits[0, :-1].float()
        nats.append(functional.cross_entropy(scores, batch[0, 1:], reduction="sum").item())
        sizes.append(len(tokenizer.decode(piece[1:]).encode()))
    return perplexity(nats, sizes)
