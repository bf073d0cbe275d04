"""Dia 3: o primeiro fine-tuning, com todos os pesos.

Você vai medir um modelo pequeno, treiná-lo com conversas do atendimento de uma loja, medi-lo de
novo com a mesma régua e ver o que ele ganhou e o que esqueceu. O laço de treino está aqui, inteiro.

    python semana06-fine-tuning/exemplos/exemplo_01_fine_tuning_basico.py --quick   # 1 minuto
    python semana06-fine-tuning/exemplos/exemplo_01_fine_tuning_basico.py           # 5 a 10 minutos
    python …/exemplo_01_fine_tuning_basico.py --learning-rate 1e-3 --name lr_alto   # outra vez

O que olhar: o exemplo com a máscara (passo 3); a memória prevista e a medida (passo 5); as mesmas
perguntas antes e depois (passo 7). Ctrl-C durante o treino o encerra ali: o que já foi aprendido é
medido e salvo. Saídas: o modelo em `modelos/dia3/` (com --quick, `dia3-curto/`; com --name X,
`dia3-X/`); a figura e o JSON em `resultados/`.
"""

import argparse
import copy
import math
import os
import random
import sys
import time
from pathlib import Path

from comum import conversations
from comum.paths import DEFAULT_MODEL
from comum.terminal import Parser, UserError, above_zero, banner, progress, run_main, simple_name
from comum.tracking import TRACKERS, require, tracker

import utils

SEED = 6
LEARNING_RATE = 2e-4  # todos os pesos se movem: vinte vezes menos que no LoRA do dia 4
# Passos até o learning_rate inteiro: os primeiros gradientes são os mais brutos. A subida parte do
# zero, e um passo assim não ensina: num treino curto, ela é só um quinto dele.
WARMUP = 10
MAX_NORM = 1.0  # um gradiente maior que isto é encolhido: um lote estranho não estraga o modelo
EVAL_EVERY = 13  # passos; quatro vezes nos 52 de uma passada
PATIENCE = 2  # avaliações sem melhora até parar
RELEASE_EVERY = 5  # passos entre duas devoluções de memória ao sistema
QUICK = {"train": 24, "validation": 8, "test": 12, "new_tokens": 24}
FULL = {"train": None, "validation": None, "test": None, "new_tokens": 90}
SCORES = ["perplexity_token", "perplexity_byte", "next_token_accuracy", "bleu"]
SCORES += ["outside_portuguese", "outside_english"]  # o que o modelo sabia antes da loja


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", default=str(DEFAULT_MODEL), metavar="PASTA_OU_NOME", help="pasta ou nome no hub")
    add(
        "--data",
        type=Path,
        default=conversations.DATA_DIR,
        metavar="PASTA",
        help="de atendimento_*.jsonl e fora_do_dominio_*.txt",
    )
    add("--output", type=Path, metavar="PASTA", help="onde salvar o modelo treinado")
    add("--name", type=simple_name, metavar="NOME", help="guarda à parte o que esta vez produzir")
    add("--epochs", type=above_zero(float, 1000), default=1.0, help="passadas (padrão: 1)")
    add("--learning-rate", type=above_zero(float), default=LEARNING_RATE, help="(padrão: 2e-4)")
    add("--batch-size", type=above_zero(int), default=8, help="conversas por lote (padrão: 8)")
    add("--tracking", choices=TRACKERS, default="none", help="onde acompanhar o treino")
    add("--quick", action="store_true", help="o caminho inteiro em um minuto")
    args = parser.parse_args(argv)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        parser.error("a lição treina num processo só; rode-a com python, sem torchrun")
    args.output = utils.model_folder(3, args.quick, args.output, args.name)
    return args


if __name__ == "__main__":
    ARGS = arguments()  # antes dos imports pesados: --help responde na hora

