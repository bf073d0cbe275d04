"""Mede a acurácia de execução: o modelo sem treino, com o esquema no prompt, e o treinado.

    python evaluate.py                                   # o teste em palavras livres
    python evaluate.py --config configs/rapido.yaml      # o da demonstração
    python evaluate.py --split teste_gerado              # esqueletos de SQL inéditos
    python evaluate.py --questions minhas.jsonl          # qualquer conjunto (question, sql)

Cada resposta é executada em todos os bancos; decodificação gulosa. Sai um JSON em `resultados/`,
com intervalos de 95%, e um JSONL com uma linha por pergunta e variante.
"""

import runtime  # noqa: F401  (antes do torch)

import gc
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from config import (
    RESULTS_DIR,
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    config_from_args,
    load_effective,
    run_main,
    write_atomic,
)
from data_prep import load_split, read_questions
from database import Database, DatabaseError
from execution import judge, reference_problem
from metrics import mcnemar, perplexity, proportion
from prompt import encode_pair, render
from sql_features import difficulty, kind

BASE, TUNED = "base com esquema", "treinado"
BASE_SYSTEM = (
    "You translate questions in Portuguese into one SQLite query. Answer with the SQL query only, "
    "no explanation."
)
LIBRARIES = ["torch", "transformers", "peft", "trl", "datasets"]


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Mede a acurácia de execução do modelo base e do treinado."
    )
    add_config_arguments(parser)
    parser.add_argument("--split", default="teste", help="divisão a usar (padrão: teste)")
    parser.add_argument("--questions", type=Path, metavar="ARQUIVO",
                        help="CSV ou JSONL (question, sql) no lugar da divisão")  # fmt: skip
    parser.add_argument("--only", choices=["base", "treinado"], help="mede uma variante só")
    parser.add_argument("--name", default=None, help="nome do arquivo de resultados")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)
    evaluate(config, args.split, args.questions, args.only, args.name)
    return 0


def evaluate(
    config: Config,
    split: str = "teste",
    questions: Path | None = None,
    only: str | None = None,
    name: str | None = None,
) -> dict:
    """Avalia as variantes, grava os resultados e devolve o resumo."""
    try:
        databases = [Database(p, config.database.time_limit_s) for p in config.databases]
    except DatabaseError as error:
        raise UserError(str(error)) from error
    rows = _questions(config, split, questions, databases)
    variants = {
        label: settings
        for label, settings in _variants(config).items()
        if only is None or (only == "base") == (label == BASE)
    }
    results, details = {}, []
    for label, (settings, adapter) in variants.items():
        results[label], lines = _score_variant(label, settings, adapter, rows, databases)
        details += lines
    summary = _summary(config, split, questions, results, details)
    name = name or f"mini_projeto_{config.output_dir.name}_{questions.stem if questions else split}"
    write_atomic(
        RESULTS_DIR / f"{name}.jsonl",
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in details),
    )
    write_atomic(RESULTS_DIR / f"{name}.json", json.dumps(summary, ensure_ascii=False, indent=2))
    print(table(summary))
    print(f"Resultados: {RESULTS_DIR / name}.json (e .jsonl, uma linha por pergunta)")
    return summary


def _questions(
    config: Config, split: str, path: Path | None, databases: list[Database]
) -> list[dict]:
    if path is None:
        return spread(load_split(config, split), config.evaluation.limit)
    rejected: list = []
    rows = read_questions(path, "propria", rejected)
    kept = []
    for row in rows:
        problem = reference_problem(row.sql, databases)
        if problem:
            print(f"Ignorada ({row.id}): {problem}: {row.question}", file=sys.stderr)
            continue
        kept.append({"id": row.id, "question": row.question, "sql": row.sql,
                     "kind": kind(row.sql), "difficulty": difficulty(row.sql)})  # fmt: skip
    for item in rejected:
        print(f"Ignorada ({item.where}): {item.reason}", file=sys.stderr)
    if not kept:
        raise UserError(f"{path} não tem nenhuma pergunta aproveitável.")
    return spread(kept, config.evaluation.limit)


