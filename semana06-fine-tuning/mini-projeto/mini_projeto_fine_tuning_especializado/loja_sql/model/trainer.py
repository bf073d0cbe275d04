"""O treino: LoRA, QLoRA ou todos os pesos, pelo SFTTrainer da TRL.

A TRL põe o LoRA sobre a base, faz os lotes e o laço, grava os checkpoints e volta de um deles. Ao
lado do que se troca aqui (a ordem dos lotes, as camadas e a perda) está a linha de
tests/benchmarks/train_speed.py que mede quanto a troca rende.
"""

import math
import random
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain

from comum import tracking
from comum.files import write_json
from comum.memory import MemoryGrowth
from comum.models import PRECISIONS, check_targets, device, fix_seeds, linears_of, train_in_float32
from comum.numbers import decimal, general, percent
from comum.results import TrainingSummary
from comum.sft import use_cheaper_attention
from comum.terminal import UserError
from comum.training import IGNORED, lora_rates, masked, recomputes_activations, similar_lengths

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from loja_sql.config import Config, save_effective
from loja_sql.model import fused, run_folder, tokens
from loja_sql.model.callbacks import Checkpoints, Progress, plot_curve
from loja_sql.model.loading import load_model, precision
from loja_sql.model.summary import SUMMARY, WORK, read_summary
from loja_sql.prompt import Context, encode_pair
from loja_sql.questions import linking

AUDIT_SHOWN = 2
POOL = 50  # lotes sorteados de uma vez; dentro deles os exemplos se juntam por comprimento
TOGETHER = 2048  # tokens de cada vez, num processador: com mais, só a memória cresce


def train(
    config: Config, rows: list[dict], validation: list[dict], resume: bool = False
) -> TrainingSummary:
    """Treina em `rows` (`question`, `sql`) e devolve o resumo que deixa em `training.json`.

    Raises:
        UserError: os dados ensinariam errado, ou a pasta de saída não serve.
        KeyboardInterrupt: Ctrl-C, depois de gravar um checkpoint.
    """
    tracking.require(config.training.tracking)
    context = linking.context(config)
    processes, output = all_processes(), config.output_dir
    with run_folder.locked(output) if processes.is_main_process else nullcontext():
        begun = (None, None)
        if processes.is_main_process:
            run = run_folder.new_run(config, rows, validation, processes.num_processes)
            begun = run_folder.begin(output, run, resume)
        run, checkpoint = broadcast_object_list(list(begun))
        if run.finished and checkpoint is None:
            processes.print(f"O treino em {output} já tinha acabado; não mexi em nada.")
            if (summary := read_summary(output)) is None:
                raise UserError(f"falta {output / SUMMARY}: apague a pasta e treine de novo.")
            return summary
        memory = MemoryGrowth()
        trainer = _prepared(config, rows, validation, context)
        trainer.checkpoints = Checkpoints(output, run, trainer.progress)
        trainer.add_callback(trainer.checkpoints)
        processes.print(trainer.announcement())
        memory.restart_peak()  # conta o modelo carregado, e não o pico de carregá-lo
        with run_folder.writing(output, trainer.trainable_bytes()):
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            if trainer.progress.interrupted:
                processes.print(
                    f"\nInterrompido no passo {trainer.state.global_step}; o checkpoint está em "
                    f"{output}. Continue com: python train.py --resume (e os mesmos argumentos)."
                )
                raise KeyboardInterrupt
            return _handed_over(config, trainer, memory.peak())


def _prepared(
    config: Config, rows: list[dict], validation: list[dict], context: Context
) -> "AnswerTrainer":
    """O Trainer com os dados já conferidos."""
    fix_seeds(config.training.seed)
    tokenizer = tokens.load_tokenizer(config)
    if config.model.merged_tokens:
        queries = [row["sql"] for row in rows]
        count = config.model.merged_tokens
        tokens.add_tokens(tokenizer, tokens.learn_tokens(queries, tokenizer, count))
    sets = [tokenized(config, tokenizer, found, context) for found in (rows, validation)]
    shown = AUDIT_SHOWN * all_processes().is_main_process
    for dataset, count in zip(sets, (shown, 0), strict=True):
        audit(tokenizer, dataset, config.training.max_length, count)
    return build_trainer(config, tokenizer, *sets)