from comum import files, memory, memory_plan, tables
from comum.labels import MEMORY, SPLITS
from comum.models import (
    PRECISIONS,
    compute_dtype,
    fix_seeds,
    grad_scaler,
    load_model,
    load_tokenizer,
)
from comum.numbers import MIB, decimal
from comum.results import CurvePoint, Day3, MemoryParts, Score, library_versions, machine
from comum.scoring import answer_scores, text_perplexity
from comum.statistics import bleu
from comum.template import chat_text
from comum.training import DIVERGED, IGNORED, answer_loss, pad, similar_lengths

import torch
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

Row = dict[str, list[int]]  # input_ids, attention_mask e labels de uma conversa


def main(args: argparse.Namespace) -> None:
    require(args.tracking)
    files.check_output(args.output, "config.json")
    fix_seeds(SEED)
    sizes = QUICK if args.quick else FULL

    banner(1, "O ambiente")
    show_environment()

    banner(2, f"O modelo: {args.model}")
    tokenizer, model = load_tokenizer(args.model), load_model(args.model)
    total = sum(p.numel() for p in model.parameters())
    print(f"{type(model).__name__}, {decimal(total)} parâmetros, todos treináveis")
    print(f"fim da resposta: {tokenizer.eos_token!r}; preenchimento: {tokenizer.pad_token!r}")

    banner(3, "Os dados, e um exemplo como o modelo o vê")
    texts = read_parts(args.data, sizes)
    rows = {part: [mask(tokenizer, m) for m in found] for part, found in texts.items()}
    show_example(tokenizer, model, rows["train"][0])

    banner(4, "Antes do treino")
    before, old_answers = measure(model, tokenizer, texts["test"], rows["test"], args, sizes)
    tables.scores({"antes": before}, SCORES)

    banner(5, "A memória de um passo: prever, depois conferir")
    batch = batch_of(rows["train"][: args.batch_size], tokenizer, model)
    predicted, measured = check_memory(model, batch)

    banner(6, "O treino")
    curve, minutes = fine_tune(model, tokenizer, rows["train"], rows["validation"], args)

    banner(7, "Depois do treino")
    after, new_answers = measure(model, tokenizer, texts["test"], rows["test"], args, sizes)
    show_answers(old_answers, new_answers)
    tables.scores({"antes": before, "depois": after}, SCORES)
    print(f"assinatura do BLEU: {after['bleu'].signature}")

    banner(8, "Salvar, recarregar, conferir")
    check_reload(model, tokenizer, new_answers, args.output, sizes["new_tokens"])

    name = utils.result_name("dia3_full", args.quick, args.name)
    print(f"\nFigura: {plot(name, curve, predicted, measured)}")
    result = Day3(
        model=args.model,
        seed=SEED,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        parameters=total,
        train_minutes=minutes,
        before=before,
        after=after,
        memory_tokens=batch["input_ids"].numel(),
        memory_predicted=predicted,
        memory_measured=measured,
        curve=curve,
    )
    print("Sua vez: python semana06-fine-tuning/exercicios/conferir.py dia3")
    print("A seguir: o dia 4 faz o mesmo treino com LoRA, com menos de 4% dos parâmetros.")
    result.announce(name)


def show_environment() -> None:
    """O que decide o tempo e o último bit dos números: máquina, versões e precisão."""
    here = machine()
    print(f"{here.system}; {here.processor}; GPU: {here.gpu or 'nenhuma'}")
    print("; ".join(f"{name} {version}" for name, version in library_versions().items()))
    print(f"contas do treino em {PRECISIONS[compute_dtype()]}; os pesos, em float32")


# --- o que entra na perda -----------------------------------------------------------------------
def read_parts(folder: Path, sizes: dict) -> dict[str, list[conversations.Messages]]:
    """As conversas de treino, de validação e de teste, no máximo `sizes` de cada."""
    names = {"train": "treino", "validation": "validacao", "test": "teste"}
    paths = {part: folder / f"atendimento_{name}.jsonl" for part, name in names.items()}
    found = {p: conversations.read_conversations(path, sizes[p]) for p, path in paths.items()}
    print(", ".join(f"{len(texts)} de {SPLITS[part]}" for part, texts in found.items()))
    return found


