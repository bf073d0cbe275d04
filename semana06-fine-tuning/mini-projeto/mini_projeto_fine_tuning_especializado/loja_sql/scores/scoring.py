"""Medir uma variante: responder as perguntas, executar o que saiu e contar os acertos."""

import gc
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from comum import results
from comum.statistics import bleu, perplexity, proportion
from comum.terminal import UserError, progress

from loja_sql.config import Config
from loja_sql.model.engines import Engine
from loja_sql.prompt import encode_pair, extract_sql, render
from loja_sql.questions.reading import Rejected, read_questions
from loja_sql.questions.splits import load_split
from loja_sql.scores import latency
from loja_sql.scores.variants import Variant, open_variant
from loja_sql.sql.causes import cause
from loja_sql.sql.comparison import judge, reference_problem
from loja_sql.sql.database import Database
from loja_sql.sql.features import difficulty, kind


def questions(
    config: Config, split: str, path: Path | None, databases: list[Database]
) -> list[dict]:
    """As perguntas da divisão, ou as de um arquivo, até `evaluation.limit`.

    As linhas do arquivo que não servem saem em stderr, com o motivo.

    Raises:
        UserError: não há nenhuma.
    """
    rows = load_split(config, split) if path is None else _own_questions(path, databases)
    if not rows:
        raise UserError(f"{path or split} não tem nenhuma pergunta aproveitável.")
    return spread(rows, config.evaluation.limit)


def _own_questions(path: Path, databases: list[Database]) -> list[dict]:
    rejected: list[Rejected] = []
    kept = []
    for row in read_questions(path, "own", rejected):
        problem = reference_problem(row.sql, databases)
        if problem:
            rejected.append(Rejected(row.id, row.question, row.sql, problem))
            continue
        facts = {"kind": kind(row.sql), "difficulty": difficulty(row.sql)}
        kept.append({"id": row.id, "question": row.question, "sql": row.sql, **facts})
    for item in rejected:
        print(f"Ignorada ({item.where}): {item.reason}: {item.question}", file=sys.stderr)
    return kept


def spread(rows: list, limit: int | None) -> list:
    """`limit` linhas espaçadas por igual: os arquivos vêm das fáceis para as difíceis."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def measure(
    variant: Variant, rows: list[dict], databases: list[Database], command: str
) -> tuple[results.Variant, list[dict]]:
    """As notas de uma variante, e uma linha por pergunta com a resposta e o que houve com ela."""
    rows = [row | {"question": variant.reword(row["question"])} for row in rows]
    config, schema = variant.config, databases[0].schema
    shown = [variant.examples(row["question"]) for row in rows]
    engine = open_variant(config, variant.adapter, variant.form)
    name, tokenizer = engine.name, engine.tokenizer
    prompts = [
        render(tokenizer, config, row["question"], schema, examples)
        for row, examples in zip(rows, shown, strict=True)
    ]
    started = time.perf_counter()
    answers = _answers(engine, config, prompts, variant.label)
    seconds = time.perf_counter() - started
    pairs = [
        encode_pair(tokenizer, config, row["question"], row["sql"], schema, examples)
        for row, examples in zip(rows, shown, strict=True)
    ]
    losses = _gold_losses(engine, pairs, config.generation.batch_size, variant.label)
    sizes = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False).input_ids]
    engine.close()
    del engine
    gc.collect()  # antes do outro processo: os dois modelos podem não caber juntos
    alone, memory = latency.measure(variant, spread(prompts, config.evaluation.timed))
    lines = [
        {"id": row["id"], "variant": variant.label} | _judged(row, answer, databases)
        for row, answer in zip(rows, answers, strict=True)
    ]
    return results.Variant(
        command=command,
        group=variant.group,
        engine=name,
        **_scores(lines),
        gold_perplexity=losses and perplexity(*zip(*losses, strict=True)),
        prompt_tokens=sum(sizes) / len(sizes),
        weights_bytes=variant.weights_bytes,
        memory_bytes=memory,
        latency=alone,
        training=variant.training,
        seconds=seconds,
        questions_per_second=len(rows) / seconds,
    ), lines


def _answers(engine: Engine, config: Config, prompts: list[str], label: str) -> list[str]:
    found: dict[int, str] = {}
    limits = config.generation.max_new_tokens, config.generation.batch_size
    with progress(None, f"Respondendo ({label})", "pergunta", len(prompts)) as bar:
        for batch in engine.generate(prompts, *limits):
            found.update(batch)
            bar.update(len(batch))
    return [found[i] for i in range(len(prompts))]


def _gold_losses(
    engine: Engine, pairs: list[tuple[list[int], list[int]]], batch_size: int, label: str
) -> list[tuple[float, int]] | None:
    """Perda da resposta de referência, por pergunta: (soma em nats, tokens da resposta).

    None se o motor não a mede.
    """
    batches = engine.losses(pairs, batch_size)
    if batches is None:
        return None
    found: dict[int, tuple[float, int]] = {}
    with progress(None, f"Perplexidade ({label})", "pergunta", len(pairs)) as bar:
        for batch in batches:
            found |= {index: (nats, tokens) for index, nats, tokens in batch}
            bar.update(len(batch))
    return [found[i] for i in range(len(pairs))]


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
