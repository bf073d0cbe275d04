"""Mede a acurácia de execução: o modelo sem treino, com o esquema no prompt, e o treinado.

    python evaluate.py                                   # o teste em palavras livres
    python evaluate.py --forms todas                     # mais cada forma de export.py
    python evaluate.py --few-shot 4                      # mais o sem treino, com exemplos no prompt
    python evaluate.py --config configs/rapido.yaml      # o da demonstração
    python evaluate.py --wordings                        # mais o treinado, sem acentos e com erros
    python evaluate.py --also models/full                # mais outro treino, lado a lado
    python evaluate.py --split teste_gerado              # esqueletos de SQL inéditos
    python evaluate.py --questions minhas.jsonl          # qualquer conjunto (question, sql)

Cada resposta é executada em todos os bancos; decodificação gulosa. Sai um JSON em `resultados/`,
com intervalos de 95%, e um JSONL com uma linha por pergunta e variante. A acurácia é a das mesmas
perguntas em todas as variantes; a latência e a memória são as de perguntas feitas uma a uma, cada
variante num processo só dela: noutro, que já usou o torch, o llama.cpp demora quase o dobro.
"""

import gc
import json
import multiprocessing
import platform
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

from data_prep import load_split, read_questions
from loja_sql.config import (
    RESULTS_DIR,
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    as_trained,
    config_from_args,
    resolve,
    run_main,
    trained_kind,
    write_atomic,
)
from loja_sql.model.engines import Engine, TransformersEngine, exported_forms, form_list, open_form
from loja_sql.model.memory import MemoryGrowth
from loja_sql.prompt import Examples, encode_pair, extract_sql, render
from loja_sql.questions.generator import typo, without_accents
from loja_sql.questions.retrieval import Bm25
from loja_sql.scores.metrics import bleu, mcnemar, perplexity, proportion
from loja_sql.sql.causes import cause
from loja_sql.sql.comparison import judge, reference_problem
from loja_sql.sql.database import Database, DatabaseError
from loja_sql.sql.features import difficulty, kind
from tqdm import tqdm

BASE, TUNED = "base com esquema", "treinado"
BASE_SYSTEM = (
    "You translate questions in Portuguese into one SQLite query. Answer with the SQL query only, "
    "no explanation."
)
WORDINGS = {
    "sem acentos": without_accents,
    "com erro de digitação": lambda question: typo(question, random.Random(question)),
}
UNTRAINED = ("base", "exemplos")
GROUPS = (*UNTRAINED, "treinado", "redacoes", "outros", "formas")
LIBRARIES = ["torch", "transformers", "peft", "trl", "datasets"]


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Mede a acurácia de execução do modelo base e do treinado."
    )
    add_config_arguments(parser)
    parser.add_argument("--split", default="teste", help="divisão a usar (padrão: teste)")
    parser.add_argument("--questions", type=Path, metavar="ARQUIVO",
                        help="CSV ou JSONL (question, sql) no lugar da divisão")  # fmt: skip
    parser.add_argument("--only", choices=GROUPS, action="append", metavar="GRUPO",
                        help="mede só base (o modelo sem treino), exemplos (ele com --few-shot), "
                        "treinado, redacoes (--wordings), outros (--also) ou formas (--forms); "
                        "pode repetir")  # fmt: skip
    parser.add_argument("--add", action="store_true",
                        help="junta ao resultado já gravado das mesmas perguntas (se ele é de "
                        "outro treino, aproveita só as medidas do modelo sem treino)")  # fmt: skip
    parser.add_argument("--forms", type=form_list, default=[], metavar="LISTA",
                        help="mede também formas exportadas (bf16,q8_0 ou todas)")  # fmt: skip
    parser.add_argument("--few-shot", type=int, default=0, metavar="K",
                        help="mede o modelo sem treino com K exemplos do treino no prompt: fixos, "
                        "e os mais parecidos com cada pergunta (BM25)")  # fmt: skip
    parser.add_argument("--wordings", action="store_true",
                        help="mede também o treinado com as perguntas sem acentos e com um erro "
                        "de digitação em cada uma")  # fmt: skip
    parser.add_argument("--also", type=resolve, action="append", metavar="PASTA",
                        help="mede também o treinado nesta pasta (pode repetir)")  # fmt: skip
    parser.add_argument("--name", default=None, help="nome do arquivo de resultados")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)
    command = shlex.join(["python", Path(__file__).name, *(sys.argv[1:] if argv is None else argv)])
    evaluate(config, args.split, args.questions, args.only, args.name, args.forms, args.few_shot,
             args.add, args.wordings, args.also, command)  # fmt: skip
    return 0