def spread(rows: list[dict], limit: int | None) -> list[dict]:
    """`limit` perguntas espaçadas por igual: os arquivos vêm das fáceis para as difíceis."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _variants(config: Config) -> dict[str, tuple[Config, Path | None]]:
    """Cada variante com a configuração do seu prompt e o seu adaptador."""
    base = config.model_copy(deep=True)
    base.prompt.system, base.prompt.schema_in_prompt = BASE_SYSTEM, True
    base.generation.max_new_tokens = config.evaluation.base_max_new_tokens
    variants: dict[str, tuple[Config, Path | None]] = {BASE: (base, None)}
    if (config.output_dir / "adapter_config.json").is_file():
        # O prompt é o do treino, mesmo que a configuração atual diga outra coisa.
        tuned = config.model_copy(deep=True)
        tuned.prompt = load_effective(config.output_dir).prompt
        tuned.model = load_effective(config.output_dir).model
        variants[TUNED] = (tuned, config.output_dir)
    else:
        print(f"Não há adaptador em {config.output_dir}: só o modelo base será medido.")
    return variants


def _score_variant(
    label: str, config: Config, adapter: Path | None, rows: list[dict], databases: list[Database]
) -> tuple[dict, list[dict]]:
    from model import generate, load_model, load_tokenizer

    tokenizer = load_tokenizer(config)
    model = load_model(config, adapter)
    schema = databases[0].schema
    prompts = [render(tokenizer, config, row["question"], schema) for row in rows]
    answers: dict[int, str] = {}
    started = time.perf_counter()
    bar = tqdm(total=len(rows), desc=f"Respondendo ({label})", unit="pergunta", file=sys.stdout)
    for batch in generate(
        model, tokenizer, prompts, config.generation.max_new_tokens, config.generation.batch_size
    ):
        answers.update(batch)
        bar.update(len(batch))
    bar.close()
    elapsed = time.perf_counter() - started
    losses = _gold_losses(model, tokenizer, config, rows, schema, label)
    lines = []
    for position, row in enumerate(rows):
        predicted = extract_sql(answers[position])
        correct, error = judge(row["sql"], predicted, databases)
        lines.append(
            {
                "id": row["id"], "variant": label, "question": row["question"], "gold": row["sql"],
                "predicted": predicted, "correct": correct, "error": error,
                "exact": normalize_sql(predicted) == normalize_sql(row["sql"]),
                "kind": row["kind"], "difficulty": row["difficulty"],
            }
        )  # fmt: skip
    prompt_tokens = [len(i) for i in tokenizer(prompts, add_special_tokens=False).input_ids]
    result = {
        "acuracia_execucao": proportion([x["correct"] for x in lines]),
        "sql_valido": proportion([x["error"] is None for x in lines]),
        "correspondencia_exata": proportion([x["exact"] for x in lines]),
        "perplexidade_do_gabarito": perplexity(losses),
        "por_tipo": _by(lines, "kind"),
        "por_dificuldade": _by(lines, "difficulty"),
        "tokens_no_prompt": sum(prompt_tokens) / len(prompt_tokens),
        "segundos": elapsed,
        "perguntas_por_segundo": len(rows) / elapsed,
    }
    del model
    gc.collect()
    return result, lines


def _by(lines: list[dict], key: str) -> dict[str, dict]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        groups[line[key]].append(line["correct"])
    return {name: proportion(flags) for name, flags in sorted(groups.items())}


def _gold_losses(
    model, tokenizer, config: Config, rows: list[dict], schema: str, label: str
) -> list[tuple[float, int]]:
    """Perda da resposta de referência, por pergunta: (soma em nats, tokens da resposta)."""
    from model import answer_losses

    pairs = [encode_pair(tokenizer, config, row["question"], row["sql"], schema) for row in rows]
    losses: dict[int, tuple[float, int]] = {}
    bar = tqdm(total=len(rows), desc=f"Perplexidade ({label})", unit="pergunta", file=sys.stdout)
    for batch in answer_losses(model, tokenizer, pairs, config.generation.batch_size):
        losses |= {index: (loss, count) for index, loss, count in batch}
        bar.update(len(batch))
    bar.close()
    return [losses[i] for i in range(len(rows))]


def extract_sql(answer: str) -> str:
    """Tira a cerca de código e o que vier depois do primeiro `;` (modelos sem treino as usam)."""
    text = answer.strip()
    if "```" in text:
        text = text.split("```")[1]
        text = text.removeprefix("sqlite").removeprefix("sql")
    return text.split(";")[0].strip()


def normalize_sql(sql: str) -> str:
    """Espaços simples e sem ponto e vírgula: para a correspondência exata."""
    return " ".join(sql.split()).rstrip(";")


def _summary(
    config: Config, split: str, questions: Path | None, results: dict, details: list[dict]
) -> dict:
    summary = {
        "script": "evaluate.py",
        "quando": datetime.now().astimezone().isoformat(timespec="seconds"),
        "comando": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "maquina": {"sistema": platform.platform(), "processador": _cpu_name()},
        "versoes": {name: version(name) for name in LIBRARIES},
        "modelo": config.model.name,
        "perguntas": str(questions) if questions else split,
        "configuracao": config.model_dump(),
        "variantes": results,
        "treino": _training_summary(config),
    }
    if BASE in results and TUNED in results:
        flags = {label: [x["correct"] for x in details if x["variant"] == label]
                 for label in (BASE, TUNED)}  # fmt: skip
        summary["mcnemar_base_treinado"] = mcnemar(flags[BASE], flags[TUNED])
    return summary


def _training_summary(config: Config) -> dict | None:
    path = config.output_dir / "treino.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def percent(part: dict) -> str:
    """Fração com intervalo, em porcentagem: `71,2% [66,1; 75,8]`."""
    low, high = part["ic95"]
    text = f"{100 * part['valor']:.1f}% [{100 * low:.1f}; {100 * high:.1f}]"
    return text.replace(".", ",")


def table(summary: dict) -> str:
    """A tabela final, em texto: variantes lado a lado, com intervalos de 95%."""
    variants = summary["variantes"]
    rows = [["", *variants]]
    for label, key in (("acurácia de execução", "acuracia_execucao"), ("SQL válido", "sql_valido"),
                       ("igual à referência", "correspondencia_exata")):  # fmt: skip
        rows.append([label, *(percent(v[key]) for v in variants.values())])
    cells = [v["perplexidade_do_gabarito"] for v in variants.values()]
    rows.append(["perplexidade da referência",
                 *(f"{c['valor']:.3f} [{c['ic95'][0]:.3f}; {c['ic95'][1]:.3f}]".replace(".", ",")
                   for c in cells)])  # fmt: skip
    rows.append(["tokens no prompt",
                 *(f"{v['tokens_no_prompt']:.0f}" for v in variants.values())])  # fmt: skip
    for level in ("fácil", "média", "difícil"):
        parts = [v["por_dificuldade"].get(level) for v in variants.values()]
        if all(parts):
            rows.append([f"  {level} ({parts[0]['total']})", *(percent(p) for p in parts)])
    for name in next(iter(variants.values()))["por_tipo"]:
        parts = [v["por_tipo"][name] for v in variants.values()]
        rows.append([f"  {name} ({parts[0]['total']})", *(percent(p) for p in parts)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    total = next(iter(variants.values()))["acuracia_execucao"]["total"]
    lines.insert(0, f"\n{total} perguntas; intervalos de 95% entre colchetes")
    test = summary.get("mcnemar_base_treinado")
    if test:
        p_value = f"{test['p_valor']:.2g}".replace(".", ",")
        lines.append(
            f"McNemar: {test['so_segunda']} perguntas só o treinado acerta, "
            f"{test['so_primeira']} só o base; p = {p_value}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_main(main))
