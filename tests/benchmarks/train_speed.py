"""Compara a velocidade de treino: os padrões da TRL e cada mudança que adotamos, em cascata.

    python tests/benchmarks/train_speed.py [--examples 80]

Mesmos exemplos, mesmo número de passos, mesma máquina, um processo por linha. Mostra tokens reais
(sem preenchimento) por segundo, sem contar o primeiro passo, e a perda de validação no fim. Precisa
dos dados de data_prep.py e do modelo padrão. Leva de 5 a 15 minutos.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PROJECT = (
    Path(__file__).resolve().parents[2]
    / "semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado"
)
# Cada linha soma uma mudança às anteriores.
ROWS = {
    "padrões da TRL": {},
    "+ sem recálculo de ativações": {"gradient_checkpointing": False},
    "+ precisão que rende neste processador": {"precision": "auto"},
    "+ perda em blocos da TRL (chunked_nll)": {"loss_type": "chunked_nll"},
    "+ lotes de mesmo comprimento": {"group_by_length": True},
    "+ camadas e perda de speed.py": {"fused": True},
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


def measure(row: str, examples: int) -> dict:
    """Roda uma linha neste processo."""
    import train
    from loja_sql.config import load_config
    from loja_sql.model.loading import device, load_model, load_tokenizer, uses_bf16
    from peft import LoraConfig
    from trl import SFTConfig

    settings = settings_of(row)
    output = "/tmp/bench_train_speed"
    precision = settings.pop("precision", "fp32")
    overrides = [f"training.output_dir={output}", "training.epochs=1.0",
                 "training.eval_steps=1000", f"training.precision={precision}"]  # fmt: skip
    config = load_config(None, overrides)
    tokenizer = load_tokenizer(config)
    schema = train.read_schema(config)
    train_set = train.tokenized(config, tokenizer, train.training_rows(config)[:examples], schema)
    held_out = train.load_split(config, "validacao")[:16]
    validation = train.tokenized(config, tokenizer, held_out, schema)
    settings.pop("spin", None)
    if settings.pop("fused", False):
        trainer = train.build_trainer(config, tokenizer, train_set, validation)
        trainer.remove_callback(train.Progress)
    else:
        training, lora = config.training, config.lora
        train.set_seed(training.seed)
        group_by_length = settings.pop("group_by_length", False)
        # A base em float32 treina com autocast bf16 (o padrão da TRL) até a linha da precisão.
        if precision == "auto":
            settings["bf16"] = uses_bf16(config)
        trainer = train.AnswerTrainer(
            model=load_model(config),
            args=SFTConfig(
                output_dir=output, num_train_epochs=1, learning_rate=training.learning_rate,
                lr_scheduler_type=training.lr_scheduler_type, warmup_steps=1,
                per_device_train_batch_size=training.batch_size, report_to="none",
                save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
                dataloader_pin_memory=False, use_cpu=device().type == "cpu",
                data_seed=training.seed,
                dataset_kwargs={"skip_prepare_dataset": True}, **settings,
            ),
            train_dataset=train_set,
            eval_dataset=validation,
            processing_class=tokenizer,
            data_collator=train.Collator(tokenizer.pad_token_id),
            peft_config=LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear",
                                   task_type="CAUSAL_LM"),
        )  # fmt: skip
        trainer.group_by_length = group_by_length
    timings: list[tuple[int, float]] = []
    original = trainer.training_step

    def timed(model, inputs, *args, **kwargs):
        tokens = int(inputs["attention_mask"].sum())
        start = time.perf_counter()
        loss = original(model, inputs, *args, **kwargs)
        timings.append((tokens, time.perf_counter() - start))
        return loss

    trainer.training_step = timed
    trainer.train()
    counted = timings[1:]
    speed = sum(n for n, _ in counted) / sum(s for _, s in counted)
    return {"tokens_por_segundo": speed, "perda_de_validacao": trainer.evaluate()["eval_loss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Velocidade de treino, mudança por mudança.")
    parser.add_argument("--examples", type=int, default=80, help="exemplos de treino por linha")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print("RESULTADO " + json.dumps(measure(args.row, args.examples)))
        return
    first = None
    print("| configuração | tokens/s | vezes | perda de validação |\n|---|---|---|---|")
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row, "--examples", str(args.examples)]
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_WAIT_POLICY": "PASSIVE"}
        environment["GOMP_SPINCOUNT"] = "20000" if settings_of(row).get("spin") else "0"
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [x for x in done.stdout.splitlines() if x.startswith("RESULTADO ")]
        if not lines:
            print(f"| {row} | falhou: {done.stderr.strip().splitlines()[-1]} | | |")
            continue
        result = json.loads(lines[0].removeprefix("RESULTADO "))
        speed = result["tokens_por_segundo"]
        first = first or speed
        loss = result["perda_de_validacao"]
        numbers = f"{speed:.0f} | {speed / first:.1f}x | {loss:.3f}".replace(".", ",")
        print(f"| {row} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