def evaluate(
    config: Config,
    split: str = "teste",
    questions: Path | None = None,
    only: list[str] | None = None,
    name: str | None = None,
    forms: list[str] | None = None,
    few_shot: int = 0,
    add: bool = False,
    wordings: bool = False,
    also: list[Path] | None = None,
    command: str = "python evaluate.py",
) -> dict:
    """Avalia as variantes, grava os resultados depois de cada uma e devolve o resumo."""
    try:
        databases = [Database(p, config.database.time_limit_s) for p in config.databases]
    except DatabaseError as error:
        raise UserError(str(error)) from error
    rows = _questions(config, split, questions, databases)
    variants = [
        variant
        for variant in _variants(config, forms or [], few_shot, wordings, also or [])
        if only is None or variant.group in only
    ]
    if not variants:
        raise UserError("não sobrou nenhuma variante para medir; confira --only e --forms.")
    name = name or f"mini_projeto_{config.output_dir.name}_{questions.stem if questions else split}"
    results, details = _earlier(config, name, rows) if add else ({}, [])
    for variant in variants:
        scores, lines = _score_variant(variant, rows, databases)
        scores = {"comando": command, **scores}
        details = [x for x in details if x["variant"] != variant.label] + lines
        results = dict(sorted((results | {variant.label: scores}).items(), key=_table_order))
        summary = _summary(config, split, questions, results, details)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in details)
        write_atomic(RESULTS_DIR / f"{name}.jsonl", text)
        text = json.dumps(summary, ensure_ascii=False, indent=2)
        write_atomic(RESULTS_DIR / f"{name}.json", text)
    print(table(summary))
    print(f"Resultados: {RESULTS_DIR / name}.json (e .jsonl, uma linha por pergunta)")
    return summary


def _table_order(item: tuple[str, dict]) -> int:
    """A ordem dos grupos; no mesmo grupo, a ordem de medida."""
    return GROUPS.index(item[1]["grupo"])


def _earlier(config: Config, name: str, rows: list[dict]) -> tuple[dict, list[dict]]:
    """As variantes já medidas em `name`, se as perguntas são as mesmas.

    As do modelo sem treino valem sempre; as outras, só se o treino ainda é o mesmo.
    """
    path = RESULTS_DIR / f"{name}.json"
    if not path.is_file():
        return {}, []
    summary = json.loads(path.read_text(encoding="utf-8"))
    text = path.with_suffix(".jsonl").read_text(encoding="utf-8")
    details = [json.loads(line) for line in text.splitlines()]
    same = {x["id"] for x in details} == {row["id"] for row in rows} and {
        x["gold"] for x in details
    } == {row["sql"] for row in rows}
    if not same:
        raise UserError(f"{path} é de outras perguntas; rode sem --add, ou dê outro --name.")
    results = summary["variantes"]
    if summary.get("treino") != _training_summary(config.output_dir):
        print(f"{path} é de outro treino: dele ficam só as medidas do modelo sem treino.")
        results = {x: part for x, part in results.items() if part["grupo"] in UNTRAINED}
    return results, [line for line in details if line["variant"] in results]


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


@dataclass(frozen=True)
class Variant:
    """O que se mede: a configuração do seu prompt, o adaptador e a forma exportada (ou nenhuma).

    `group` é o nome com que `--only` a escolhe. `examples` dá, para uma pergunta, os exemplos que a
    antecedem no prompt; `reword` a reescreve.
    """

    label: str
    group: str
    config: Config
    adapter: Path | None = None
    form: str | None = None
    examples: Callable[[str], Examples] = lambda question: ()
    reword: Callable[[str], str] = lambda question: question

    @property
    def training(self) -> dict | None:
        """O resumo do treino de que saiu; None para o modelo sem treino."""
        return None if self.adapter is None else _training_summary(self.adapter)

    @property
    def weights_bytes(self) -> int | None:
        """Bytes dos pesos em disco; None se o modelo base não é uma pasta local."""
        base = Path(self.config.model_path)
        folders = [base] if base.is_dir() else []
        if self.adapter is not None:
            folders.append(self.adapter)
        if self.adapter is not None and trained_kind(self.adapter) == "full":
            folders = [self.adapter]
        if self.form is not None:
            folders = [exported_forms(self.adapter)[self.form]]
        files = [f for p in folders for f in ([p] if p.is_file() else p.glob("*.safetensors"))]
        return sum(file.stat().st_size for file in files) if base.is_dir() or self.form else None


