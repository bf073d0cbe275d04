"""Compara a velocidade de treino: os padrões da TRL e cada mudança que adotamos, em cascata.

    python tests/benchmarks/train_speed.py [--examples 80] [data.output_dir=…]

Mesmos exemplos, mesmo número de passos, mesma máquina, um processo por linha. Mostra tokens reais
(sem preenchimento) por segundo, sem contar o primeiro passo, e a perda de validação no fim. Precisa
dos dados de data_prep.py e do modelo padrão. Leva de 5 a 15 minutos.

A perda em blocos da TRL já não é uma linha: desde a 1.16 é a que ela usa sem que se peça.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "semana06-fine-tuning"
PROJECT = ROOT / "mini-projeto" / "mini_projeto_fine_tuning_especializado"
# Cada linha soma uma mudança às anteriores. As duas últimas trocas estão em loja_sql/model/trainer.
ROWS = {
    "padrões da TRL": {},
    "+ sem recálculo de ativações": {"gradient_checkpointing": False},
    "+ precisão que rende neste processador": {"precision": "auto"},
    "+ lotes de comprimento parecido": {"group_by_length": True},
    "+ camadas e perda de fused.py": {"fused": True},
    "+ espera ativa curta (GOMP_SPINCOUNT)": {"spin": True},
}


def settings_of(row: str) -> dict:
    """As mudanças acumuladas até `row`."""
    settings: dict = {}
    for name, changes in ROWS.items():
        settings |= changes
        if name == row:
            return settings
    raise ValueError(row)


def measure(row: str, examples: int, output: str, overrides: list[str]) -> dict:
    """Roda uma linha neste processo."""
    from comum.models import load_tokenizer

    from loja_sql.config import load_config
    from loja_sql.model.callbacks import Progress
    from loja_sql.model.trainer import build_trainer, tokenized
    from loja_sql.questions import linking
    from loja_sql.questions.splits import load_split, training_rows

    settings = settings_of(row)
    precision = settings.get("precision", "fp32")
    chosen = {"output_dir": output, "epochs": 1.0, "eval_steps": 1000, "precision": precision}
    chosen = [f"training.{key}={value}" for key, value in chosen.items()]
    config = load_config(None, [*overrides, *chosen])
    tokenizer = load_tokenizer(config.model_path)
    context = linking.context(config)
    sets = [
        tokenized(config, tokenizer, rows, context)
        for rows in (training_rows(config)[:examples], load_split(config, "validation")[:16])
    ]
    if settings.get("fused"):
        trainer = build_trainer(config, tokenizer, *sets)
        trainer.remove_callback(Progress)
    else:
        trainer = plain_trainer(config, tokenizer, *sets, settings)
    timings = timed_steps(trainer)
    trainer.train()
    tokens, seconds = (sum(column) for column in zip(*timings[1:], strict=True))
    return {"tokens_per_second": tokens / seconds, "eval_loss": trainer.evaluate()["eval_loss"]}


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


def timed_steps(trainer) -> list[tuple[int, float]]:
    """Uma lista que se enche, passo a passo, de (tokens reais, segundos)."""
    timings: list[tuple[int, float]] = []
    original = trainer.training_step

    def timed(model, inputs, *args, **kwargs):
        tokens = int(inputs["attention_mask"].sum())
        start = time.perf_counter()
        loss = original(model, inputs, *args, **kwargs)
        timings.append((tokens, time.perf_counter() - start))
        return loss

    trainer.training_step = timed
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description="Velocidade de treino, mudança por mudança.")
    parser.add_argument("--examples", type=int, default=80, help="exemplos de treino por linha")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="chave=valor", help="ajustes avulsos")
    args = parser.parse_intermixed_args()
    if args.row:
        with tempfile.TemporaryDirectory() as output:
            print(
                "RESULTADO " + json.dumps(measure(args.row, args.examples, output, args.overrides))
            )
        return
    first = None
    print("| configuração | tokens/s | vezes | perda de validação |\n|---|---|---|---|")
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row, "--examples", str(args.examples)]
        command += args.overrides
        spin = "20000" if settings_of(row).get("spin") else "0"
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "GOMP_SPINCOUNT": spin}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTADO ")]
        if not lines:
            print(f"| {row} | falhou: {done.stderr.strip().splitlines()[-1]} | | |")
            continue
        result = json.loads(lines[0].removeprefix("RESULTADO "))
        speed = result["tokens_per_second"]
        first = first or speed
        numbers = f"{speed:.0f} | {speed / first:.1f}x | {result['eval_loss']:.3f}"
        print(f"| {row} | {numbers.replace('.', ',')} |", flush=True)


if __name__ == "__main__":
    main()
