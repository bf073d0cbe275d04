"""Treina o modelo que traduz perguntas em SQL: LoRA, QLoRA ou todos os pesos.

    python train.py                                 # completo (configs/base.yaml)
    python train.py --config configs/rapido.yaml    # o da demonstração
    python train.py --config configs/full.yaml      # todos os pesos (ou qlora.yaml: base em 4 bits)
    python train.py --resume                        # continua do último checkpoint
    accelerate launch --multi_gpu --num_processes 2 train.py    # em duas GPUs, ou dois processos

Antes do primeiro passo, uma auditoria mostra exemplos decodificados com o que entra na perda, e
para se algum exemplo não tiver resposta, não ensinar a parar ou for cortado. Ctrl-C grava um
checkpoint; `--resume` continua dele. Saídas em `training.output_dir`: adaptador (ou modelo),
configuração efetiva, `metrics.jsonl`, `curva.png` e `treino.json`.
"""

import importlib.util
import json
import math
import random
import signal
import sys
import time
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import torch
from accelerate import PartialState
from data_prep import VARIATION, load_split
from datasets import Dataset
from loja_sql.config import (
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    config_from_args,
    run_main,
    save_effective,
    trained_kind,
    write_atomic,
)
from loja_sql.model import fused as speed
from loja_sql.model.loading import device, load_model, load_tokenizer, uses_bf16
from loja_sql.model.memory import MemoryGrowth
from loja_sql.prompt import encode_pair
from loja_sql.sql.database import Database
from peft import LoraConfig
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

AUDIT_SHOWN = 2


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(description="Treina o modelo do mini-projeto.")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continua do último checkpoint")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)
    train(config, resume=args.resume)
    return 0


def train(config: Config, resume: bool = False) -> dict:
    """Treina e devolve o resumo gravado em `treino.json`."""
    check_tracking(config.training.tracking)
    checkpoint = _checkpoint(config, resume)
    set_seed(config.training.seed)
    tokenizer = load_tokenizer(config)
    schema = read_schema(config)
    train_rows = training_rows(config)
    validation_rows = load_split(config, "validacao")[: config.data.validation_size]
    train_set = tokenized(config, tokenizer, train_rows, schema)
    validation_set = tokenized(config, tokenizer, validation_rows, schema)
    processes = all_processes()
    shown = AUDIT_SHOWN if processes.is_main_process else 0
    audit(tokenizer, train_set, config.training.max_length, shown)
    audit(tokenizer, validation_set, config.training.max_length, shown=0)

    memory = MemoryGrowth()
    trainer = build_trainer(config, tokenizer, train_set, validation_set)
    if processes.is_main_process:
        save_effective(config, config.output_dir)
    tokens = sum(len(ids) for ids in train_set["input_ids"])
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    share = f"{100 * trainable / total:.1f}%".replace(".", ",")
    processes.print(
        f"Treino: {_dotted(len(train_set))} exemplos, {_dotted(tokens)} tokens por época; "
        f"{_dotted(trainable)} parâmetros treináveis de {_dotted(total)} ({share})."
    )
    memory.restart_peak()  # conta o modelo carregado, e não o pico de carregá-lo
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    elapsed = time.perf_counter() - started
    if trainer.interrupted:
        processes.print(
            f"\nInterrompido no passo {trainer.state.global_step}; o checkpoint está em "
            f"{config.output_dir}. Continue com: python train.py --resume (e os mesmos argumentos)."
        )
        raise KeyboardInterrupt
    peak = memory.peak()
    trainer.save_model(str(config.output_dir))
    tokens_seen = trainer.tokens_of_all_processes()
    summary = {
        "metodo": "qlora" if config.model.load_in_4bit else config.training.method,
        "passos": trainer.state.global_step,
        "minutos": elapsed / 60,
        "exemplos": len(train_set),
        "tokens_por_segundo": tokens_seen / elapsed,
        "tokens_vistos": tokens_seen,
        "memoria_bytes": peak,
        "processos": processes.num_processes,
        "parametros_treinaveis": trainable,
        "melhor_passo": _best_step(trainer),
        "melhor_perda_de_validacao": trainer.state.best_metric,
        "retomado": checkpoint is not None,
    }
    if not processes.is_main_process:
        return summary
    tokenizer.save_pretrained(config.output_dir)
    write_atomic(
        config.output_dir / "treino.json", json.dumps(summary, ensure_ascii=False, indent=2)
    )
    plot_curve(trainer.state.log_history, config.output_dir / "curva.png")
    print(
        f"Pronto em {summary['minutos']:.1f} min ({summary['tokens_por_segundo']:.0f} tokens/s). "
        f"Melhor perda de validação: {summary['melhor_perda_de_validacao']:.4f}, no passo "
        f"{summary['melhor_passo']}. Tudo em {config.output_dir}"
    )
    return summary