def mask(tokenizer, messages: conversations.Messages) -> Row:
    """A conversa em tokens, e nos rótulos só o que o modelo deve aprender a escrever.

    `labels[t]` é o próprio token na resposta e no fim dela, e -100 no resto: é o número que a
    entropia cruzada do torch pula.
    """
    prompt = conversations.prompt_of(tokenizer, messages)
    full = chat_text(tokenizer, conversations.with_system(messages))
    # O template põe um \n depois do fim da resposta. Na hora de responder, o modelo para no fim;
    # ensinar o que vem depois seria gastar perda com o que ninguém vai gerar.
    answer = full[len(prompt) :].rstrip("\n")
    # As duas partes são tokenizadas em separado: juntas, um token poderia cair na emenda, metade
    # pergunta e metade resposta. O template já escreveu as marcas: sem add_special_tokens.
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids = tokenizer(answer, add_special_tokens=False).input_ids
    row = {
        "input_ids": prompt_ids + answer_ids,
        "attention_mask": [1] * (len(prompt_ids) + len(answer_ids)),
        # A pergunta fica fora da perda: o cliente a escreve, o modelo só a lê.
        "labels": [IGNORED] * len(prompt_ids) + answer_ids,
    }
    # A mesma conta existe pronta, para os outros dias; se divergir, algo está errado.
    if row != conversations.encode(tokenizer, messages):
        raise UserError("a máscara escrita à mão difere da de comum.training; veja `mask`.")
    return row


def show_example(tokenizer, model, row: Row) -> None:
    """Uma conversa com o template, os tokens em volta da emenda, a máscara e a perda à mão."""
    print(f"\ncom o template:\n{tokenizer.decode(row['input_ids'])}")
    start = row["labels"].count(IGNORED)
    print(f"\nfora da perda: {start} tokens; na perda: {len(row['labels']) - start}")
    # O rótulo é o próprio token: quem anda uma casa é a perda (a posição t prevê t + 1).
    places = range(len(row["labels"]))
    for place in dict.fromkeys([*places[start - 3 : start + 3], *places[-2:]]):
        token, label = row["input_ids"][place], row["labels"][place]
        print(f"  token {token:>6} {tokenizer.decode([token])!r:<16} rótulo {label:>6}")
    print("O último da perda é o fim da resposta: sem ele o modelo não aprende a parar.")

    batch = batch_of([row], tokenizer, model)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"]).logits[0]
        by_hand = functional.cross_entropy(logits[:-1].float(), batch["labels"][0, 1:])
        # A pronta não calcula os logits da pergunta, que a perda ignora: metade do tempo.
        ready = answer_loss(model, batch)
    print(
        f"perda desta conversa: {decimal(by_hand.item(), 4)} à mão, "
        f"{decimal(ready.item(), 4)} em comum.training"
    )


def batch_of(rows: list[Row], tokenizer, model) -> dict[str, torch.Tensor]:
    """Um lote [conversas, comprimento] no dispositivo do modelo.

    O preenchimento tem rótulo -100 e atenção 0: nem se aprende, nem se olha para ele.
    """
    batch = pad(rows, tokenizer.pad_token_id)
    return {key: tensor.to(model.device) for key, tensor in batch.items()}


# --- medir --------------------------------------------------------------------------------------
def measure(model, tokenizer, texts, rows, args, sizes) -> tuple[dict[str, Score], list[str]]:
    """Notas no teste e fora do domínio, e as respostas às perguntas fixas."""
    expected = [messages[-1]["content"] for messages in texts]
    scores = answer_scores(model, tokenizer, rows, expected, args.batch_size)
    prompts = [conversations.prompt_of(tokenizer, messages) for messages in texts]
    answers = conversations.greedy_answers(model, tokenizer, prompts, sizes["new_tokens"])
    scores["bleu"] = bleu(answers, expected)
    # Quem só aprende a loja esquece o resto? Dois textos que nada têm com ela dizem.
    for language, file in (("portuguese", "portugues"), ("english", "ingles")):
        text = files.read_text(args.data / f"fora_do_dominio_{file}.txt")
        scores[f"outside_{language}"] = text_perplexity(model, tokenizer, text)
    fixed = conversations.fixed_prompts(tokenizer)
    return scores, conversations.greedy_answers(model, tokenizer, fixed, sizes["new_tokens"])


