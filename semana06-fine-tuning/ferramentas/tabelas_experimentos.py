"""As tabelas que registrar_experimentos.py preenche: de que resultado vêm e que linhas têm.

Cada função de `ROWS` lê um resultado e dá, par a par, o nome de uma tabela e uma linha dela. Para
acrescentar uma tabela: as colunas em `tabelas.yaml`, as linhas na função do resultado de que vêm e
as duas marcas onde ela deve aparecer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from comum import results
from comum.labels import CLASSIFIERS, DIRT, MEMORY, SCORES, SPLITS
from comum.numbers import MIB, MISSING, decimal, general, interval, p_value, percent, signed
from comum.results import Score

import yaml

LAYOUT = Path(__file__).with_name("tabelas.yaml")
Cell = str | float | Score | None
Rows = Iterator[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Source:
    """Um resultado: a forma, o nome do arquivo (o do comando curto, na falta dele) e o comando."""

    shape: type[results.Result]
    names: tuple[str, str]
    command: str


@dataclass(frozen=True)
class Table:
    name: str
    header: tuple[str, ...]
    formats: tuple[str, ...]
    sources: list[Source]


def _lesson(shape: type[results.Result], name: str, script: str) -> Source:
    command = f"python semana06-fine-tuning/exemplos/{script}"
    return Source(shape, (name, f"{name}_quick"), command)


PROJECT = "python semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado"
PROJECT_NAMES = ("mini_projeto_lora_test", "mini_projeto_rapido_test")
DAY6 = "exemplo_04_dataset_preparation.py"
DAY7 = Source(results.Evaluation, PROJECT_NAMES, f"{PROJECT}/evaluate.py")
STUDY = "python semana06-fine-tuning/exemplos/dia4/estudo.py --level full"
SOURCES = {
    "day3": _lesson(results.Day3, "dia3_full", "exemplo_01_fine_tuning_basico.py"),
    "day4": _lesson(results.Day4, "dia4_lora", "exemplo_02_lora_peft.py"),
    "study": Source(results.Day4Study, ("dia4_estudo_full", "dia4_estudo_quick"), STUDY),
    "day5": _lesson(results.Day5, "dia5_quantizacao", "exemplo_03_quantizacao.py"),
    "data": _lesson(results.Day6Data, "dia6_dados", DAY6),
    "metrics": _lesson(results.Day6Metrics, "dia6_metricas", DAY6),
    "tuning": _lesson(results.Day6Training, "dia6_treino", DAY6),
    "day7": DAY7,
    "few_shot": replace(DAY7, command=f"{DAY7.command} --few-shot 4"),
    "forms": replace(DAY7, command=f"{DAY7.command} --forms all"),
    "train": replace(DAY7, command=f"{PROJECT}/train.py` e, depois, `{DAY7.command}"),
}
TABLES: dict[str, Table] = {}
for place, columns in yaml.safe_load(LAYOUT.read_text(encoding="utf-8")).items():
    name, sources = place.split(", ")
    header, formats = zip(*(f"{x} :".split(" :")[:2] for x in columns.split(" | ")), strict=True)
    TABLES[name] = Table(name, header, formats, [SOURCES[x] for x in sources.split()])


def rows_of(table: Table, result: results.Result) -> list[list[str]]:
    """As linhas que um resultado dá a uma tabela, na ordem, já escritas."""
    found = (pair for function in ROWS[type(result)] for pair in function(result))
    rows = (row for name, row in found if name == table.name)
    return [[_written(*cell) for cell in zip(row, table.formats, strict=True)] for row in rows]


WRITERS: dict[str, Callable[[float], str]] = {
    "mib": lambda size: decimal(size / MIB),
    "x": lambda times: decimal(times, 2, "x"),
    "g": general,
    "p": p_value,
}


def _written(cell: Cell, kind: str) -> str:
    """A célula em português: um de `WRITERS`, ou as casas decimais, depois de `%` se é fração."""
    if cell is None or isinstance(cell, str):
        return MISSING if cell is None else cell
    if kind in WRITERS:
        return WRITERS[kind](cell)
    share, places = kind.startswith("%"), int(kind.lstrip("%") or 0)
    if isinstance(cell, Score):
        return interval(cell, places, 100 if share else 1)
    return percent(cell, places) if share else decimal(cell, places)


# --- células --------------------------------------------------------------------------------------
def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _ratio_row(label: str, values: list, places: int = 0, share: int = 3) -> list[str]:
    """Dois valores e quantas vezes o segundo é o primeiro."""
    ratio = decimal(_over(values[1], values[0]), share)
    return [label, *(decimal(value, places) for value in values), ratio]


def _score_row(key: str, before: Score | None, after: Score | None, suffix: str = "") -> list[str]:
    label, places, scale = SCORES[key]
    return [label + suffix, *(interval(score, places, scale) for score in (before, after))]


def _apart(pair: list[Score | None], yes: str = "sim", no: str = "não") -> str:
    """Diz se os intervalos das duas medidas ficam sem nada em comum."""
    return MISSING if None in pair else yes if pair[0].apart(pair[1]) else no


def _test_scores(runs: list[results.TrainingRun | None]) -> Iterator[list[str]]:
    """As notas de teste de dois treinos, e se os intervalos as separam."""
    for key in ("perplexity_token", "next_token_accuracy", "bleu"):
        pair = [run and run.test.get(key) for run in runs]
        verdict = _apart(pair, "intervalos separados", "intervalos se tocam")
        yield [*_score_row(key, *pair, suffix=", teste"), verdict]


def _memory(measures: list[results.MemoryParts | None], total: str) -> Iterator[tuple[str, list]]:
    """As quatro parcelas e a soma, em cada medida."""
    for part, label in MEMORY.items():
        yield label, [measure and getattr(measure, part) for measure in measures]
    yield f"**{total}**", [measure and measure.total for measure in measures]


def _text(value: float | int | str | list[str]) -> str:
    """O valor de um hiperparâmetro, como se escreve em português."""
    if isinstance(value, list):
        return " + ".join(value)
    return general(value) if isinstance(value, float) else str(value)


def _described(row: results.StudyRow) -> str:
    """O que muda em relação ao ponto base: `r = 42, alpha = 84`."""
    return ", ".join(f"{key} = {_text(x)}" for key, x in row.change.items()) or "ponto base"


def _spread(row: results.StudyRow) -> str:
    return decimal(row.perplexity, 2) + (f" ± {decimal(row.spread, 2)}" if row.spread else "")


def _summary(result: results.Result, day: str, what: str, measure: str, *pair: Cell) -> tuple:
    """A linha que o resultado tem no resumo da semana."""
    return "resumo_semana", [day, what, measure, *pair, f"`{result.command}`"]


# --- dias 2 e 3 -----------------------------------------------------------------------------------
def day3(result: results.Day3) -> Rows:
    for key in (key for key in SCORES if key in result.before and key in result.after):
        before, after = result.before[key], result.after[key]
        _, places, scale = SCORES[key]
        change = signed(100 * (after.value / before.value - 1), 1, "%")
        if key in ("next_token_accuracy", "bleu"):
            change = signed(scale * (after.value - before.value), places, " pontos")
        yield "dia3_notas", [*_score_row(key, before, after), change, _apart([before, after])]
    for label, pair in _memory([result.memory_predicted, result.memory_measured], "soma"):
        yield "dia3_memoria", [label, *pair, _over(pair[1], pair[0])]
    losses = [(p.eval_loss, p.step) for p in result.curve if p.eval_loss is not None]
    best = min(losses, default=(None, None))
    settings = [result.epochs, result.batch_size, result.learning_rate, result.train_minutes]
    yield "dia3_treino", [result.model.split("/")[-1], result.parameters, *settings, *best]
    pair = [scores.get("perplexity_token") for scores in (result.before, result.after)]
    what = "fine-tuning de todos os pesos"
    yield _summary(result, "3", what, "perplexidade por token, teste", *pair)


# --- dia 4: LoRA ----------------------------------------------------------------------------------
def day4(result: results.Day4) -> Rows:
    for text, passed in result.checks.items():
        yield "dia2_conferencias", [text, "certo" if passed else "**ERRADO**"]
    runs = [result.runs.get(name) for name in ("full", "lora")]
    measures = [[run and run.memory_predicted, run and run.memory_measured] for run in runs]
    for label, values in _memory(sum(measures, []), "soma das quatro"):
        yield "dia4_memoria", [label, *values, _over(values[3], values[1])]
    full, lora = [run and run.peak_mib for run in runs]
    yield "dia4_memoria", ["pico do processo inteiro", "", full, "", lora, _over(lora, full)]
    for row in (
        _ratio_row("parâmetros treináveis", [run and run.trainable_parameters for run in runs]),
        _ratio_row("treino (min)", [run and run.seconds / 60 for run in runs], 1),
        _ratio_row("tokens por segundo", [run and run.tokens_per_second for run in runs]),
        _ratio_row("salvo em disco (MiB)", [run and run.disk_mib for run in runs], 1),
        *_test_scores(runs),
    ):
        yield "dia4_metodos", row
    pair = [run and run.test.get("perplexity_token") for run in runs]
    what = "LoRA no lugar de todos os pesos"
    yield _summary(result, "4", what, "perplexidade por token, teste", *pair)


def study(result: results.Day4Study) -> Rows:
    base, *others = result.rows
    chosen = result.chosen
    for row in result.rows:
        what = ("→ " if row == chosen else "") + _described(row)
        costs = [row.trainable_parameters, row.minutes]
        yield "dia4_estudo", [row.factor, what, _spread(row), row.test, *costs]
        if row.factor in ("base", "method"):
            name = str(row.change.get("method", "lora (ponto base)"))
            yield "dia4_variantes", [name, _spread(row), *costs, row.peak_mib]
    for factor in dict.fromkeys(row.factor for row in others):
        tried = [row for row in others if row.factor == factor]
        best = min([base, *tried], key=lambda row: row.perplexity)
        names = "; ".join(_text(row.change[factor]) for row in tried)
        yield "dia4_melhor", [factor, names, _described(best), _spread(best), _spread(base)]
    row = ["**escolhida pela regra**", "", f"**{_described(chosen)}**"]
    yield "dia4_melhor", [*row, _spread(chosen), _spread(base)]
    what = f"estudo: {_described(chosen)} no lugar do ponto base"
    pair = _spread(base), _spread(chosen)
    yield _summary(result, "4", what, "perplexidade por token, validação", *pair)


# --- dia 5: quantização ---------------------------------------------------------------------------
def techniques(result: results.Day5) -> Rows:
    """Aceleração (decodificação, lote 1), memória em uso e qualidade, em relação ao fp32."""
    base = result.techniques["fp32"]
    reference = base.scores["perplexity_token"]
    for name, found in result.techniques.items():
        one, eight = found.speed["1"], found.speed["8"]
        perplexity = found.scores["perplexity_token"]
        sizes = [found.disk_bytes, found.memory_bytes, found.peak_mib]
        shares = [found.memory_bytes / base.memory_bytes, reference.value / perplexity.value]
        row = [name, *sizes, _over(one.decode, base.speed["1"].decode), *shares, perplexity]
        yield "dia5_tecnicas", [*row, found.scores.get("kl_fp32")]
        row = [name, found.predicted_disk_bytes, found.disk_bytes, found.quantize_seconds]
        yield "dia5_custos", [*row, one.prefill, one.decode, eight.decode]
        if name in ("bnb-int8", "bnb-nf4-double", "gptq-4bit-g64"):
            what = f"{name} no lugar de fp32"
            yield _summary(result, "5", what, "perplexidade por token", reference, perplexity)
    for name, why in result.absent.items():
        yield "dia5_tecnicas", [name, f"ausente: {why}", *[""] * 7]


def quantization(result: results.Day5) -> Rows:
    trap, grids = result.trap, ("q4_1", "nf4")
    models = {"modelo base": trap.base, "depois do treino do dia 3": trap.trained}
    for label, model in models.items():
        pairs = [(model.perplexity[grid], model.weight_error[grid]) for grid in grids]
        yield "dia5_armadilha", [label, model.perplexity["none"], *sum(pairs, ())]
    yield "dia5_sobra", [trap.moved_steps, *(trap.kept[grid] for grid in grids)]
    for grid, gain in result.gptq_over_rounding.items():
        low, high = gain.ci95
        clear = "arredondar melhor" if high < 0 else "sem diferença clara"
        yield "dia5_gptq", [f"4 bits, {grid}", gain, "GPTQ melhor" if low > 0 else clear]
    for line in result.guide:
        yield "dia5_guia", [line]
    if not result.qlora:
        return
    runs = [result.qlora[name] for name in ("lora", "qlora")]
    weights = [run.memory_measured.weights for run in runs]
    for row in (
        _ratio_row("pesos na memória (MiB)", weights, share=2),
        _ratio_row("pico do processo (MiB)", [run.peak_mib for run in runs], share=2),
        _ratio_row("treino (s)", [run.seconds for run in runs], share=2),
        _ratio_row("tokens por segundo", [run.tokens_per_second for run in runs], share=2),
        *_test_scores(runs),
    ):
        yield "dia5_qlora", row


# --- dia 6: dados ---------------------------------------------------------------------------------
def data(result: results.Day6Data) -> Rows:
    leaks = f"{decimal(result.naive_leaks)} de {decimal(result.naive_held_out)}"
    yield "dia6_preparo", ["linhas lidas", result.read]
    yield "dia6_preparo", ["linhas aceitas", result.accepted]
    yield "dia6_preparo", ["reservadas que um sorteio simples deixaria no treino", leaks]
    covered = percent(result.vocabulary_coverage)
    yield "dia6_preparo", ["palavras do teste que o treino já mostrou", covered]
    for split in (split for split in ("train", "test") if split in result.tokens):
        found = result.tokens[split]
        sizes = ", ".join(map(decimal, (found.median, found.p95, found.maximum)))
        label = f"tokens por conversa, {SPLITS[split]} (mediana, 95%, máximo)"
        yield "dia6_preparo", [label, sizes]
    for kind, count in result.dirt.items():
        yield "dia6_defeitos", [DIRT[kind], count, result.rejected.get(kind, 0)]
    for name, rows in result.formats.items():
        yield "dia6_conjunto", [name, *map(rows.get, SPLITS)]
    pair = decimal(result.read), decimal(result.accepted)
    yield _summary(result, "6", "dados brutos → dados prontos", "linhas", *pair)


def metrics(result: results.Day6Metrics) -> Rows:
    for name, pair in result.checks.items():
        yield "dia6_medidas", [name, pair.ours, pair.library]


def tuning(result: results.Day6Training) -> Rows:
    for name, found in result.texts.items():
        for key in ("perplexity_token", "bleu", "chrf", "rougeL"):
            pair = [found.before.get(key), found.after.get(key)]
            yield "dia6_formatos", [name, *_score_row(key, *pair), _apart(pair)]
    tried = result.classification.classifiers if result.classification else {}
    for name, found in tried.items():
        row = [CLASSIFIERS[name], found.accuracy, found.macro_f1]
        row += [found.train_seconds, found.answer_seconds, found.trainable_parameters]
        yield "dia6_classificadores", [*row, found.p_against_tfidf]


# --- dias 1 e 7: mini-projeto ---------------------------------------------------------------------
def variants(result: results.Evaluation) -> Rows:
    for name, found in result.variants.items():
        accuracy, loss = found.execution_accuracy, found.gold_perplexity
        row = [name, accuracy, found.valid_sql, found.exact_match]
        row += [loss or "o motor não informa", found.bleu, found.prompt_tokens]
        yield "dia7_resultados", row
        if found.group in ("untrained", "examples", "trained", "others"):
            yield "dia1_abordagens", row
        test, latency, against = result.against_trained.get(name), found.latency, ""
        if test is not None:
            p = f"p = {p_value(test.p_value)}".replace("= <", "<")
            against = f"perde {test.only_first}, ganha {test.only_second}; {p}"
        row = [name, found.engine, found.weights_bytes, found.memory_bytes, latency.p50_s]
        row += [latency.p95_s, latency.tokens_per_second, accuracy, against]
        yield "dia7_formas", row
        if (done := found.training) and found.group in ("trained", "others"):
            row = [name, done.method, done.examples, done.minutes, done.tokens_per_second]
            row += [done.trainable_parameters, done.memory_bytes]
            yield "dia7_treino", [*row, done.best_eval_loss, done.best_step]


def errors(result: results.Evaluation) -> Rows:
    """O modelo sem treino, com o esquema, ao lado do treinado: onde cada um acerta."""
    first = {variant.group: variant for variant in reversed(result.variants.values())}
    pair = [first.get(group) for group in ("untrained", "trained")]
    causes = pair[1].error_causes if pair[1] else {}
    for cause, count in causes.items():
        yield "dia7_causas", [cause, count, count / sum(causes.values())]
    levels = [found.by_difficulty if found else {} for found in pair]
    kinds = [found.by_kind if found else {} for found in pair]
    groups = [
        (f"dificuldade: {x}", [y.get(x) for y in levels]) for x in ("fácil", "média", "difícil")
    ]
    groups += [(f"tipo: {x}", [y.get(x) for y in kinds]) for x in sorted(set().union(*kinds))]
    for label, scores in groups:
        count = next((score.n for score in scores if score), None)
        yield "dia7_grupos", [label, count, *scores]
    scores = [interval(found and found.execution_accuracy, 1, 100) for found in pair]
    what = "mini-projeto: perguntas → SQL"
    yield _summary(result, "7", what, "acurácia de execução (%)", *scores)


ROWS: dict[type[results.Result], list[Callable]] = {
    results.Day3: [day3],
    results.Day4: [day4],
    results.Day4Study: [study],
    results.Day5: [techniques, quantization],
    results.Day6Data: [data],
    results.Day6Metrics: [metrics],
    results.Day6Training: [tuning],
    results.Evaluation: [variants, errors],
}
