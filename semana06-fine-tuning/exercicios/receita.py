"""Dia 4, a receita curta: ajustar com LoRA e fundir, com o treino todo das bibliotecas. 2 minutos.

    python semana06-fine-tuning/exercicios/receita.py

Outro modelo, outros dados, mais passos: mude as linhas de `main`. O mesmo sem escrever Python, na
raiz do repositório: `trl sft --config semana06-fine-tuning/exercicios/receita.yaml`.
"""

import sys

from comum.conversations import DATA_DIR, PROMPTS, greedy_answers, prompt_of, with_system
from comum.paths import DEFAULT_MODEL, MODELS_DIR
from comum.terminal import Parser, run_main

OUTPUT = MODELS_DIR / "receita"


def main() -> None:
    from comum.models import compute_dtype, device, load_model, load_tokenizer

    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    def prompt_completion(row: dict) -> dict:
        turns = with_system(row["messages"])
        return {"prompt": turns[:-1], "completion": turns[-1:]}

    model, tokenizer = load_model(str(DEFAULT_MODEL)), load_tokenizer(str(DEFAULT_MODEL))
    asked = [prompt_of(tokenizer, [{"role": "user", "content": PROMPTS[0]}, {}])]
    before = greedy_answers(model, tokenizer, asked, 60)
    file = str(DATA_DIR / "atendimento_treino.jsonl")
    rows = load_dataset("json", data_files=file, split="train[:80]")
    trainer = SFTTrainer(
        model,
        SFTConfig(
            str(OUTPUT),
            max_steps=20,
            per_device_train_batch_size=4,
            learning_rate=2e-3,
            bf16=compute_dtype() == torch.bfloat16,  # o padrão, True, é lento onde não há bf16
            fp16=compute_dtype() == torch.float16,  # nas GPUs sem bf16
            use_cpu=device().type == "cpu",  # sem isto, o Trainer recusa o bf16 de um processador
            gradient_checkpointing=False,  # o padrão, True, troca tempo por memória
            save_strategy="no",
            logging_steps=5,
            report_to="none",
        ),
        train_dataset=rows.map(prompt_completion, remove_columns=rows.column_names),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.train()
    merged = trainer.model.merge_and_unload()  # W₀ + (α/r)·BA, e o LoRA some
    merged.save_pretrained(OUTPUT)
    tokenizer.save_pretrained(OUTPUT)
    after = greedy_answers(merged, tokenizer, asked, 60)
    print(f"\n> {PROMPTS[0]}\n  antes:  {before[0]}\n  depois: {after[0]}\n\nSalvo em {OUTPUT}")


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    sys.exit(run_main(main))