def _open(config: Config, adapter: Path | None, form: str | None) -> Engine:
    if form is not None:
        return open_form(config, adapter, form)
    return TransformersEngine(config, adapter)


def _variants(
    config: Config,
    forms: list[str],
    few_shot: int,
    wordings: bool,
    also: list[Path],
) -> list[Variant]:
    """O sem treino (e com exemplos), o treinado (e com ruído), os outros treinos e as formas."""
    base = config.model_copy(deep=True)
    base.prompt.system, base.prompt.schema_in_prompt = BASE_SYSTEM, True
    base.generation.max_new_tokens = config.evaluation.base_max_new_tokens
    variants = [Variant(BASE, "base", base), *_with_examples(base, few_shot)]
    adapter = config.output_dir
    if trained_kind(adapter) is None:
        print(f"Não há modelo treinado em {adapter}: só o modelo base será medido.")
        return variants
    tuned = as_trained(config, adapter)
    variants.append(Variant(TUNED, "treinado", tuned, adapter))
    if wordings:
        variants += [Variant(f"{TUNED}, {name}", "redacoes", tuned, adapter, reword=reword)
                     for name, reword in WORDINGS.items()]  # fmt: skip
    for folder in also:
        other = as_trained(config, folder)
        variants.append(Variant(f"{TUNED}, {folder.name}", "outros", other, folder))
    ready = exported_forms(adapter)
    for form in forms:
        if form in ready:
            variants.append(Variant(f"{TUNED}, {form}", "formas", tuned, adapter, form))
        else:
            print(f"A forma {form} não está exportada e não será medida (python export.py).")
    repeated = [x for x, n in Counter(variant.label for variant in variants).items() if n > 1]
    if repeated:
        raise UserError(
            f"duas variantes se chamariam `{repeated[0]}`: dê às pastas de --also nomes diferentes "
            "entre si e dos das formas."
        )
    return variants


def _with_examples(base: Config, count: int) -> list[Variant]:
    """O modelo sem treino com `count` exemplos do treino: sempre os mesmos, ou os parecidos."""
    if not count:
        return []
    pairs = [(row["question"], row["sql"]) for row in load_split(base, "treino")]
    fixed = [pairs[i * len(pairs) // count] for i in range(min(count, len(pairs)))]
    index = Bm25([question for question, _ in pairs])

    def similar(question: str) -> Examples:
        # O mais parecido por último, junto da pergunta.
        return [pairs[i] for i in reversed(index.nearest(question, count))]

    return [
        Variant(f"{BASE}, {count} exemplos", "exemplos", base, examples=lambda question: fixed),
        Variant(f"{BASE}, {count} parecidos", "exemplos", base, examples=similar),
    ]


def _score_variant(
    variant: Variant, rows: list[dict], databases: list[Database]
) -> tuple[dict, list[dict]]:
    label, config = variant.label, variant.config
    rows = [row | {"question": variant.reword(row["question"])} for row in rows]
    engine = _open(config, variant.adapter, variant.form)
    tokenizer, schema = engine.tokenizer, databases[0].schema
    examples = [variant.examples(row["question"]) for row in rows]
    prompts = [
        render(tokenizer, config, row["question"], schema, shown)
        for row, shown in zip(rows, examples, strict=True)
    ]
    answers: dict[int, str] = {}
    limits = config.generation
    started = time.perf_counter()
    bar = tqdm(total=len(rows), desc=f"Respondendo ({label})", unit="pergunta", file=sys.stdout)
    for batch in engine.generate(prompts, limits.max_new_tokens, limits.batch_size):
        answers.update(batch)
        bar.update(len(batch))
    bar.close()
    elapsed = time.perf_counter() - started
    pairs = [
        encode_pair(tokenizer, config, row["question"], row["sql"], schema, shown)
        for row, shown in zip(rows, examples, strict=True)
    ]
    losses = _gold_losses(engine, pairs, limits.batch_size, label)
    prompt_tokens = [len(i) for i in tokenizer(prompts, add_special_tokens=False).input_ids]
    engine_name = engine.name
    engine.close()
    del engine
    gc.collect()
    timed = spread(prompts, config.evaluation.timed)
    alone, memory = in_own_process(
        answer_alone, config, variant.adapter, variant.form, timed, limits.max_new_tokens, label
    )
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
                "cause": None if correct else cause(row["sql"], predicted, error),
            }
        )  # fmt: skip
    result = {
        "grupo": variant.group,
        "motor": engine_name,
        "acuracia_execucao": proportion([x["correct"] for x in lines]),
        "sql_valido": proportion([x["error"] is None for x in lines]),
        "correspondencia_exata": proportion([x["exact"] for x in lines]),
        "bleu": bleu([x["predicted"] for x in lines], [x["gold"] for x in lines]),
        "perplexidade_do_gabarito": perplexity(losses) if losses else None,
        "por_tipo": _by(lines, "kind"),
        "por_dificuldade": _by(lines, "difficulty"),
        "causas_dos_erros": dict(Counter(x["cause"] for x in lines if x["cause"]).most_common()),
        "tokens_no_prompt": sum(prompt_tokens) / len(prompt_tokens),
        "bytes_dos_pesos": variant.weights_bytes,
        "memoria_bytes": memory,
        "uma_a_uma": alone,
        "treino": variant.training,
        "segundos": elapsed,
        "perguntas_por_segundo": len(rows) / elapsed,
    }
    return result, lines


