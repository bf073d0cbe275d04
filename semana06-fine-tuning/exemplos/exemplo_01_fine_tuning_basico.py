"""Dia 3: o primeiro fine-tuning, com todos os pesos.

Você vai medir um modelo pequeno, treiná-lo com conversas do atendimento de uma loja, medi-lo de
novo com a mesma régua e ver o que ele ganhou e o que esqueceu.

    python semana06-fine-tuning/exemplos/exemplo_01_fine_tuning_basico.py --quick   # 1 minuto
    python semana06-fine-tuning/exemplos/exemplo_01_fine_tuning_basico.py           # 5 minutos
    python …/exemplo_01_fine_tuning_basico.py --model distilbert/distilgpt2         # outro modelo

O que olhar: o exemplo com a máscara (passo 3); a memória prevista e a medida (passo 5); as mesmas
perguntas antes e depois (passo 7). Ctrl-C durante o treino o encerra ali: o que já foi aprendido é
medido e salvo. Saídas: modelo em `modelos/dia3/` (com --quick, `dia3-curto/`), figura e JSON em
`resultados/`.
"""

import os
import time
from pathlib import Path

import matplotlib
import medidas
import plano_memoria
import torch
import utils  # antes do torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

SEED = 6
EPOCHS = 1
BATCH = 8
LEARNING_RATE = 2e-4  # todos os pesos se movem: vinte vezes menos que no LoRA do dia 4
EVAL_STEPS = 13  # quatro vezes nos 52 passos
PATIENCE = 2  # avaliações sem melhora até parar
QUICK = {"train": 24, "test": 12, "validation": 8, "new_tokens": 24, "steps": 3}
MODELS = utils.WEEK_DIR / "modelos"


def main() -> None:
    args = arguments()
    medidas.fix_seeds(SEED)
    sizes = QUICK if args.quick else dict.fromkeys(QUICK) | {"new_tokens": 90}

    utils.banner(1, "O ambiente")
    check_environment()

    utils.banner(2, f"O modelo: {args.model}")
    tokenizer = utils.load_tokenizer(args.model)
    model = utils.load_model(args.model)
    total = sum(p.numel() for p in model.parameters())
    print(f"{type(model).__name__}, {utils.thousands(total)} parâmetros, todos treináveis")
    print(f"fim da resposta: {tokenizer.eos_token!r}; preenchimento: {tokenizer.pad_token!r}")

    utils.banner(3, "Os dados, e um exemplo como o modelo o vê")
    train = utils.read_conversations(args.data / "atendimento_treino.jsonl", sizes["train"])
    validation = utils.read_conversations(
        args.data / "atendimento_validacao.jsonl", sizes["validation"]
    )
    test = utils.read_conversations(args.data / "atendimento_teste.jsonl", sizes["test"])
    train_set = Dataset.from_list([medidas.encode(tokenizer, m) for m in train])
    validation_set = Dataset.from_list([medidas.encode(tokenizer, m) for m in validation])
    print(f"{len(train)} conversas de treino, {len(validation)} de validação, {len(test)} de teste")
    show_mask(tokenizer, train_set[0])

    utils.banner(4, "Antes do treino")
    before = measure(model, tokenizer, test, sizes["new_tokens"], args.data)
    print_scores({"antes": before})

    utils.banner(5, "A memória de um passo: prever, depois conferir")
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)
    memory = check_memory(model, collator, train_set)

    utils.banner(6, "O treino")
    history, minutes = fine_tune(
        model, tokenizer, collator, train_set, validation_set, args, sizes["steps"]
    )

    utils.banner(7, "Depois do treino")
    after = measure(model, tokenizer, test, sizes["new_tokens"], args.data)
    side_by_side(before, after)
    print_scores({"antes": before, "depois": after})

    utils.banner(8, "Salvar, recarregar, conferir")
    check_reload(model, tokenizer, after, args.output, sizes["new_tokens"])

    name = "dia3_full" + ("_quick" if args.quick else "")
    figure = plot(name, history, memory)
    scores = {"antes": before["notas"], "depois": after["notas"]}
    path = utils.save_result(
        name,
        {
            "modelo": args.model, "semente": SEED, "minutos_de_treino": minutes,
            "configuracao": {"epochs": args.epochs, "batch_size": BATCH,
                             "learning_rate": args.learning_rate},
            "parametros": total, "metricas": scores, "memoria_mib": memory, "curva": history,
        },
    )  # fmt: skip
    print(f"Resultados: {path}\nFigura: {figure}")
    print("A seguir: o dia 4 faz o mesmo treino com LoRA, com menos de 4% dos parâmetros.")


