"""dpo.py: pares tirados dos erros, a distância entre preferida e rejeitada, e nada gravado."""

import shutil

from comum.decoding import answer_losses

import dpo
from loja_sql.config import as_trained, load_config
from loja_sql.model.loading import load_model, load_tokenizer
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


def test_the_preferred_answer_gains_on_the_rejected_one(trained, tmp_path):
    args, folder = trained
    config = as_trained(load_config(None, args), folder)
    tokenizer, context = load_tokenizer(config, folder), linking.context(config)
    rows = load_split(config, "validation")[:4]
    wrong = [(row, "SELECT 1") for row in rows]
    model = load_model(config, folder)

    def margin(model) -> float:
        answers = [row["sql"] for row in rows] + ["SELECT 1"] * len(rows)
        asked = [row["question"] for row in rows] * 2
        pairs = [
            encode_pair(tokenizer, config, *pair, context)
            for pair in zip(asked, answers, strict=True)
        ]
        nats = [x[1] for batch in answer_losses(model, tokenizer, pairs, 8) for x in sorted(batch)]
        return sum(nats[len(rows) :]) - sum(nats[: len(rows)])

    before = margin(model)
    options = dpo.arguments(["--epochs=5", "--rate=1e-3"])

    tuned = dpo.preferred(config, model, tokenizer, wrong, options, str(tmp_path))

    assert margin(tuned) > before + 1