def _handed_over(config: Config, trainer: "AnswerTrainer", memory: int | None) -> TrainingSummary:
    """Grava à parte tudo o que se entrega, entrega de uma vez e devolve o resumo."""
    method = "qlora" if config.model.load_in_4bit else config.training.method
    summary = trainer.summary(method, memory)
    work = config.output_dir / WORK
    trainer.save_model(str(work))
    if all_processes().is_main_process:
        trainer.processing_class.save_pretrained(work)
        save_effective(config, work)
        write_json(work / SUMMARY, summary.model_dump())
        plot_curve(trainer.state.log_history, work / "curva.png")
        run_folder.hand_over(config.output_dir, trainer.checkpoints.run)
    return summary


def all_processes() -> PartialState:
    """Os processos deste treino: um só, ou os que `accelerate launch` e `torchrun` abriram."""
    return PartialState(cpu=device().type == "cpu")


def needs_forward() -> bool:
    """Diz se o treino tem de passar pelo forward do modelo inteiro, que fused.py contorna.

    É nele que o DDP combina os gradientes de vários processos e que o FSDP, mesmo num processo só,
    junta os pesos divididos.
    """
    return all_processes().num_processes > 1 or parse_flag_from_env("ACCELERATE_USE_FSDP")


def tokenized(
    config: Config, tokenizer: PreTrainedTokenizerBase, rows: list[dict], context: Context
) -> Dataset:
    """Tokeniza e mascara: `labels` vale -100 no prompt e repete os tokens na resposta.

    O SFTTrainer faria isto a partir das mensagens, mas ensinaria também a quebra de linha que o
    template põe depois do fim da resposta, e que o modelo nunca chega a escrever.
    """
    pairs = [(row["question"], row["sql"]) for row in rows]
    # Um exemplo que entra mais de uma vez na passada se monta uma.
    made = {p: masked(*encode_pair(tokenizer, config, *p, context)) for p in dict.fromkeys(pairs)}
    return Dataset.from_list([made[pair] for pair in pairs])


def audit(
    tokenizer: PreTrainedTokenizerBase, dataset: Dataset, max_length: int, shown: int = 0
) -> None:
    """Mostra `shown` exemplos com a máscara e recusa dados que ensinariam errado.

    Raises:
        UserError: exemplo sem token supervisionado, sem fim de resposta ou longo demais.
    """
    for number, row in enumerate(dataset):
        ids, labels = row["input_ids"], row["labels"]
        learned = [label for label in labels if label != IGNORED]
        problem = None
        if not learned:
            problem = "não tem nenhum token na perda (resposta vazia ou toda mascarada)"
        elif learned[-1] != tokenizer.eos_token_id:
            problem = "não ensina a parar: o último token da perda não é o fim da resposta"
        elif len(ids) > max_length:
            limit = f"{max_length}; aumente training.max_length"
            problem = f"tem {len(ids)} tokens e seria cortado em {limit}"
        if problem:
            raise UserError(f"o exemplo {number} {problem}:\n{tokenizer.decode(ids)}")
        if number < shown:
            hidden = [token for token, label in zip(ids, labels, strict=True) if label == IGNORED]
            print(f"Exemplo {number}, fora da perda: {tokenizer.decode(hidden)!r}")
            print(f"Exemplo {number}, na perda:      {tokenizer.decode(learned)!r}")


