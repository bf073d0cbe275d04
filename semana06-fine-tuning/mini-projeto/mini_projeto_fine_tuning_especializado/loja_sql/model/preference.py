"""O DPO: um LoRA novo aprende a preferir uma resposta a outra.

Rafailov et al., 2023 (arXiv:2305.18290). A referência é o próprio modelo, com o LoRA desligado.
"""

import tempfile
from typing import NamedTuple

from comum import sft
from comum.models import device, train_in_float32
from comum.numbers import decimal

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer


class Pair(NamedTuple):
    """Os tokens de um prompt e de duas respostas a ele; os nomes são os das colunas da TRL."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class _Trainer(DPOTrainer):
    """O da TRL, sem que ela leia texto: poria nele o BOS e o fim do tokenizador.

    O treino usa as marcas do template, que podem ser outras.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def preferred(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    beta: float,
    rate: float,
    epochs: int,
    seed: int,
) -> PreTrainedModel:
    """`model` depois do DPO, com o LoRA já fundido; `model` não serve mais.

    Args:
        beta: o apego à referência.
        rate: o learning_rate.

    Raises:
        UserError: a perda deixou de ser um número.
    """
    disable_progress_bars()
    generating, half = model.config._attn_implementation, model.dtype
    sft.use_cheaper_attention(model, half)
    with tempfile.TemporaryDirectory() as folder:  # o Trainer cria a sua, queira-se ou não
        trainer = _Trainer(
            model,
            args=DPOConfig(
                output_dir=folder,
                beta=beta,
                learning_rate=rate,
                num_train_epochs=epochs,
                per_device_train_batch_size=8,
                max_length=None,
                bf16=half == torch.bfloat16,
                fp16=half == torch.float16,
                use_cpu=device().type == "cpu",
                gradient_checkpointing=False,
                save_strategy="no",
                logging_steps=1,
                logging_nan_inf_filter=False,  # um nan aparece na hora, e `sft.Bar` para o treino
                disable_tqdm=True,  # a barra é a de `sft.Bar`
                report_to="none",
                seed=seed,
            ),
            train_dataset=Dataset.from_list([pair._asdict() for pair in pairs]),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[sft.Bar("Treinando (DPO)")],
        )
        trainer.remove_callback(PrinterCallback)  # sem a barra dele, o Trainer imprime dicionários
        train_in_float32(trainer.model)
        trainer.train()
    # Beta x (o que a preferida ganhou - o que a rejeitada ganhou), em log-probabilidade.
    margins = [log["rewards/margins"] for log in trainer.state.log_history if "loss" in log]
    epoch = len(margins) // epochs
    first, last = (sum(some) / len(some) for some in (margins[:epoch], margins[-epoch:]))
    print(f"\nA margem: {decimal(first, 3)} na primeira passada, {decimal(last, 3)} na última.")
    tuned = trainer.model.merge_and_unload()
    tuned.set_attn_implementation(generating)
    return tuned