def in_own_process(measure: Callable, *arguments):
    """Chama `measure(*arguments)` num processo novo, que acaba com a resposta."""
    spawn = multiprocessing.get_context("spawn")  # uma cópia deste traria o torch já em uso
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
            return pool.submit(measure, *arguments).result()
    except BrokenProcessPool as error:
        raise UserError(
            "o processo que mede a latência morreu, talvez por falta de memória. Feche outros "
            "programas e repita com --add, que aproveita o que já foi medido."
        ) from error


def answer_alone(
    config: Config,
    adapter: Path | None,
    form: str | None,
    prompts: list[str],
    max_new_tokens: int,
    label: str,
) -> tuple[dict, int | None]:
    """Responde os prompts um a um: (o resumo de `latency`, bytes que o modelo acrescentou).

    A memória é a de responder; o pico de carregar o modelo, que passa, não entra.
    """
    from loja_sql.model import loading as model  # noqa: F401  (as bibliotecas, comuns a todas as variantes, não contam)

    memory = MemoryGrowth()
    engine = _open(config, adapter, form)
    memory.restart_peak()
    alone = latency(*one_by_one(engine, prompts, max_new_tokens, label))
    grown = memory.peak()
    engine.close()
    return alone, grown


def one_by_one(
    engine: Engine, prompts: list[str], max_new_tokens: int, label: str
) -> tuple[list[float], int]:
    """Responde como a quem espera sozinho: (segundos de cada resposta, tokens de todas).

    A primeira resposta só aquece o motor e não conta.
    """
    for _ in engine.stream(prompts[0], max_new_tokens):
        pass
    seconds, tokens = [], 0
    for prompt in tqdm(prompts, desc=f"Uma a uma ({label})", unit="pergunta", file=sys.stdout):
        started, answer = time.perf_counter(), ""
        for answer in engine.stream(prompt, max_new_tokens):  # noqa: B007  (fica a última)
            pass
        seconds.append(time.perf_counter() - started)
        tokens += len(engine.tokenizer(answer, add_special_tokens=False).input_ids)
    return seconds, tokens


def latency(seconds: list[float], tokens: int) -> dict:
    """O resumo de `one_by_one`: p50 e p95 em segundos, e tokens por segundo, com o prompt."""
    ranked = sorted(seconds)
    return {
        "perguntas": len(ranked),
        "p50_s": statistics.median(ranked),
        "p95_s": ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))],
        "tokens_por_segundo": tokens / sum(ranked),
    }


def _by(lines: list[dict], key: str) -> dict[str, dict]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        groups[line[key]].append(line["correct"])
    return {name: proportion(flags) for name, flags in sorted(groups.items())}


def _gold_losses(
    engine: Engine, pairs: list[tuple[list[int], list[int]]], batch_size: int, label: str
) -> list[tuple[float, int]] | None:
    """Perda da resposta de referência, por pergunta: (soma em nats, tokens da resposta).

    None se o motor não a mede.
    """
    batches = engine.losses(pairs, batch_size)
    if batches is None:
        return None
    losses: dict[int, tuple[float, int]] = {}
    bar = tqdm(total=len(pairs), desc=f"Perplexidade ({label})", unit="pergunta", file=sys.stdout)
    for batch in batches:
        losses |= {index: (loss, count) for index, loss, count in batch}
        bar.update(len(batch))
    bar.close()
    return [losses[i] for i in range(len(pairs))]


def normalize_sql(sql: str) -> str:
    """Espaços simples e sem ponto e vírgula: para a correspondência exata."""
    return " ".join(sql.split()).rstrip(";")


