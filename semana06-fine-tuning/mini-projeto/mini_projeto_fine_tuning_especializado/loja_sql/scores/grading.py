"""Medir uma variante: responder as perguntas, executar o que saiu e contar os acertos."""

import gc
import re
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

from comum import results
from comum.statistics import bleu, perplexity, proportion
from comum.terminal import UserError

from loja_sql.config import Config
from loja_sql.model.assistant import in_order
from loja_sql.model.summary import read_summary
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import DECLINE, declines, encode_pair, extract_sql, render
from loja_sql.questions import linking
from loja_sql.questions.checks import Checks
from loja_sql.questions.reading import read_questions
from loja_sql.questions.sieve import Sieve
from loja_sql.questions.splits import load_split
from loja_sql.scores import latency
from loja_sql.scores.variants import Variant, spread
from loja_sql.sql.causes import cause
from loja_sql.sql.comparison import judge
from loja_sql.sql.database import Database


def questions(
    config: Config, split: str, path: Path | None, databases: list[Database]
) -> list[dict]:
    """As perguntas da divisão, ou as de um arquivo, até `evaluation.limit`.

    As linhas do arquivo que não servem saem em stderr, com o motivo; UserError se nenhuma serve.
    """
    if path is None:
        rows = load_split(config, split)
    else:
        with Checks(databases) as checks:
            sieve = Sieve(checks)
            read = read_questions(path, "own", sieve.rejected, readings=True)
            rows = [vars(row) for row in sieve.checked(read, path.name)]
        for item in sieve.rejected:
            where = re.sub(r"^own-0*", f"{path.name}:", item.where)  # a linha, nos dois casos
            print(f"Ignorada ({where}): {item.reason}: {item.question}", file=sys.stderr)
    rows = spread(rows, config.evaluation.limit)
    if all(row["sql"] == DECLINE for row in rows):
        raise UserError(
            f"{path or split} não tem nenhuma pergunta aproveitável que o banco responda."
        )
    return rows


def measure(
    variant: Variant, rows: list[dict], databases: list[Database], command: str
) -> tuple[results.Variant, list[dict]]:
    """As notas de uma variante, e uma linha por pergunta com a resposta e o que houve com ela."""
    rows = [row | {"question": variant.reword(row["question"])} for row in rows]
    config, context = variant.config, linking.context(variant.config)
    # Cada dica se procura uma vez só, e os exemplos se repetem de pergunta em pergunta.
    context = replace(context, links=cache(context.links))
    engine = variant.open()
    name, tokenizer = engine.name, engine.tokenizer
    prompts, pairs, gold = [], [], []
    for row in rows:
        question, sql = row["question"], row["sql"]
        examples = variant.examples(question) if variant.examples else ()
        prompts.append(render(tokenizer, config, question, context, examples))
        if sql != DECLINE:
            gold.append(sql)
            pairs.append(encode_pair(tokenizer, config, question, sql, context, examples))
    started = time.perf_counter()
    limits = config.generation.max_new_tokens, config.generation.batch_size
    label = f"Respondendo ({variant.label})"
    answers = in_order(engine.generate(prompts, *limits), label, len(prompts))
    seconds = time.perf_counter() - started
    batches = engine.losses(pairs, config.generation.batch_size)
    label = f"Perplexidade ({variant.label})"
    nats = batches and [loss for _, loss, _ in in_order(batches, label, len(pairs))]
    # Por token da base, e o do fim: os fundidos são menos, e a conta por eles não se compara.
    units = [len(ids) + 1 for ids in load_tokenizer(config)(gold).input_ids]
    engine.close()
    del engine
    gc.collect()  # antes do outro processo: os dois modelos podem não caber juntos
    alone, memory = latency.measure(variant, spread(prompts, config.evaluation.timed))
    lines = [
        {"id": row["id"], "variant": variant.label} | judged(row, answer, databases)
        for row, (_, answer) in zip(rows, answers, strict=True)
    ]
    return results.Variant(
        command=command,
        group=variant.group,
        engine=name,
        **_scores(lines),
        gold_perplexity=nats and perplexity(nats, units),
        prompt_tokens=sum(len(prompt) for prompt, _ in pairs) / len(pairs),
        weights_bytes=variant.weights_bytes,
        memory_bytes=memory,
        latency=alone,
        training=variant.adapter and read_summary(variant.adapter),
        seconds=seconds,
        questions_per_second=len(rows) / seconds,
    ), lines


def judged(row: dict, answer: str, databases: list[Database]) -> dict:
    predicted, gold = extract_sql(answer), row["sql"]
    readings = [gold, *row.get("also_right", ())]
    declined = declines(predicted)
    queries = () if declined else (sql for sql in readings if sql != DECLINE)
    verdicts = [judge(sql, predicted, databases) for sql in queries]
    correct = DECLINE in readings if declined else any(right for right, _ in verdicts)
    error = verdicts[0][1] if verdicts else None
    return {
        "question": row["question"],
        "gold": gold,
        "predicted": predicted,
        "correct": correct,
        "declined": declined,
        "error": error,
        "exact": _plain(predicted) == _plain(gold),
        "kind": row["kind"],
        "difficulty": row["difficulty"],
        "cause": None if correct else cause(gold, predicted, error),
    }


def _plain(sql: str) -> str:
    """Espaços simples e sem ponto e vírgula: para a correspondência exata."""
    return " ".join(sql.split()).rstrip(";")


def _scores(lines: list[dict]) -> dict:
    """As notas das que têm resposta no banco, e as recusas dos dois lados."""
    causes = Counter(line["cause"] for line in lines if line["cause"])
    asked = [line for line in lines if line["gold"] != DECLINE]
    unanswerable = [line["correct"] for line in lines if line["gold"] == DECLINE]
    return {
        "execution_accuracy": proportion([line["correct"] for line in asked]),
        "valid_sql": proportion([not line["declined"] and line["error"] is None for line in asked]),
        "exact_match": proportion([line["exact"] for line in asked]),
        "declined_right": proportion(unanswerable) if unanswerable else None,
        "declined_wrong": proportion([line["declined"] and not line["correct"] for line in asked]),
        "bleu": bleu([line["predicted"] for line in asked], [line["gold"] for line in asked]),
        "by_kind": _by(asked, "kind"),
        "by_difficulty": _by(asked, "difficulty"),
        "error_causes": dict(causes.most_common()),
    }


def _by(lines: list[dict], key: str) -> dict[str, results.Score]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        groups[line[key]].append(line["correct"])
    return {name: proportion(flags) for name, flags in sorted(groups.items())}
