"""Compara a velocidade de treino: os padrões da TRL e cada mudança que adotamos, em cascata.

    python tests/benchmarks/train_speed.py [--examples 256] [--only LINHA] [data.output_dir=…]

Mesmos exemplos, mesmo número de passos, mesma máquina, um processo por linha. Mostra exemplos e
tokens reais (sem preenchimento) por segundo, sem contar o primeiro passo; que parte é, do que esta
máquina faz num produto de matrizes e nada mais, a conta que o treino não pode deixar de fazer; e a
perda de validação no fim, por resposta, que se compara mesmo entre tokens diferentes. Precisa dos
dados de data_prep.py e do modelo padrão. Leva de 10 a 20 minutos.

A perda em blocos da TRL já não é uma linha: desde a 1.16 é a que ela usa sem que se peça.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from comum.files import write_json

from apart import measured_apart, report

# Cada linha soma uma mudança às anteriores. As duas últimas trocas estão em loja_sql/model/trainer.
ROWS = {
    "padrões da TRL": {},
    "+ sem recálculo de ativações": {"gradient_checkpointing": False},
    "+ precisão que rende neste processador": {"precision": "auto"},
    "+ lotes de comprimento parecido": {"group_by_length": True},
    "+ camadas e perda de fused.py": {"fused": True},
    "+ menos tokens: prompt sem marcas de chat, SQL em tokens fundidos": {"short": True},
}
SIDE = 2048  # das matrizes do limite
VALIDATION = 64


def settings_of(row: str) -> dict:
    """As mudanças acumuladas até `row`."""
    settings: dict = {}
    for name, changes in ROWS.items():
        settings |= changes
        if name == row:
            return settings
    raise ValueError(row)


def measure(row: str, examples: int, output: str, overrides: list[str]) -> dict[str, float]:
    """Roda uma linha neste processo."""
    from loja_sql.config import load_config
    from loja_sql.model import tokens
    from loja_sql.model.callbacks import Progress
    from loja_sql.model.tokens import load_tokenizer
    from loja_sql.model.trainer import build_trainer, tokenized
    from loja_sql.questions import linking
    from loja_sql.questions.splits import load_split, training_rows

    settings = settings_of(row)
    precision = settings.get("precision", "fp32")
    chosen = {"output_dir": output, "epochs": 1.0, "eval_steps": 1000, "precision": precision}
    chosen = [f"training.{key}={value}" for key, value in chosen.items()]
    template = "plain" if settings.get("short") else "model"
    config = load_config(None, [*overrides, *chosen, f"prompt.template={template}"])
    tokenizer = load_tokenizer(config)
    known = training_rows(config)
    if settings.get("short"):
        queries = [row["sql"] for row in known]
        learned = tokens.learn_tokens(queries, tokenizer, config.model.merged_tokens)
        tokens.add_tokens(tokenizer, learned)
    context = linking.context(config)
    sets = [
        tokenized(config, tokenizer, rows, context)
        for rows in (known[:examples], load_split(config, "validation")[:VALIDATION])
    ]
    if settings.get("fused"):
        trainer = build_trainer(config, tokenizer, *sets)
        trainer.remove_callback(Progress)
    else:
        trainer = plain_trainer(config, tokenizer, *sets, settings)
    steps = timed_steps(trainer)
    trainer.train()
    rows, read, learned, seconds = (sum(column) for column in zip(*steps[1:], strict=True))
    answers = [sum(label != -100 for label in labels) for labels in sets[1]["labels"]]
    return {
        "examples_per_second": rows / seconds,
        "tokens_per_second": read / seconds,
        "flops": needed_flops(trainer.model, read, learned) / seconds,
        "answer_loss": trainer.evaluate()["eval_loss"] * sum(answers) / len(answers),
    }


def needed_flops(model, read: int, learned: int) -> float:
    """As operações de um LoRA em `read` tokens, `learned` deles na perda, sem contar a atenção.

    De cada peso congelado, duas na ida e duas na volta, que não calcula o gradiente dele; do LoRA,
    seis. A cabeça, que é a tabela de embeddings, só trabalha no que entra na perda.
    """
    frozen, head, adapter = 0, 0, 0
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            adapter += weight.numel() * (weight.ndim == 2)
        elif "embed_tokens" in name:
            head += weight.numel()
        else:
            frozen += weight.numel()
    return (4 * frozen + 6 * adapter) * read + 4 * head * learned


def limit(dtype_name: str) -> float:
    """FLOP/s de um produto de matrizes de lado `SIDE`: a mediana de dez."""
    from comum.models import clock, device

    import torch

    options = {"dtype": getattr(torch, dtype_name), "device": device()}
    left, right = torch.randn(2, SIDE, SIDE, **options).unbind()
    seconds = []
    for _ in range(13):
        start = clock()
        left @ right
        seconds.append(clock() - start)
    return 2 * SIDE**3 / statistics.median(seconds[3:])


def plain_trainer(config, tokenizer, train_set, validation_set, settings):
    """O SFTTrainer sem as nossas camadas, com as opções que a TRL traz e as de `settings`."""
    from comum.models import device, fix_seeds

    import torch
    from peft import LoraConfig
    from trl import SFTConfig

    from loja_sql.model.loading import load_model, precision
    from loja_sql.model.trainer import AnswerTrainer

    training = config.training
    fix_seeds(training.seed)
    options = {k: settings[k] for k in ("gradient_checkpointing",) if k in settings}
    if "precision" in settings:  # o padrão da TRL é o autocast em bf16, também onde ele é emulado
        options["bf16"] = precision(config) == torch.bfloat16
        options["fp16"] = precision(config) == torch.float16
    trainer = AnswerTrainer(
        model=load_model(config),
        args=SFTConfig(
            output_dir=training.output_dir,
            num_train_epochs=1,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=1,
            per_device_train_batch_size=training.batch_size,
            max_length=None,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=device().type == "cpu",
            data_seed=training.seed,
            **options,
        ),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            target_modules=config.lora.target_modules,
            task_type="CAUSAL_LM",
        ),
    )
    trainer.group_by_length = settings.get("group_by_length", False)
    return trainer


def timed_steps(trainer) -> list[tuple[int, int, int, float]]:
    """Uma lista que se enche, passo a passo, de (exemplos, tokens, tokens na perda, segundos)."""
    from comum.models import clock

    steps: list[tuple[int, int, int, float]] = []
    original = trainer.training_step

    def timed(model, inputs, *args, **kwargs):
        read, learned = inputs["attention_mask"].sum(), (inputs["labels"] != -100).sum()
        sizes = len(inputs["input_ids"]), int(read), int(learned)
        start = clock()
        loss = original(model, inputs, *args, **kwargs)
        steps.append((*sizes, clock() - start))
        return loss

    trainer.training_step = timed
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description="Velocidade de treino, mudança por mudança.")
    parser.add_argument("--examples", type=int, default=256, help="exemplos de treino por linha")
    only = {"choices": ROWS, "metavar": "LINHA", "help": "só esta, pelo nome (repete-se)"}
    parser.add_argument("--only", action="append", **only)
    parser.add_argument("--json", metavar="ARQUIVO", help="grava aqui também os números")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="chave=valor", help="ajustes avulsos")
    args = parser.parse_intermixed_args()
    if args.row:
        with tempfile.TemporaryDirectory() as output:
            report(measure(args.row, args.examples, output, args.overrides))
        return
    limits = {name: limit(name) for name in ("float32", "bfloat16")}
    shown = " e ".join(f"{value / 1e9:.0f} em {name}" for name, value in limits.items())
    print(f"Produto de matrizes de lado {SIDE}, em GFLOP/s: {shown}\n")
    titles = ("configuração", "exemplos/s", "vezes", "tokens/s", "do limite", "perda por resposta")
    print(f"| {' | '.join(titles)} |\n|---{'|---:' * 5}|")
    first, found, failed = None, {}, []
    for row in args.only or ROWS:
        result = measured_apart("--row", row)
        if isinstance(result, str):
            print(f"| {row} | falhou: {result} | | | | |")
            failed.append(f"{row}: {result}")
            continue
        found[row] = result
        speed = result["examples_per_second"]
        first = first or speed
        numbers = (
            f"{speed:.1f} | {speed / first:.1f}x | {result['tokens_per_second']:.0f} | "
            f"{result['flops'] / max(limits.values()):.0%} | {result['answer_loss']:.1f}"
        )
        print(f"| {row} | {numbers.replace('.', ',')} |", flush=True)
    if args.json:
        write_json(Path(args.json), found)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