def _summary(
    config: Config, split: str, questions: Path | None, results: dict, details: list[dict]
) -> dict:
    summary = {
        "script": "evaluate.py",
        "quando": datetime.now().astimezone().isoformat(timespec="seconds"),
        "comando": " && ".join(dict.fromkeys(part["comando"] for part in results.values())),
        "commit": _commit(),
        "maquina": {"sistema": platform.platform(), "processador": _cpu_name()},
        "versoes": {name: version(name) for name in LIBRARIES},
        "modelo": config.model.name,
        "perguntas": str(questions) if questions else split,
        "configuracao": config.model_dump(),
        "variantes": results,
        "treino": _training_summary(config.output_dir),
    }
    flags = {label: [x["correct"] for x in details if x["variant"] == label] for label in results}
    if BASE in results and TUNED in results:
        summary["mcnemar_base_treinado"] = mcnemar(flags[BASE], flags[TUNED])
    if TUNED in results:
        summary["mcnemar_treinado_forma"] = {
            label: mcnemar(flags[TUNED], flags[label])
            for label, part in results.items()
            if part["grupo"] not in (*UNTRAINED, "treinado")
        }
    return summary


def _training_summary(adapter: Path) -> dict | None:
    path = adapter / "treino.json"
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
    """As tabelas finais, em texto: notas com intervalos de 95%, tamanho e tempo."""
    variants = summary["variantes"]
    total = next(iter(variants.values()))["acuracia_execucao"]["total"]
    lines = [f"\n{total} perguntas; intervalos de 95% entre colchetes"]
    lines += _aligned(_score_rows(variants))
    lines += ["", "Perguntas feitas uma a uma:"]
    lines += _aligned(_cost_rows(variants))
    test = summary.get("mcnemar_base_treinado")
    if test:
        lines.append(
            f"\nMcNemar: {test['so_segunda']} perguntas só o treinado acerta, "
            f"{test['so_primeira']} só o base; p = {_p_value(test)}"
        )
    for label, test in summary.get("mcnemar_treinado_forma", {}).items():
        lines.append(
            f"McNemar, {label}: perde {test['so_primeira']} do treinado, ganha "
            f"{test['so_segunda']}; p = {_p_value(test)}"
        )
    return "\n".join(lines)


def _score_rows(variants: dict) -> list[list[str]]:
    rows = [["", *variants]]
    for label, key in (("acurácia de execução", "acuracia_execucao"), ("SQL válido", "sql_valido"),
                       ("igual à referência", "correspondencia_exata")):  # fmt: skip
        rows.append([label, *(percent(v[key]) for v in variants.values())])
    cells = [v["perplexidade_do_gabarito"] for v in variants.values()]
    rows.append(["perplexidade da referência",
                 *(_decimal(c["valor"], 3, c["ic95"]) if c else "–" for c in cells)])  # fmt: skip
    cells = [v["bleu"] for v in variants.values()]
    rows.append(["BLEU", *(_decimal(c["valor"], 1, c["ic95"]) for c in cells)])
    rows.append(["tokens no prompt",
                 *(f"{v['tokens_no_prompt']:.0f}" for v in variants.values())])  # fmt: skip
    for level in ("fácil", "média", "difícil"):
        parts = [v["por_dificuldade"].get(level) for v in variants.values()]
        if all(parts):
            rows.append([f"  {level} ({parts[0]['total']})", *(percent(p) for p in parts)])
    for name in next(iter(variants.values()))["por_tipo"]:
        parts = [v["por_tipo"][name] for v in variants.values()]
        rows.append([f"  {name} ({parts[0]['total']})", *(percent(p) for p in parts)])
    return rows


def _cost_rows(variants: dict) -> list[list[str]]:
    rows = [["", "motor", "p50", "p95", "tokens/s", "pesos", "memória", "treino"]]
    for label, part in variants.items():
        alone, training = part["uma_a_uma"], part["treino"]
        rows.append([label, part["motor"], f"{_decimal(alone['p50_s'], 2)} s",
                     f"{_decimal(alone['p95_s'], 2)} s",
                     _decimal(alone["tokens_por_segundo"], 1),
                     _megabytes(part["bytes_dos_pesos"]), _megabytes(part["memoria_bytes"]),
                     f"{training['minutos']:.0f} min" if training else "–"])  # fmt: skip
    return rows


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.0f} MB"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return lines


def _decimal(value: float, digits: int, interval: list[float] | None = None) -> str:
    text = f"{value:.{digits}f}"
    if interval:
        text += f" [{interval[0]:.{digits}f}; {interval[1]:.{digits}f}]"
    return text.replace(".", ",")


def _p_value(test: dict) -> str:
    return f"{test['p_valor']:.2g}".replace(".", ",")


if __name__ == "__main__":
    sys.exit(run_main(main))