def show_answers(before: list[str], after: list[str]) -> None:
    """As perguntas fixas, cada uma com as duas respostas."""
    for prompt, *answers in zip(conversations.PROMPTS, before, after, strict=True):
        old, new = (" ".join(answer.split()) for answer in answers)
        print(f"\n> {prompt}\n  antes:  {old}\n  depois: {new}")


def check_memory(model, batch: dict[str, torch.Tensor]) -> tuple[MemoryParts, MemoryParts]:
    """A memória de um passo: por aritmética, e medida."""
    tokens, answers = batch["input_ids"].numel(), int((batch["labels"] != IGNORED).sum())
    print(
        f"lote de {len(batch['input_ids'])} conversas em float32: {tokens} tokens com o "
        f"preenchimento, {answers} deles na perda\n"
    )
    weights = sum(p.numel() for p in model.parameters())
    # float32 são 4 bytes: uma vez o peso, uma o gradiente, duas o Adam (média e variância).
    print(f"pesos: 4 x {decimal(weights)} bytes; gradientes, o mesmo; otimizador, o dobro")
    predicted = memory_plan.predict(model.config, "full float32", tokens, answers)
    measured = memory.measure_step(model, batch, answer_loss)
    memory_plan.show_comparison(predicted, measured)
    print("\nGradientes e otimizador custam três vezes os pesos: é o que o LoRA vai cortar.")
    return predicted, measured


# --- treinar ------------------------------------------------------------------------------------
def fine_tune(model, tokenizer, train: list[Row], validation: list[Row], args):
    """Treina no lugar; devolve (curva, minutos). Ctrl-C encerra o treino e fica o aprendido."""
    per_epoch = math.ceil(len(train) / args.batch_size)
    steps = max(1, math.ceil(per_epoch * args.epochs))
    # O AdamW dá a cada peso um passo do tamanho do gradiente dividido pelo tamanho típico dele.
    # weight_decay 0: em poucas centenas de passos, puxar os pesos para zero só desfaz o pré-treino.
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, steps // 5), steps)
    scaler = grad_scaler()  # só age em fp16, nas GPUs sem bf16
    batches = endless_batches(train, args.batch_size)
    log, close = tracker(args.tracking, args.output.name)
    curve, recent, best, worse = [], [], (math.inf, None), 0
    started = time.perf_counter()
    bar = progress(range(1, steps + 1), "Treinando", "passo")
    try:
        for step in bar:
            model.train()  # liga o dropout, nos modelos que o têm
            batch = batch_of([train[i] for i in next(batches)], tokenizer, model)
            loss = answer_loss(model, batch, mixed=True)  # ida: a surpresa de cada token certo
            scaler.scale(loss).backward()  # volta: para que lado cada peso a diminui
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            scaler.step(optimizer)  # anda esse tanto
            scaler.update()
            scheduler.step()  # e o learning_rate do próximo passo desce um pouco
            # Sem isto, o gradiente deste lote se somaria ao do próximo.
            optimizer.zero_grad()
            recent.append(loss.item())  # só o número: guardar `loss` guardaria o grafo
            if not math.isfinite(recent[-1]):  # daqui em diante todo peso seria nan
                raise UserError(f"no passo {step}, {DIVERGED}")
            log({"loss": recent[-1]}, step)
            if step % RELEASE_EVERY == 0 or step == steps:
                memory.release()
                curve.append(CurvePoint(step=step, loss=sum(recent) / len(recent)))
                bar.set_postfix_str(f"perda {decimal(curve[-1].loss, 3)}")
                recent.clear()
            if step % EVAL_EVERY and step != steps:
                continue
            # A perda de treino sempre cai; quem diz se o modelo decora é a de validação.
            held_out = validation_loss(model, tokenizer, validation, args.batch_size)
            curve.append(CurvePoint(step=step, eval_loss=held_out))
            log({"eval_loss": held_out}, step)
            bar.write(f"passo {step:>4}: perda de validação {decimal(held_out, 3)}")
            worse = 0 if held_out < best[0] else worse + 1
            if not worse:
                # Uma cópia: o state_dict aponta para os pesos, que continuam mudando.
                best = (held_out, copy.deepcopy(model.state_dict()))
            elif worse == PATIENCE:
                bar.write(f"{PATIENCE} avaliações sem melhora: paro aqui.")
                break
        if best[1] is None:
            raise UserError(f"na validação, {DIVERGED}")
        model.load_state_dict(best[1])  # o melhor que se viu, e não o último
    except KeyboardInterrupt:
        print(f"\nTreino encerrado no passo {step}; sigo com o aprendido.")
    minutes = (time.perf_counter() - started) / 60
    bar.close()
    close()
    print(f"{step} passos em {decimal(minutes, 1)} min")
    return curve, minutes


