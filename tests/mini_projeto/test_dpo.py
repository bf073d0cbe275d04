"""dpo.py: pares tirados dos erros, a distância entre preferida e rejeitada, e nada gravado."""

import shutil

from comum.decoding import answer_losses
from comum.terminal import run_main

from tokenizers.processors import TemplateProcessing

import dpo
from loja_sql.config import as_trained, load_config
from loja_sql.model.loading import load_model
from loja_sql.model.preference import Pair, preferred
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import encode_pair
from loja_sql.questions import linking
from loja_sql.questions.splits import load_split


def test_it_learns_from_its_own_errors_and_writes_nothing(trained, small_data, tmp_path, capsys):
    args, folder = trained
    data = shutil.copytree(small_data, tmp_path / "dados", symlinks=True)
    shutil.copy(data / "validation.jsonl", data / "generated_validation.jsonl")
    there = sorted(folder.rglob("*"))

    assert dpo.main([*args, f"data.output_dir={data}", "--limit=3", "--epochs=1"]) == 0

    shown = capsys.readouterr().out
    assert "3 pares, de 3 perguntas" in shown  # o modelo minúsculo não acerta nenhuma
    assert "antes, 0,0 [0,0; 56,1]" in shown
    assert sorted(folder.rglob("*")) == there


def test_the_preferred_answer_gains_on_the_rejected_one(trained):
    args, folder = trained
    config = as_trained(load_config(None, args), folder)
    tokenizer, context = load_tokenizer(config, folder), linking.context(config)
    rows = load_split(config, "validation")[:4]

    def encoded(row, sql):
        return encode_pair(tokenizer, config, row["question"], sql, context)

    wrong = [Pair(*encoded(row, row["sql"]), encoded(row, "SELECT 1")[1]) for row in rows]
    model = load_model(config, folder)

    def margin(model) -> float:
        pairs = [encoded(row, row["sql"]) for row in rows]
        pairs += [encoded(row, "SELECT 1") for row in rows]
        nats = [x[1] for batch in answer_losses(model, tokenizer, pairs, 8) for x in sorted(batch)]
        return sum(nats[len(rows) :]) - sum(nats[: len(rows)])

    before, read = margin(model), []
    model.register_forward_pre_hook(
        lambda _, args, given: read.extend(given["input_ids"].tolist()), with_kwargs=True
    )
    # Quem põe um BOS em todo texto que lê não o põe no que o treino já escreveu.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id

    tuned = preferred(model, tokenizer, wrong, beta=0.1, rate=1e-3, epochs=5, seed=6)

    for pair in wrong:
        for answer in pair.chosen_ids, pair.rejected_ids:
            whole = pair.prompt_ids + answer
            assert any(row[: len(whole)] == whole for row in read)
    assert margin(tuned) > before + 1


def test_a_training_in_four_bits_is_refused_at_once(trained, tmp_path, capsys):
    args, folder = trained
    copied = shutil.copytree(folder, tmp_path / "em_4bits")
    settings = copied / "effective_config.yaml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace("load_in_4bit: false", "load_in_4bit: true"), "utf-8")

    assert run_main(dpo.main, [*args, f"training.output_dir={copied}"]) == 2

    assert "4 bits" in capsys.readouterr().err