def arguments():
    parser = utils.Parser(__doc__)
    parser.add_argument("--model", default=str(utils.DEFAULT_MODEL), metavar="PASTA_OU_NOME",
                        help="pasta ou nome no hub (padrão: o SmolLM2 preparado)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=utils.DATA_DIR, metavar="PASTA",
                        help="pasta com atendimento_*.jsonl")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="PASTA",
                        help="onde salvar o modelo treinado")  # fmt: skip
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passadas pelos dados")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--quick", action="store_true", help="o caminho inteiro em um minuto")
    args = parser.parse_args()
    # O curto não apaga o modelo inteiro, que o dia 5 quantiza.
    args.output = args.output or MODELS / ("dia3-curto" if args.quick else "dia3")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        parser.error("a lição treina num processo só; rode-a com python, sem torchrun")
    return args


def check_environment() -> None:
    for name, value in (utils.machine() | utils.library_versions()).items():
        print(f"{name:<14} {value}")
    print(f"{'bf16 rende':<14} {'sim' if utils.gains_from_bf16() else 'não'}")


def show_mask(tokenizer, row: dict) -> None:
    """Imprime os tokens do exemplo, marcando os que entram na perda."""
    hidden = [t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y < 0]
    learned = [y for y in row["labels"] if y >= 0]
    print(f"\nfora da perda ({len(hidden)} tokens): {tokenizer.decode(hidden)!r}")
    print(f"\nna perda ({len(learned)} tokens): {tokenizer.decode(learned)!r}")
    print("\nO último token da perda é o fim da resposta: sem ele o modelo não aprende a parar.")


def measure(model, tokenizer, test: list, new_tokens: int, data: Path) -> dict:
    """Notas no teste, respostas às perguntas fixas e perplexidade fora do domínio."""
    answers = medidas.greedy_answers(model, tokenizer, test, new_tokens)
    scores = medidas.answer_scores(model, tokenizer, test, BATCH)
    scores["bleu"] = medidas.bleu(answers, [messages[-1]["content"] for messages in test])
    for language in ("portugues", "ingles"):
        text = (data / f"fora_do_dominio_{language}.txt").read_text(encoding="utf-8")
        scores[f"fora_{language}"] = medidas.text_perplexity(model, tokenizer, text)
    fixed = medidas.answers_to(model, tokenizer, medidas.PROMPTS, new_tokens)
    return {"notas": scores, "respostas": fixed}


def check_memory(model, collator, train_set: Dataset) -> dict:
    batch = collator([train_set[i] for i in range(min(BATCH, len(train_set)))])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    tokens, answers = batch["input_ids"].numel(), int((batch["labels"] >= 0).sum())
    print(f"lote de {BATCH} conversas em float32: {tokens} tokens com o preenchimento, "
          f"{answers} deles na perda\n")  # fmt: skip
    predicted = plano_memoria.predict(model.config, "completo float32", tokens, answers)
    measured = plano_memoria.measure(model, batch)
    print(plano_memoria.comparison(predicted, measured))
    print("\nGradientes e otimizador custam três vezes os pesos: é o que o LoRA vai cortar.")
    return {"previsto": predicted, "medido": measured, "tokens": tokens}