def all_processes() -> PartialState:
    """Os processos deste treino: um só, ou os que `accelerate launch` e `torchrun` abriram."""
    return PartialState(cpu=device().type == "cpu")


def _dotted(number: int) -> str:
    return f"{number:,}".replace(",", ".")


def check_tracking(name: str) -> None:
    """Recusa cedo um acompanhamento cuja biblioteca não está instalada."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"training.tracking={name}, mas a biblioteca não está instalada. Instale-a com "
            f"`python -m pip install {name}` ou use training.tracking=none."
        )


def _checkpoint(config: Config, resume: bool) -> str | None:
    folder, method = config.output_dir, config.training.method
    kind = trained_kind(folder)
    if kind not in (None, method):
        raise UserError(
            f"{folder} tem um treino de outro método ({kind}, e agora é {method}). "
            "Escolha outra pasta com training.output_dir=…"
        )
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if resume and found is None:
        raise UserError(f"não há checkpoint em {folder} de onde continuar; rode sem --resume.")
    if resume:
        return found
    if found is not None and not (folder / "treino.json").is_file():
        raise UserError(
            f"{folder} tem um treino interrompido. Continue-o com --resume, apague a pasta ou "
            "escolha outra com training.output_dir=…"
        )
    processes = all_processes()
    processes.wait_for_everyone()  # os outros ainda podem estar lendo o que se vai apagar
    if processes.is_main_process:
        (folder / "treino.json").unlink(missing_ok=True)
    return None


def read_schema(config: Config) -> str:
    """O esquema do banco, como texto SQL."""
    with Database(config.databases[0]) as bank:
        return bank.schema


def training_rows(config: Config) -> list[dict]:
    """As perguntas do treino: as escritas à mão e uma amostra das geradas, embaralhadas."""
    rows = load_split(config, "treino")
    generated = [r for r in rows if r["source"] == "gerada"][: config.data.generated_in_training]
    written = [r for r in rows if r["source"] not in ("gerada", VARIATION)]
    written = written[: config.data.curated_in_training]
    names = {r["id"] for r in written}
    varied = [r for r in rows if r["source"] == VARIATION and r["id"].rsplit("-v", 1)[0] in names]
    chosen = written + varied + generated
    random.Random(config.training.seed).shuffle(chosen)
    if not chosen:
        raise UserError(
            "nenhum exemplo de treino: aumente data.curated_in_training ou "
            "data.generated_in_training."
        )
    return chosen


def tokenized(config: Config, tokenizer, rows: list[dict], schema: str) -> Dataset:
    """Tokeniza e mascara: `labels` vale -100 no prompt e repete os tokens na resposta."""
    records = []
    for row in rows:
        prompt_ids, answer_ids = encode_pair(
            tokenizer, config, row["question"], row["sql"], schema
        )
        ids = prompt_ids + answer_ids
        records.append(
            {"input_ids": ids, "labels": [-100] * len(prompt_ids) + answer_ids, "length": len(ids)}
        )
    return Dataset.from_list(records)


def audit(tokenizer, dataset: Dataset, max_length: int, shown: int = AUDIT_SHOWN) -> None:
    """Mostra `shown` exemplos com a máscara e recusa dados que ensinariam errado.

    Raises:
        UserError: exemplo sem token supervisionado, sem fim de resposta ou longo demais.
    """
    for number, row in enumerate(dataset):
        supervised = [t for t in row["labels"] if t != -100]
        text = tokenizer.decode(row["input_ids"])
        problem = None
        if not supervised:
            problem = "não tem nenhum token na perda (resposta vazia ou toda mascarada)"
        elif supervised[-1] != tokenizer.eos_token_id:
            problem = "não ensina a parar: o último token da perda não é o fim da resposta"
        elif len(row["input_ids"]) > max_length:
            problem = (
                f"tem {len(row['input_ids'])} tokens e seria cortado em {max_length}; "
                "aumente training.max_length"
            )
        if problem:
            raise UserError(f"o exemplo {number} {problem}:\n{text}")
        if number < shown:
            hidden = tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"],
                                                         strict=True) if y == -100])  # fmt: skip
            print(f"Exemplo {number}, fora da perda: {hidden!r}")
            print(f"Exemplo {number}, na perda:      {tokenizer.decode(supervised)!r}")


class Collator:
    """Preenche à direita até o maior exemplo do lote; labels com -100."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])

        mask = [[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]
        return {
            "input_ids": padded("input_ids", self.pad_token_id),
            "attention_mask": torch.tensor(mask),
            "labels": padded("labels", -100),
        }


class LengthBatches(Sampler):
    """Ordem dos exemplos: cada lote tem comprimentos parecidos, e os lotes vêm embaralhados.

    O `group_by_length` do Trainer desfila os exemplos de cada bloco de 50 lotes do mais longo ao
    mais curto. Com o learning_rate alto do LoRA o modelo acompanha o desfile: medimos o dobro da
    perda logo depois dos lotes mais curtos.
    """

    POOL = 50  # lotes sorteados de uma vez; dentro deles os exemplos se juntam por comprimento

    def __init__(self, lengths: list[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Outra época, outra ordem; a mesma época, a mesma ordem, também depois de `--resume`."""
        self.epoch = epoch

    def __iter__(self):
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = rng.sample(range(len(self)), len(self))
        pool = self.POOL * self.batch
        blocks = [order[i : i + pool] for i in range(0, len(order), pool)]
        grouped = [i for block in blocks for i in sorted(block, key=self.lengths.__getitem__)]
        batches = [grouped[i : i + self.batch] for i in range(0, len(grouped), self.batch)]
        incomplete = [batches.pop()] if len(batches[-1]) < self.batch else []
        rng.shuffle(batches)
        return (i for batch in batches + incomplete for i in batch)


class AnswerTrainer(SFTTrainer):
    """SFTTrainer com a perda de `speed.answer_loss` e contagem dos tokens reais (sem pad)."""

    fused = False
    interrupted = False
    group_by_length = False
    tokens_seen = 0

    def _get_train_sampler(self, train_dataset: Dataset | None = None):
        if not self.group_by_length:
            return super()._get_train_sampler(train_dataset)
        # O lote de todos os processos: o accelerate dá a cada um a sua fatia.
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        batch *= self.args.world_size
        return LengthBatches(self.train_dataset["length"], batch, self.args.data_seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training:
            self.tokens_seen += int(inputs["attention_mask"].sum())
        if not self.fused or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = speed.answer_loss(model, inputs)
        # Com acumulação de gradiente, o divisor é o dos lotes somados: 1x8 tem de valer 8x1.
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if not (self.fused and prediction_loss_only):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss, None, None


    def tokens_of_all_processes(self) -> int:
        """Tokens reais que o treino viu, somados os processos."""
        seen = torch.tensor(self.tokens_seen, device=self.args.device)
        return int(self.accelerator.reduce(seen, reduction="sum"))


def build_trainer(config: Config, tokenizer, train_set: Dataset, validation_set: Dataset):
    """Monta o Trainer; as camadas rápidas entram quando o modelo e o aparelho as permitem."""
    training = config.training
    full = training.method == "full"
    model = load_model(config, dtype=torch.float32 if full else None)
    processes = all_processes().num_processes
    # Em vários processos, o DDP só sincroniza gradientes de quem passa pelo forward do modelo.
    fused = training.fused_layers and speed.supports(model) and processes == 1
    global_batch = training.batch_size * training.gradient_accumulation_steps * processes
    steps_per_epoch = math.ceil(len(train_set) / global_batch)
    steps = training.max_steps or math.ceil(steps_per_epoch * training.epochs)
    eval_steps = min(training.eval_steps, steps)
    arguments = SFTConfig(
        output_dir=str(config.output_dir),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=config.generation.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        warmup_steps=math.ceil(training.warmup_ratio * steps),
        lr_scheduler_type=training.lr_scheduler_type,
        max_length=None,
        # Com o LoRA, as camadas de speed.py já recebem e devolvem bf16; o autocast só repetiria
        # conversões. No treino completo os pesos ficam em float32, e as contas em bf16 são dele.
        bf16=uses_bf16(config) and (full or not fused),
        use_cpu=device().type == "cpu",
        gradient_checkpointing=training.gradient_checkpointing,
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=5,
        seed=training.seed,
        data_seed=training.seed,
        report_to=training.tracking,
        dataloader_pin_memory=torch.cuda.is_available(),
        run_name=config.output_dir.name,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id),
        peft_config=None if full else lora,
        callbacks=[
            EarlyStoppingCallback(training.early_stopping_patience),
            Progress(config.output_dir / "metrics.jsonl"),
        ],
    )
    trainer.group_by_length = training.group_by_length
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopOnInterrupt(trainer))
    if fused and device().type == "cpu" and uses_bf16(config):
        # Em bf16, a volta da atenção "sdpa" do torch em CPU leva o dobro da escrita por extenso.
        model.set_attn_implementation("eager")
    if fused:
        speed.accelerate_layers(trainer.model)
        trainer.fused = speed.supports_answer_loss(trainer.model)
    return trainer


class Progress(TrainerCallback):
    """Barra com tempo restante; cada medida vira uma linha em metrics.jsonl.

    Com vários processos, só o primeiro mostra e grava.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if state.global_step == 0:
            self.path.write_text("", encoding="utf-8")
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="Treinando", unit="passo",
            file=sys.stdout, mininterval=1,
        )  # fmt: skip

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        names = {"loss": "perda", "eval_loss": "validação"}
        self.shown |= {names[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in names}
        if self.bar is not None:
            self.bar.set_postfix(self.shown)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"passo": state.global_step, **(logs or {})}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C termina o passo, grava um checkpoint e para; um segundo Ctrl-C mata na hora."""

    def __init__(self, trainer: AnswerTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.previous = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        self.trainer.interrupted = True
        signal.signal(signal.SIGINT, self.previous)

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.interrupted:
            control.should_save = control.should_training_stop = True
            # Sem avaliação neste passo não há "melhor" a carregar no fim.
            args.load_best_model_at_end = False

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGINT, self.previous)


def _best_step(trainer: AnswerTrainer) -> int:
    best = trainer.state.best_model_checkpoint
    return int(best.rsplit("-", 1)[1]) if best else trainer.state.global_step


def plot_curve(history: list[dict], path: Path) -> None:
    """Perda de treino e de validação por passo, em PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for key, label in (("loss", "treino"), ("eval_loss", "validação")):
        points = [(h["step"], h[key]) for h in history if key in h]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o" if key == "eval_loss" else None,
                      label=label)  # fmt: skip
    axes.set(xlabel="passo", ylabel="perda (nats por token da resposta)", title="Curva de treino")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(run_main(main))