def endless_batches(rows: list[Row], size: int):
    """Lotes de conversas de comprimento parecido, passada após passada, cada uma sorteada."""
    # Um gerador só deste sorteio: a ordem dos dados não muda se outra parte sortear algo.
    rng = random.Random(SEED)
    while True:
        yield from similar_lengths([len(row["input_ids"]) for row in rows], size, rng)


@torch.inference_mode()
def validation_loss(model, tokenizer, rows: list[Row], size: int) -> float:
    """A perda média das conversas reservadas, que o treino não vê."""
    model.eval()  # sem dropout: a mesma pergunta, a mesma nota
    total = 0.0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        total += answer_loss(model, batch_of(part, tokenizer, model), True).item() * len(part)
    return total / len(rows)


# --- salvar e desenhar ---------------------------------------------------------------------------
def check_reload(model, tokenizer, answers: list[str], output: Path, new_tokens: int) -> None:
    """Grava, recarrega do disco e exige as mesmas respostas."""
    with files.building(output, "config.json") as folder:  # a antiga vale até a nova acabar
        model.save_pretrained(folder)  # safetensors e config.json
        tokenizer.save_pretrained(folder)  # sem ele, ninguém sabe com que template o modelo treinou
    reloaded, tokenizer = load_model(str(output)), load_tokenizer(str(output))
    prompts = conversations.fixed_prompts(tokenizer)
    same = conversations.greedy_answers(reloaded, tokenizer, prompts, new_tokens) == answers
    size, answered = decimal(files.weights_bytes(output) / MIB), "sim" if same else "NÃO"
    print(f"{output}: {size} MiB; respostas iguais depois de recarregar: {answered}")
    if not same:
        raise UserError("o modelo recarregado responde diferente: o salvamento falhou.")


def plot(name: str, curve: list[CurvePoint], predicted: MemoryParts, measured: MemoryParts) -> Path:
    """Curva de perda e memória prevista contra medida, lado a lado."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    for key, label in (("loss", "treino"), ("eval_loss", "validação")):
        points = [(p.step, getattr(p, key)) for p in curve if getattr(p, key) is not None]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", label=label)
    left.set(xlabel="passo", ylabel="perda (nats por token da resposta)", title="Treino")
    for shift, parts, label in ((-0.2, predicted, "prevista"), (0.2, measured, "medida")):
        heights = [getattr(parts, key) for key in MEMORY]
        right.bar([place + shift for place in range(4)], heights, width=0.4, label=label)
    right.set_xticks(range(4), MEMORY.values())
    right.set(ylabel="MiB", title="Memória de um passo")
    for axes in (left, right):
        axes.legend()
    return utils.save_figure(figure, name)


if __name__ == "__main__":
    sys.exit(run_main(main, ARGS))