class SimilarLengths(Sampler):
    """A ordem de `similar_lengths`: a mesma numa mesma época, também depois de `--resume`."""

    def __init__(self, lengths: list[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """O Trainer diz aqui qual época começa."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        batches = similar_lengths(self.lengths, self.batch, rng, POOL, short_last=True)
        return chain.from_iterable(batches)


class AnswerTrainer(SFTTrainer):
    """O SFTTrainer com três trocas, que se ligam uma a uma: a ordem, a perda e as partes."""

    precision: torch.dtype  # a das contas
    progress: Progress
    checkpoints: Checkpoints
    group_by_length = False
    fused_loss = False
    in_parts = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Paga por si na linha "+ lotes de comprimento parecido"."""
        if not self.group_by_length:
            return super()._get_train_sampler(train_dataset)
        # O lote de todos os processos: o accelerate dá a cada um a sua fatia.
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return SimilarLengths(self._lengths(), batch * self.args.world_size, self.args.data_seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Paga por si na linha "+ camadas e perda de fused.py"."""
        if not self.fused_loss or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = fused.answer_loss(model, inputs)
        # Com acumulação de gradiente, o divisor é o dos lotes somados: 1x8 tem de valer 8x1.
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Um lote comprido vai em partes: os gradientes se somam, e a memória é a de uma parte."""
        # Sem o divisor do lote inteiro, as partes não se somariam.
        parted = self.in_parts and num_items_in_batch is not None
        count = math.ceil(inputs["input_ids"].numel() / TOGETHER) if parted else 1
        parts = zip(*(tensor.chunk(count) for tensor in inputs.values()), strict=True)
        step = super().training_step
        return sum(
            step(model, dict(zip(inputs, part, strict=True)), num_items_in_batch) for part in parts
        )

    def _run_epoch(self, *args, **kwargs) -> None:
        """Retomado do último passo, o treino não tem outro a dar; o Trainer daria mais um."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _lengths(self) -> list[int]:
        return [len(ids) for ids in self.train_dataset["input_ids"]]

    def announcement(self) -> str:
        """Os tamanhos do que vai começar, numa frase."""
        trainable, total = self.get_num_trainable_parameters(), self.model.num_parameters()
        text = (
            f"Treino: {decimal(len(self.train_dataset))} exemplos, {decimal(sum(self._lengths()))} "
            f"tokens por época; {decimal(trainable)} parâmetros treináveis de {decimal(total)} "
            f"({percent(trainable / total)}); contas em {PRECISIONS[self.precision]}"
        )
        if self.args.gradient_checkpointing:
            text += "; ativações recalculadas na volta"
        low, high = lora_rates(total)
        if trainable < total and self.args.learning_rate > high:
            text += (
                f".\nAtenção: learning_rate {general(self.args.learning_rate)} é alto para um "
                f"modelo deste tamanho; costuma ir de {general(low)} a {general(high)}"
            )
        return text + "."

    def trainable_bytes(self) -> int:
        """O tamanho dos pesos que treinam."""
        return sum(p.nbytes for p in self.model.parameters() if p.requires_grad)

    def summary(self, method: str, memory: int | None) -> TrainingSummary:
        """O que se guarda de um treino que terminou, e que tomou `memory` bytes.

        De um treino retomado, somam-se os trechos; a memória é a do último.
        """
        tokens, seconds = self.state.num_input_tokens_seen, self.checkpoints.elapsed()
        step = self.state.best_global_step if self.args.load_best_model_at_end else None
        step = step or self.state.global_step
        losses = {x["step"]: x["eval_loss"] for x in self.state.log_history if "eval_loss" in x}
        return TrainingSummary(
            method=method,
            steps=self.state.global_step,
            minutes=seconds / 60,
            examples=len(self.train_dataset),
            tokens_per_second=tokens / seconds,
            tokens_seen=tokens,
            processes=self.args.world_size,
            memory_bytes=memory,
            trainable_parameters=self.get_num_trainable_parameters(),
            best_step=step,
            best_eval_loss=losses.get(step),
            resumed=self.checkpoints.run.seconds > 0,
        )


def build_trainer(
    config: Config, tokenizer: PreTrainedTokenizerBase, train_set: Dataset, validation_set: Dataset
) -> AnswerTrainer:
    """Monta o Trainer; as camadas rápidas entram quando o modelo e o dispositivo as permitem."""
    full, wanted = config.training.method == "full", config.training.fused_layers
    dtype = precision(config)
    # Com todos os pesos treinando, eles ficam em float32: passos miúdos se perderiam em bf16.
    model = load_model(config, dtype=torch.float32 if full else None)
    new_tokens = range(len(tokens.load_tokenizer(config)), len(tokenizer))
    if new_tokens:
        tokens.fit(model, tokenizer)
        tokens.start(model, tokenizer, new_tokens)
    # Em fp16 é preciso escalar a perda antes da volta, que fused.py faz já na ida.
    fast = wanted and not needs_forward() and dtype != torch.float16 and fused.supports(model)
    # Com o LoRA, as camadas de fused.py já recebem e devolvem bf16; o autocast só repetiria
    # conversões. Com todos os pesos em float32, as contas em bf16 são dele.
    autocast = torch.float32 if fast and not full else dtype
    recomputed = recomputes_activations(model, config.model.load_in_4bit)
    if not full:
        check_targets(linears_of(model), config.lora.target_modules)
    progress, lora = Progress(config.output_dir / WORK), config.lora
    patience = config.training.early_stopping_patience
    adapter = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=list(new_tokens) or None,
        task_type="CAUSAL_LM",
    )
    trainer = AnswerTrainer(
        model=model,
        args=_arguments(config, len(train_set), autocast, recomputed),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        peft_config=None if full else adapter,
        callbacks=[*([EarlyStoppingCallback(patience)] if patience else []), progress],
    )
    train_in_float32(trainer.model)
    trainer.progress, trainer.group_by_length = progress, config.training.group_by_length
    # Vários processos contariam mal as partes; numa GPU, são mais lentas que o lote inteiro.
    trainer.in_parts = not needs_forward() and device().type == "cpu"
    trainer.precision = dtype
    trainer.remove_callback(PrinterCallback)
    if new_tokens and not full:
        # A TRL lê o viés da camada de saída, que o envoltório do peft não tem.
        trainer.model.get_output_embeddings().bias = None
        # O peft gravaria a tabela de embeddings inteira ao ver que ela cresceu.
        trainer.model.save_pretrained = partial(
            trainer.model.save_pretrained, save_embedding_layers=False
        )
    if fast:
        use_cheaper_attention(model, dtype)
        fused.accelerate_layers(trainer.model)
        trainer.fused_loss = fused.supports_answer_loss(trainer.model)
    return trainer


def _arguments(config: Config, examples: int, autocast: torch.dtype, recomputed: bool) -> SFTConfig:
    training = config.training
    steps = run_folder.total_steps(config, examples, all_processes().num_processes)
    eval_steps = min(training.eval_steps, steps)
    return SFTConfig(
        output_dir=str(config.output_dir / WORK),
        run_name=config.output_dir.name,
        hub_model_id=config.output_dir.name,  # o nome na ficha que a TRL escreve
        project="loja-sql",
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=config.generation.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        gradient_checkpointing=training.gradient_checkpointing or recomputed,
        warmup_steps=math.ceil(training.warmup_ratio * steps),
        lr_scheduler_type=training.lr_scheduler_type,
        max_length=None,  # a auditoria recusa o que seria cortado
        bf16=autocast == torch.bfloat16,
        fp16=autocast == torch.float16,
        use_cpu=device().type == "cpu",
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_steps=eval_steps,
        load_best_model_at_end=training.early_stopping_patience is not None,
        restore_callback_states_from_checkpoint=True,  # a paciência continua de onde estava
        logging_steps=5,
        logging_nan_inf_filter=False,  # callbacks.py para o treino que diverge
        disable_tqdm=True,  # a barra é a de callbacks.py
        include_num_input_tokens_seen="non_padding",
        seed=training.seed,
        data_seed=training.seed,
        report_to=training.tracking,
    )
