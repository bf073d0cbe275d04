"""As medidas dos dias 3 e 4: o que entra na perda, e as notas do modelo, com intervalos de 95%.

Perplexidade por token não se compara entre tokenizadores diferentes; por byte, sim. Os intervalos
são de bootstrap sobre as conversas: tokens de uma mesma resposta não são independentes.
"""

import math
import random
import sys
from collections.abc import Iterator, Sequence

import numpy
import torch
import utils  # noqa: F401  (antes do torch)
from peft import PeftModel
from sacrebleu.metrics import BLEU
from torch.nn import functional
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase

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


class SimilarLengths(Sampler[list[int]]):
    """Lotes de conversas de comprimento parecido: menos preenchimento, a mesma mistura.

    Só os grupos de oito lotes são ordenados; a ordem dos lotes é sorteada a cada passada, senão o
    treino seguiria a do tamanho.
    """

    def __init__(self, rows: Sequence[dict[str, list[int]]], size: int, seed: int) -> None:
        self.lengths = [len(row["input_ids"]) for row in rows]
        self.size = size
        self.rng = random.Random(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.rng.sample(range(len(self.lengths)), len(self.lengths))
        batches = []
        for start in range(0, len(order), 8 * self.size):
            near = sorted(order[start : start + 8 * self.size], key=self.lengths.__getitem__)
            batches += [near[i : i + self.size] for i in range(0, len(near), self.size)]
        self.rng.shuffle(batches)
        return iter(batches)


def answer_logits(
    model: PreTrainedModel | PeftModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Os logits dos tokens da resposta e os tokens certos: [n, vocabulário] e [n].

    Só as posições com rótulo passam pela camada de saída. Ela tem o tamanho do vocabulário, e os
    logits do prompt, que a perda ignora, custariam quase metade do tempo e da memória do passo.

    Args:
        batch: `input_ids`, `attention_mask` e `labels`, todos [lote, comprimento].
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.get_decoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    following = batch["labels"][:, 1:]  # a posição t prevê o token t + 1
    learned = following != IGNORED
    return causal.get_output_embeddings()(hidden[:, :-1][learned]).float(), following[learned]


def answer_loss(
    model: PreTrainedModel | PeftModel, batch: dict[str, torch.Tensor], mixed: bool = False
) -> torch.Tensor:
    """Entropia cruzada média dos tokens da resposta, a mesma de `model(**batch).loss`.

    Args:
        mixed: faz as contas pesadas em bf16; os pesos que treinam continuam em float32.
    """
    with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
        return functional.cross_entropy(*answer_logits(model, batch))


@torch.inference_mode()
def answer_scores(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase,
    conversations: list[Messages], batch_size: int = 8,
) -> dict[str, dict]:  # fmt: skip
    """Perplexidade (por token e por byte) e acurácia do próximo token, só na resposta."""
    model.eval()
    rows = [encode(tokenizer, messages) for messages in conversations]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    sums = numpy.zeros((len(rows), 4))  # nats, tokens, bytes, acertos
    bar = tqdm(total=len(rows), desc="Perplexidade", unit="conversa", file=sys.stdout)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collator([rows[i] for i in chosen]).to(model.device)
        logits, answers = answer_logits(model, batch)
        nats = functional.cross_entropy(logits, answers, reduction="none")
        hits = logits.argmax(-1) == answers
        counts = (batch["labels"][:, 1:] != IGNORED).sum(1).tolist()
        parts = zip(chosen, nats.split(counts), hits.split(counts), strict=True)
        for index, row_nats, row_hits in parts:
            size = len(conversations[index][-1]["content"].encode())
            sums[index] = row_nats.sum(), len(row_nats), size, row_hits.sum()
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
    max_new_tokens: int = 90, batch_size: int = 90,
) -> list[str]:  # fmt: skip
    """Respostas por decodificação gulosa, na ordem das conversas (a última mensagem não é lida)."""
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


def answers_to(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str],
    max_new_tokens: int = 90,
) -> list[str]:  # fmt: skip
    """Respostas gulosas a perguntas avulsas, sem resposta de referência."""
    questions = [[{"role": "user", "content": text}, {"role": "assistant", "content": "-"}]
                 for text in prompts]  # fmt: skip
    return greedy_answers(model, tokenizer, questions, max_new_tokens)


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
