"""Medir uma variante: responder as perguntas, executar o que saiu e contar os acertos."""

import gc
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from comum import results
from comum.statistics import bleu, perplexity, proportion
from comum.terminal import UserError

from loja_sql.config import Config
from loja_sql.model.assistant import in_order
from loja_sql.model.summary import read_summary
from loja_sql.prompt import encode_pair, extract_sql, render
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
        sieve = Sieve(databases)
        kept = sieve.checked(read_questions(path, "own", sieve.rejected), path.name)
        rows = [vars(row) for row in kept]
        for item in sieve.rejected:
            print(f"Ignorada ({item.where}): {item.reason}: {item.question}", file=sys.stderr)
    if not rows:
        raise UserError(f"{path or split} não tem nenhuma pergunta aproveitável.")
    return spread(rows, config.evaluation.limit)


def measure(
    variant: Variant, rows: list[dict], databases: list[Database], command: str
) -> tuple[results.Variant, list[dict]]:
    """As notas de uma variante, e uma linha por pergunta com a resposta e o que houve com ela."""
    rows = [row | {"question": variant.reword(row["question"])} for row in rows]
    config, schema = variant.config, databases[0].schema
    engine = variant.open()
    name, tokenizer = engine.name, engine.tokenizer
    prompts, pairs = [], []
    for row in rows:
        question = row["question"]
        examples = variant.examples(question) if variant.examples else ()
        prompts.append(render(tokenizer, config, question, schema, examples))
        pairs.append(encode_pair(tokenizer, config, question, row["sql"], schema, examples))
    started = time.perf_counter()
    limits = config.generation.max_new_tokens, config.generation.batch_size
    label = f"Respondendo ({variant.label})"
    answers = in_order(engine.generate(prompts, *limits), label, len(prompts))
    seconds = time.perf_counter() - started
    batches = engine.losses(pairs, config.generation.batch_size)
    label = f"Perplexidade ({variant.label})"
    losses = batches and [item[1:] for item in in_order(batches, label, len(pairs))]
    engine.close()
    del engine
    gc.collect()  # antes do outro processo: os dois modelos podem não caber juntos
    alone, memory = latency.measure(variant, spread(prompts, config.evaluation.timed))
    lines = [
        {"id": row["id"], "variant": variant.label} | _judged(row, answer, databases)
        for row, (_, answer) in zip(rows, answers, strict=True)
    ]
    return results.Variant(
        command=command,
        group=variant.group,
        engine=name,
        **_scores(lines),
        gold_perplexity=losses and perplexity(*zip(*losses, strict=True)),
        prompt_tokens=sum(len(prompt) for prompt, _ in pairs) / len(pairs),
        weights_bytes=variant.weights_bytes,
        memory_bytes=memory,
        latency=alone,
        training=variant.adapter and read_summary(variant.adapter),
        seconds=seconds,
        questions_per_second=len(rows) / seconds,
    ), lines


def _judged(row: dict, answer: str, databases: list[Database]) -> dict:
    predicted = extract_sql(answer)
    correct, error = judge(row["sql"], predicted, databases)
    return {
        "question": row["question"],
        "gold": row["sql"],
        "predicted": predicted,
        "correct": correct,
        "error": error,
        "exact": _plain(predicted) == _plain(row["sql"]),
        "kind": row["kind"],
        "difficulty": row["difficulty"],
        "cause": None if correct else cause(row["sql"], predicted, error),
    }


def _plain(sql: str) -> str:
    """Espaços simples e sem ponto e vírgula: para a correspondência exata."""
    return " ".join(sql.split()).rstrip(";")


def _scores(lines: list[dict]) -> dict:
    causes = Counter(line["cause"] for line in lines if line["cause"])
    return {
        "execution_accuracy": proportion([line["correct"] for line in lines]),
        "valid_sql": proportion([line["error"] is None for line in lines]),
        "exact_match": proportion([line["exact"] for line in lines]),
        "bleu": bleu([line["predicted"] for line in lines], [line["gold"] for line in lines]),
        "by_kind": _by(lines, "kind"),
        "by_difficulty": _by(lines, "difficulty"),
        "error_causes": dict(causes.most_common()),
    }


def _by(lines: list[dict], key: str) -> dict[str, results.Score]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        groups[line[key]].append(line["correct"])
    return {name: proportion(flags) for name, flags in sorted(groups.items())}
