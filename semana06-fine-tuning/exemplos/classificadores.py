"""Seis jeitos de dizer o assunto de uma mensagem, do mais barato ao mais caro, no mesmo teste.

A pergunta não é se o modelo de linguagem aprende, e sim se vale o que custa diante de uma contagem
de palavras.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import antes_depois
import corrida
import medidas
import metricas_a_mao
import numpy
import torch
import utils  # antes do torch
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

# A cabeça lê este texto inteiro: o último token só da mensagem, um "?", diria pouco dela.
PROMPT = "Mensagem do cliente: {text}\nAssunto:"
EMPTY = "-"  # a mensagem que não diz nada: o que o modelo responderia a ela é o seu viés


def compare(folder: Path, plan: antes_depois.Plan) -> dict:
    """Treina e mede os classificadores; cada um com acurácia, macro-F1, segundos e parâmetros."""
    train = antes_depois.read_part(folder, "classification", "treino", plan.labelled)
    test = antes_depois.read_part(folder, "classification", "teste",
                                  plan.test if plan.labelled else None)  # fmt: skip
    labels = sorted({row["label"] for row in train})
    texts, true = [row["text"] for row in test], [row["label"] for row in test]
    tokenizer = antes_depois.tokenizer_for(utils.load_tokenizer(plan.model), "generation")

    found = {"classe mais comum": timed(lambda: majority(train, texts))}
    found["TF-IDF + regressão logística"] = timed(lambda: bag_of_words(train, texts))
    run = plan.run(plan.label_learning_rate, plan.label_epochs, plan.label_batch_size)
    scores, weighing = clocked(
        lambda: likelihoods(corrida.prepare(run, 1).eval(), tokenizer, [EMPTY, *texts], labels)
    )
    for name, table in (("LLM sem treino", scores[1:]),
                        ("LLM sem treino, descontado o viés", scores[1:] - scores[0])):  # fmt: skip
        found[name] = {"previstos": best(table, labels), "segundos_de_treino": 0.0,
                       "segundos_de_resposta": weighing, "treinaveis": 0}  # fmt: skip
    model, seconds = antes_depois.fine_tune(
        [asked(row["text"], row["label"]) for row in train], tokenizer, run
    )
    scores, weighing = clocked(lambda: likelihoods(model, tokenizer, texts, labels))
    found["LLM ajustado com LoRA"] = {
        "previstos": best(scores, labels), "segundos_de_treino": seconds,
        "segundos_de_resposta": weighing, "treinaveis": trainable(model),
    }  # fmt: skip
    found["LLM com cabeça de classificação, LoRA"] = head(train, texts, labels, tokenizer, plan)

    cheap = found["TF-IDF + regressão logística"]["previstos"]
    for entry in found.values():
        entry |= judge(true, entry["previstos"])
        hits, other = ([p == t for p, t in zip(said, true, strict=True)]
                       for said in (entry["previstos"], cheap))  # fmt: skip
        entry["p_contra_tfidf"] = metricas_a_mao.mcnemar(hits, other)
    best_name = max(found, key=lambda name: found[name]["acuracia"]["valor"])
    confusion = metricas_a_mao.confusion(true, found[best_name]["previstos"], labels)
    return {"treino": len(train), "teste": len(test), "rotulos": labels, "classificadores": found,
            "melhor": best_name, "confusao_do_melhor": confusion}  # fmt: skip


def judge(true: list[str], predicted: list[str]) -> dict:
    """Acurácia (Wilson) e macro-F1 (bootstrap)."""
    macro = metricas_a_mao.bootstrap(
        lambda rows: metricas_a_mao.macro_f1(*zip(*rows, strict=True)),
        list(zip(true, predicted, strict=True)),
    )
    hits = [t == p for t, p in zip(true, predicted, strict=True)]
    return {"acuracia": metricas_a_mao.proportion(hits), "macro_f1": macro}


# --- sem redes neurais ----------------------------------------------------------------------------


def majority(train: list[dict], texts: list[str]) -> tuple[list[str], int]:
    """Sempre o rótulo mais comum no treino (o primeiro em ordem alfabética, no empate)."""
    counts = Counter(row["label"] for row in train)
    common = min(counts, key=lambda label: (-counts[label], label))
    return [common] * len(texts), 0


def bag_of_words(train: list[dict], texts: list[str]) -> tuple[list[str], int]:
    """Pedaços de palavras de 3 a 5 letras, pesados por TF-IDF, e uma regressão logística.

    Letras e C foram escolhidos na validação; com palavras inteiras, acertava um terço menos.
    """
    pipeline = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True,
                        strip_accents="unicode"),
        LogisticRegression(C=1, max_iter=1000),
    )  # fmt: skip
    pipeline.fit([row["text"] for row in train], [row["label"] for row in train])
    weights = pipeline[-1].coef_.size + pipeline[-1].intercept_.size
    return pipeline.predict(texts).tolist(), weights


def timed(classify: Callable[[], tuple[list[str], int]]) -> dict:
    """Executa treino e previsão juntos, e anota o tempo dos dois."""
    (predicted, weights), seconds = clocked(classify)
    return {"previstos": predicted, "segundos_de_treino": seconds, "segundos_de_resposta": 0.0,
            "treinaveis": weights}  # fmt: skip


def clocked(work: Callable) -> tuple:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


# --- pela verossimilhança do rótulo ---------------------------------------------------------------


def asked(text: str, label: str) -> medidas.Messages:
    """A mensagem e o rótulo como prompt e resposta."""
    return [{"role": "user", "content": PROMPT.format(text=text)},
            {"role": "assistant", "content": f" {label}"}]  # fmt: skip


@torch.inference_mode()
def likelihoods(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], labels: list[str],
    batch_size: int = 40,
) -> numpy.ndarray:  # fmt: skip
    """Logaritmo da probabilidade de cada rótulo depois de cada mensagem: [textos, rótulos].

    O modelo não escolhe da lista: pergunta-se a ele quanto espera cada rótulo. O fim da resposta
    não entra na conta: o modelo sem treino não sabe que ela deve acabar ali.
    """
    model.eval()
    rows = []
    for text in texts:
        for label in labels:
            row = medidas.encode(tokenizer, asked(text, label))
            row["labels"][-1] = medidas.IGNORED
            rows.append(row)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)
    scores = numpy.zeros(len(rows))
    bar = tqdm(total=len(rows), desc="Pesando rótulos", unit="rótulo", file=sys.stdout)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collator([rows[i] for i in chosen]).to(model.device)
        logits, answers = medidas.answer_logits(model, batch)
        nats = functional.cross_entropy(logits, answers, reduction="none")
        counts = (batch["labels"][:, 1:] != medidas.IGNORED).sum(1).tolist()
        scores[chosen] = [-part.sum().item() for part in nats.split(counts)]
        bar.update(len(chosen))
    bar.close()
    return scores.reshape(len(texts), len(labels))


def best(scores: numpy.ndarray, labels: list[str]) -> list[str]:
    return [labels[place] for place in scores.argmax(axis=1)]


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- com uma cabeça de classificação --------------------------------------------------------------


def head(
    train: list[dict], texts: list[str], labels: list[str], tokenizer: PreTrainedTokenizerBase,
    plan: antes_depois.Plan,
) -> dict:  # fmt: skip
    """Troca a saída do modelo por uma camada de `len(labels)` saídas, lida no último token."""
    medidas.fix_seeds(plan.seed)
    half = torch.bfloat16 if utils.gains_from_bf16() else torch.float32
    base = AutoModelForSequenceClassification.from_pretrained(
        plan.model, num_labels=len(labels), dtype=half, pad_token_id=tokenizer.pad_token_id
    )
    config = LoraConfig(r=plan.r, lora_alpha=2 * plan.r, target_modules="all-linear",
                        task_type="SEQ_CLS")  # fmt: skip
    model = get_peft_model(base, config).to(utils.device())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a cabeça nova veio na precisão da base
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels.index(r["label"])}
            for r, ids in zip(train, encoded(tokenizer, [r["text"] for r in train]),
                              strict=True)]  # fmt: skip
    collator = DataCollatorWithPadding(tokenizer)
    _, seconds = clocked(lambda: train_head(model, rows, collator, plan))
    predicted, answering = clocked(lambda: predict(model, tokenizer, texts, collator))
    return {"previstos": [labels[place] for place in predicted], "segundos_de_treino": seconds,
            "segundos_de_resposta": answering, "treinaveis": trainable(model)}  # fmt: skip


def encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer([PROMPT.format(text=t) for t in texts], add_special_tokens=False).input_ids


def train_head(model: PeftModel, rows: list[dict], collator, plan: antes_depois.Plan) -> None:
    steps = math.ceil(len(rows) / plan.label_batch_size * plan.head_epochs)
    new, adapter = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (adapter if "lora_" in name else new).append(parameter)
    groups = [{"params": adapter, "lr": plan.adapter_learning_rate},
              {"params": new, "lr": plan.head_learning_rate}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    batches = corrida.endless(medidas.SimilarLengths(rows, plan.label_batch_size, plan.seed))
    model.train()
    for _ in tqdm(range(steps), desc="Treinando (cabeça)", unit="passo", file=sys.stdout):
        batch = collator([rows[i] for i in next(batches)]).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=utils.gains_from_bf16()):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter + new, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


@torch.inference_mode()
def predict(model: PeftModel, tokenizer, texts: list[str], collator) -> list[int]:
    model.eval()
    found = []
    for start in range(0, len(texts), 32):
        ids = encoded(tokenizer, texts[start : start + 32])
        batch = collator([{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=utils.gains_from_bf16()):
            found += model(**batch.to(model.device)).logits.argmax(-1).tolist()
    return found


# --- o relatório ----------------------------------------------------------------------------------


def show(found: dict) -> None:
    """A tabela, a confusão do melhor e o que dá para concluir."""
    print(f"\n{found['treino']} mensagens de treino, {found['teste']} de teste, "
          f"{len(found['rotulos'])} assuntos\n")  # fmt: skip
    print(f"{'(intervalos de 95%)':<40}{'acurácia (%)':>20}{'macro-F1 (%)':>20}{'treino':>10}"
          f"{'resposta':>10}{'p':>8}")  # fmt: skip
    for name, entry in found["classificadores"].items():
        numbers = (f"{entry['segundos_de_treino']:>8.1f} s{entry['segundos_de_resposta']:>8.1f} s"
                   f"{entry['p_contra_tfidf']:>8.3f}").replace(".", ",")  # fmt: skip
        print(f"{name:<40}{medidas.show(entry['acuracia'], 1, 100):>20}"
              f"{medidas.show(entry['macro_f1'], 1, 100):>20}{numbers}")  # fmt: skip
    print("p: teste de McNemar contra o TF-IDF, nas mesmas mensagens\n\n" + verdict(found))
    print(f"\nconfusões de {found['melhor']}:")
    for true, row in zip(found["rotulos"], found["confusao_do_melhor"], strict=True):
        wrong = {found["rotulos"][i]: n for i, n in enumerate(row) if n and
                 found["rotulos"][i] != true}  # fmt: skip
        if wrong:
            text = ", ".join(f"{label} ({count})" for label, count in wrong.items())
            print(f"  {true} foi tido por {text}")


def verdict(found: dict) -> str:
    """O que os números medidos permitem dizer sobre pagar por um modelo de linguagem aqui."""
    classifiers = found["classificadores"]
    cheap = classifiers["TF-IDF + regressão logística"]
    lines = []
    for name, entry in classifiers.items():
        if not name.startswith("LLM") or not entry["segundos_de_treino"]:
            continue
        cost = (entry["segundos_de_treino"] + entry["segundos_de_resposta"]) / max(
            cheap["segundos_de_treino"], 1e-3
        )
        points = 100 * (entry["acuracia"]["valor"] - cheap["acuracia"]["valor"])
        if entry["p_contra_tfidf"] >= 0.05:
            judged = "a diferença pode ser acaso"
        else:
            judged = "a diferença não é acaso"
        lines.append(
            f"{name}: {points:+.1f} pontos sobre o TF-IDF ({judged}), por ".replace(".", ",")
            + f"{cost:.0f} vezes o tempo"
        )
    return "\n".join(lines)