class AnswerTrainer(Trainer):
    """O Trainer de sempre, mais rápido: logits só da resposta, lotes de comprimento parecido."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # `self.model` é o modelo sem os invólucros do accelerate: a lição treina num processo só.
        loss = medidas.answer_loss(self.model, inputs, mixed=utils.gains_from_bf16())
        return (loss, {}) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader:
        batches = medidas.SimilarLengths(self.train_dataset, BATCH, SEED)
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)


class Progress(ProgressCallback):
    """A barra do Trainer, com as perdas em português."""

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step % utils.RELEASE_EVERY == 0:
            utils.release_memory()

    def on_log(self, args, state, control, logs=None, **kwargs):
        names = {"loss": "perda", "eval_loss": "perda de validação"}
        for key in names.keys() & logs.keys():
            line = f"passo {state.global_step:>4}: {names[key]} {logs[key]:.3f}"
            self.training_bar.write(line.replace(".", ","))


def fine_tune(model, tokenizer, collator, train_set, validation_set, args, steps: int | None):
    """Treina no lugar; devolve (curva, minutos). Ctrl-C encerra o treino e fica o aprendido."""
    settings = TrainingArguments(
        output_dir=str(args.output / "checkpoints"),
        num_train_epochs=args.epochs,
        max_steps=steps or -1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(10, steps or 10),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        use_cpu=utils.device().type == "cpu",
        eval_strategy="steps",
        eval_steps=min(EVAL_STEPS, steps or EVAL_STEPS),
        save_strategy="best",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        load_best_model_at_end=True,
        save_only_model=True,
        save_total_limit=1,
        logging_steps=5,
        seed=SEED,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = AnswerTrainer(
        model=model, args=settings, train_dataset=train_set, eval_dataset=validation_set,
        processing_class=tokenizer, data_collator=collator,
        callbacks=[EarlyStoppingCallback(PATIENCE)],
    )  # fmt: skip
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    started = time.perf_counter()
    try:
        trainer.train()
    except KeyboardInterrupt:
        print(f"\nTreino encerrado no passo {trainer.state.global_step}; sigo com o aprendido.")
    minutes = (time.perf_counter() - started) / 60
    curve = [
        {key: log[key] for key in ("step", "loss", "eval_loss") if key in log}
        for log in trainer.state.log_history
        if "loss" in log or "eval_loss" in log
    ]
    print(f"{trainer.state.global_step} passos em {minutes:.1f} min".replace(".", ","))
    return curve, minutes


def side_by_side(before: dict, after: dict) -> None:
    answers = zip(medidas.PROMPTS, before["respostas"], after["respostas"], strict=True)
    for prompt, old, new in answers:
        print(f"\n> {prompt}\n  antes:  {' '.join(old.split())}\n  depois: {' '.join(new.split())}")


def print_scores(columns: dict[str, dict]) -> None:
    rows = (
        ("perplexidade por token", "perplexidade_token", 2, 1),
        ("perplexidade por byte", "perplexidade_byte", 3, 1),
        ("próximo token certo (%)", "acuracia_proximo_token", 1, 100),
        ("BLEU", "bleu", 1, 1),
        ("fora do domínio, português (por byte)", "fora_portugues", 3, 1),
        ("fora do domínio, inglês (por byte)", "fora_ingles", 3, 1),
    )
    print(f"\n{'(intervalos de 95%)':<40}" + "".join(f"{name:>26}" for name in columns))
    for label, key, decimals, scale in rows:
        cells = (medidas.show(c["notas"][key], decimals, scale) for c in columns.values())
        print(f"{label:<40}" + "".join(f"{cell:>26}" for cell in cells))
    print(f"assinatura do BLEU: {next(iter(columns.values()))['notas']['bleu']['assinatura']}")


def check_reload(model, tokenizer, after: dict, output: Path, new_tokens: int) -> None:
    """Grava, recarrega do disco e exige as mesmas respostas."""
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    reloaded = utils.load_model(str(output))
    answers = medidas.answers_to(reloaded, tokenizer, medidas.PROMPTS, new_tokens)
    same = answers == after["respostas"]
    size = sum(f.stat().st_size for f in output.glob("*.safetensors")) / plano_memoria.MIB
    print(f"{output}: {size:.0f} MiB; respostas iguais depois de recarregar: "
          f"{'sim' if same else 'NÃO'}")  # fmt: skip
    if not same:
        raise utils.UserError("o modelo recarregado responde diferente: o salvamento falhou.")


def plot(name: str, history: list[dict], memory: dict) -> Path:
    """Curva de perda e memória prevista contra medida, lado a lado."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for key, label in (("loss", "treino"), ("eval_loss", "validação")):
        points = [(log["step"], log[key]) for log in history if key in log]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", label=label)
    left.set(xlabel="passo", ylabel="perda (nats por token da resposta)", title="Treino")
    left.legend()
    names = list(memory["previsto"])
    for shift, which in ((-0.2, "previsto"), (0.2, "medido")):
        places = [i + shift for i in range(len(names))]
        right.bar(places, [memory[which][n] for n in names], width=0.4, label=which)
    right.set_xticks(range(len(names)), names)
    right.set(ylabel="MiB", title="Memória de um passo")
    right.legend()
    return utils.save_figure(figure, name)


if __name__ == "__main__":
    utils.run_main(main)
