"""As medidas dos dias 3 e 4: o que entra na perda, e as notas do modelo, com intervalos de 95%.

Perplexidade por token não se compara entre tokenizadores diferentes; por byte, sim. Os intervalos
são de bootstrap sobre as conversas: tokens de uma mesma resposta não são independentes.
"""

import utils  # noqa: F401  (antes do torch)

import math
import random
import sys

import numpy
import torch
from sacrebleu.metrics import BLEU
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

SYSTEM = "Você atende os clientes da Loja Aroeira."
IGNORED = -100  # rótulo que a entropia cruzada do torch deixa de fora
RESAMPLES = 1000
# As perguntas feitas a todo modelo, antes e depois, para comparar a olho nu.
PROMPTS = [
    "Comprei uma jaqueta e ficou apertada. Tenho quanto tempo pra trocar?",
    "moro em recife, a partir de quanto o frete sai de graça?",
    "paguei no pix e me arrependi, quando o dinheiro volta?",
]
WINDOW = 64  # tokens por trecho dos textos de fora do domínio

Messages = list[dict[str, str]]


def prompt_of(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """O texto que o modelo recebe: sistema, conversa e a marca de que é a vez dele."""
    conversation = [{"role": "system", "content": SYSTEM}, *messages[:-1]]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> dict[str, list[int]]:
    """Tokens da conversa e rótulos: -100 no prompt, o próprio token na resposta e no fim dela.

    Raises:
        utils.UserError: o template escreve o prompt de um jeito no treino e de outro no uso, ou
            não marca o fim da resposta (o modelo não aprenderia a parar).
    """
    prompt = prompt_of(tokenizer, messages)
    conversation = [{"role": "system", "content": SYSTEM}, *messages]
    full = tokenizer.apply_chat_template(conversation, tokenize=False)
    if not full.startswith(prompt):
        raise utils.UserError("o template de chat deste modelo muda o prompt entre treino e uso.")
    answer = full[len(prompt) :].rstrip("\n")
    prompt_ids, answer_ids = tokenizer([prompt, answer], add_special_tokens=False).input_ids
    if answer_ids[-1] != tokenizer.eos_token_id:
        raise utils.UserError("o template de chat deste modelo não termina a resposta com o eos.")
    return {
        "input_ids": prompt_ids + answer_ids,
        "attention_mask": [1] * (len(prompt_ids) + len(answer_ids)),
        "labels": [IGNORED] * len(prompt_ids) + answer_ids,
    }


@torch.inference_mode()
def answer_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: list[Messages],
    batch_size: int = 8,
) -> dict[str, dict]:  # fmt: skip
    """Perplexidade (por token e por byte) e acurácia do próximo token, só na resposta."""
    model.eval()
    rows = [encode(tokenizer, messages) for messages in conversations]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    sums = numpy.zeros((len(rows), 4))  # nats, tokens, bytes, acertos
    bar = tqdm(total=len(rows), desc="Perplexidade", unit="conversa", file=sys.stdout)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad(
            [{k: rows[i][k] for k in ("input_ids", "attention_mask")} for i in chosen],
            padding_side="right", return_tensors="pt",
        ).to(model.device)  # fmt: skip
        logits = model(**batch).logits
        for row, index in enumerate(chosen):
            labels = torch.tensor(rows[index]["labels"], device=model.device)[1:]
            answer = labels != IGNORED
            scores = logits[row, : len(labels)][answer].float()
            nats = functional.cross_entropy(scores, labels[answer], reduction="sum").item()
            hits = (scores.argmax(-1) == labels[answer]).sum().item()
            size = len(conversations[index][-1]["content"].encode())
            sums[index] = nats, int(answer.sum()), size, hits
        bar.update(len(chosen))
    bar.close()
    nats, tokens, sizes, hits = sums.T
    return {
        "perplexidade_token": ratio(nats, tokens, math.exp),
        "perplexidade_byte": ratio(nats, sizes, math.exp),
        "acuracia_proximo_token": ratio(hits, tokens),
    }


def ratio(above: numpy.ndarray, below: numpy.ndarray, transform=float, seed: int = 0) -> dict:
    """Razão de somas, com bootstrap percentil sobre as unidades (Efron e Tibshirani, 1993).

    Args:
        above: numerador de cada unidade, [n]; below: denominador, [n].
        transform: função crescente aplicada à razão (exp, para a perplexidade).
    """
    picks = numpy.random.default_rng(seed).integers(0, len(above), (RESAMPLES, len(above)))
    resampled = above[picks].sum(1) / below[picks].sum(1)
    low, high = numpy.quantile(resampled, [0.025, 0.975])
    value = above.sum() / below.sum()
    return {"valor": transform(value), "ic95": [transform(low), transform(high)], "n": len(above)}


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: list[Messages],
    max_new_tokens: int = 90, batch_size: int = 30,
) -> list[str]:  # fmt: skip
    """Respostas por decodificação gulosa, na ordem das conversas."""
    model.eval()
    prompts = [prompt_of(tokenizer, messages) for messages in conversations]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    bar = tqdm(total=len(prompts), desc="Respondendo", unit="conversa", file=sys.stdout)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer(
            [prompts[i] for i in chosen], add_special_tokens=False, padding=True,
            padding_side="left", return_tensors="pt",
        ).to(model.device)  # fmt: skip
        output = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        texts = tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
        bar.update(len(chosen))
    bar.close()
    return answers


def bleu(answers: list[str], references: list[str]) -> dict:
    """BLEU do sacreBLEU (Post, 2018), com o intervalo de bootstrap e a assinatura da medida."""
    metric = BLEU()
    score = metric.corpus_score(answers, [references], n_bootstrap=RESAMPLES)
    interval = [score._mean - score._ci, score._mean + score._ci]
    return {"valor": score.score, "ic95": interval, "n": len(answers),
            "assinatura": str(metric.get_signature())}  # fmt: skip


@torch.inference_mode()
def text_perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> dict:
    """Perplexidade por byte de um texto corrido, em trechos de `WINDOW` tokens."""
    model.eval()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW // 2, WINDOW)]
    nats, sizes = [], []
    for piece in pieces:
        batch = torch.tensor([piece], device=model.device)
        scores = model(input_ids=batch).logits[0, :-1].float()
        nats.append(functional.cross_entropy(scores, batch[0, 1:], reduction="sum").item())
        sizes.append(len(tokenizer.decode(piece[1:]).encode()))
    return ratio(numpy.array(nats), numpy.array(sizes, dtype=float), math.exp)


def show(value: dict, decimals: int = 2, scale: float = 1.0) -> str:
    """`8,31 [7,90; 8,77]`, com vírgula decimal."""
    numbers = [value["valor"], *value["ic95"]]
    text = "{} [{}; {}]".format(*(f"{scale * n:.{decimals}f}" for n in numbers))
    return text.replace(".", ",")


def fix_seeds(seed: int) -> None:
    """A mesma semente para Python, numpy e torch."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
