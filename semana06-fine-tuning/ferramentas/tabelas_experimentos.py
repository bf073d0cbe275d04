"""As tabelas que registrar_experimentos.py preenche: de que resultado vêm e que linhas têm.

Cada função de `ROWS` lê um resultado e dá, par a par, o nome de uma tabela e uma linha dela. Para
acrescentar uma tabela: uma linha em `HEADERS`, as linhas dela na função do resultado de que vêm, e
as duas marcas onde ela deve aparecer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from comum import results
from comum.labels import CLASSIFIERS, DIRT, MEMORY, SCORES, SPLITS
from comum.numbers import MIB, MISSING, decimal, general, interval, p_value, percent, signed
from comum.results import Score

Row = list[str]
Rows = Iterator[tuple[str, Row]]


@dataclass(frozen=True)
class Source:
    """Um resultado: a forma, o nome do arquivo (o do comando curto, na falta dele) e o comando."""

    shape: type[results.Result]
    names: tuple[str, str]
    command: str


@dataclass(frozen=True)
class Table:
    name: str
    header: list[str]
    sources: list[Source]


def _lesson(shape: type[results.Result], name: str, script: str) -> Source:
    command = f"python semana06-fine-tuning/exemplos/{script}"
    return Source(shape, (name, f"{name}_quick"), command)


PROJECT = "python semana06-fine-tuning/mini-projeto/mini_projeto_fine_tuning_especializado"
PROJECT_NAMES = ("mini_projeto_lora_teste", "mini_projeto_rapido_teste")
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
VARIANTS = (
    "acurácia de execução (%) | SQL que executa (%) | igual à referência (%) | "
    "perplexidade da referência | BLEU | tokens no prompt"
)
# nome da tabela, de onde vem: colunas (o que não cabe continua na linha seguinte, recuado)
HEADERS = f"""
dia1_abordagens, few_shot: abordagem | {VARIANTS}
dia2_conferencias, day4: conferência | resultado
dia3_notas, day3: medida | antes | depois | mudança | intervalos separados?
dia3_memoria, day3: parcela | prevista (MiB) | medida (MiB) | medida / prevista
dia3_treino, day3: modelo | parâmetros | passadas | lote | learning_rate | treino (min) |
  menor perda de validação | no passo
dia4_memoria, day4: parcela (MiB) | todos os pesos, prevista | todos os pesos, medida |
  LoRA, prevista | LoRA, medida | LoRA / todos os pesos
dia4_metodos, day4: medida | todos os pesos | LoRA | LoRA / todos os pesos
dia4_estudo, study: fator | configuração | perplexidade, validação | perplexidade, teste |
  treináveis | treino (min)
dia4_melhor, study: fator | valores tentados | o melhor | perplexidade | ponto base
dia4_variantes, study: variante | perplexidade, validação | treináveis | treino (min) | pico (MiB)
dia5_tecnicas, day5: técnica | arquivo (MiB) | memória em uso (MiB) | pico (MiB) | aceleração |
  memória | qualidade | perplexidade por token | KL em relação ao fp32
dia5_custos, day5: técnica | arquivo previsto (MiB) | medido (MiB) | para quantizar (s) |
  prefill, lote 1 (tokens/s) | decodificação, lote 1 | decodificação, lote 8
dia5_armadilha, day5: pesos | perplexidade sem arredondar | na grade Q4_1 | erro dos pesos |
  na grade NF4 | erro dos pesos
dia5_sobra, day5: quanto o treino moveu cada peso (passos da grade) | sobra do treino na Q4_1 |
  no NF4
dia5_qlora, day5: medida | LoRA sobre bf16 | QLoRA sobre NF4 | QLoRA / LoRA
dia5_guia, day5: o guia, calculado destes números
dia5_gptq, day5: grade | nats por token que arredondar perde a mais | conclusão
dia6_preparo, data: medida | valor
dia6_defeitos, data: defeito | linhas com ele | recusadas por ele
dia6_conjunto, data: formato | treino | validação | teste
dia6_medidas, metrics: exemplo de lápis e papel | à mão | pela biblioteca
dia6_formatos, tuning: formato | medida | antes | depois | intervalos separados?
dia6_classificadores, tuning: jeito de classificar | acurácia (%) | macro-F1 (%) | treino (s) |
  resposta (s) | treináveis | p contra o TF-IDF
dia7_resultados, day7: variante | {VARIANTS}
dia7_formas, forms: variante | motor | pesos (MiB) | memória (MiB) | latência p50 (s) | p95 (s) |
  tokens por segundo | acurácia de execução (%) | em relação ao treinado
dia7_causas, day7: causa do erro | erros | parte
dia7_grupos, day7: perguntas | quantas | base com esquema (%) | treinado (%)
dia7_treino, train: treino | método | exemplos | minutos | tokens por segundo | treináveis |
  memória (MiB) | menor perda de validação | no passo
resumo_semana, day3 day4 study day5 data day7: dia | o que mudou | medida | antes | depois |
  comando
"""
TABLES: dict[str, Table] = {}
for line in HEADERS.replace("\n  ", " ").strip().split("\n"):
    place, columns = line.split(": ", 1)
    name, sources = place.split(", ")
    TABLES[name] = Table(name, columns.split(" | "), [SOURCES[x] for x in sources.split()])


def rows_of(table: Table, result: results.Result) -> list[Row]:
    """As linhas que um resultado dá a uma tabela, na ordem."""
    found = (pair for function in ROWS[type(result)] for pair in function(result))
    return [row for name, row in found if name == table.name]


# --- células --------------------------------------------------------------------------------------
def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _mib(size: float | None) -> str:
    return decimal(_over(size, MIB))


def _ratio_row(label: str, values: list, places: int = 0, share: int = 3) -> Row:
    """Dois valores e quantas vezes o segundo é o primeiro."""
    ratio = decimal(_over(values[1], values[0]), share)
    return [label, *(decimal(value, places) for value in values), ratio]


def _score_row(key: str, before: Score | None, after: Score | None, suffix: str = "") -> Row:
    label, places, scale = SCORES[key]
    return [label + suffix, *(interval(score, places, scale) for score in (before, after))]


def _apart(pair: list[Score | None], yes: str = "sim", no: str = "não") -> str:
    """Diz se os intervalos das duas medidas ficam sem nada em comum."""
    return MISSING if None in pair else yes if pair[0].apart(pair[1]) else no


def _test_scores(runs: list[results.TrainingRun | None]) -> Iterator[Row]:
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


def _tokens(*scores: dict[str, Score] | None) -> Row:
    return [interval(found and found.get("perplexity_token")) for found in scores]


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
        yield "dia3_memoria", _ratio_row(label, pair, share=2)
    losses = [(p.eval_loss, p.step) for p in result.curve if p.eval_loss is not None]
    loss, step = min(losses, default=(None, None))
    settings = (result.epochs, result.batch_size, result.learning_rate)
    model = [result.model.split("/")[-1], decimal(result.parameters), *map(general, settings)]
    measured = [decimal(result.train_minutes, 1), decimal(loss, 3), decimal(step)]
    yield "dia3_treino", [*model, *measured]
    row = ["3", "fine-tuning de todos os pesos", "perplexidade por token, teste"]
    yield "resumo_semana", [*row, *_tokens(result.before, result.after), f"`{result.command}`"]


# --- dia 4: LoRA ----------------------------------------------------------------------------------
def day4(result: results.Day4) -> Rows:
    for text, passed in result.checks.items():
        yield "dia2_conferencias", [text, "certo" if passed else "**ERRADO**"]
    runs = [result.runs.get(name) for name in ("full", "lora")]
    measures = [[run and run.memory_predicted, run and run.memory_measured] for run in runs]
    for label, values in _memory(sum(measures, []), "soma das quatro"):
        share = decimal(_over(values[3], values[1]), 3)
        yield "dia4_memoria", [label, *map(decimal, values), share]
    full, lora, share = _ratio_row("", [run and run.peak_mib for run in runs])[1:]
    yield "dia4_memoria", ["pico do processo inteiro", "", full, "", lora, share]
    for row in (
        _ratio_row("parâmetros treináveis", [run and run.trainable_parameters for run in runs]),
        _ratio_row("treino (min)", [run and run.seconds / 60 for run in runs], 1),
        _ratio_row("tokens por segundo", [run and run.tokens_per_second for run in runs]),
        _ratio_row("salvo em disco (MiB)", [run and run.disk_mib for run in runs], 1),
        *_test_scores(runs),
    ):
        yield "dia4_metodos", row
    row = ["4", "LoRA no lugar de todos os pesos", "perplexidade por token, teste"]
    scores = _tokens(*(run and run.test for run in runs))
    yield "resumo_semana", [*row, *scores, f"`{result.command}`"]


def study(result: results.Day4Study) -> Rows:
    base, *others = result.rows
    chosen = result.chosen
    for row in result.rows:
        what = ("→ " if row == chosen else "") + _described(row)
        trainable, minutes = decimal(row.trainable_parameters), decimal(row.minutes, 1)
        score = [_spread(row), decimal(row.test, 2)]
        yield "dia4_estudo", [row.factor, what, *score, trainable, minutes]
        if row.factor in ("base", "method"):
            name = str(row.change.get("method", "lora (ponto base)"))
            figures = [_spread(row), trainable, minutes, decimal(row.peak_mib)]
            yield "dia4_variantes", [name, *figures]
    for factor in dict.fromkeys(row.factor for row in others):
        tried = [row for row in others if row.factor == factor]
        best = min([base, *tried], key=lambda row: row.perplexity)
        names = "; ".join(_text(row.change[factor]) for row in tried)
        yield "dia4_melhor", [factor, names, _described(best), _spread(best), _spread(base)]
    row = ["**escolhida pela regra**", "", f"**{_described(chosen)}**"]
    yield "dia4_melhor", [*row, _spread(chosen), _spread(base)]
    row = ["4", f"estudo: {_described(chosen)} no lugar do ponto base"]
    row += ["perplexidade por token, validação", _spread(base), _spread(chosen)]
    yield "resumo_semana", [*row, f"`{result.command}`"]


# --- dia 5: quantização ---------------------------------------------------------------------------
def techniques(result: results.Day5) -> Rows:
    """Aceleração (decodificação, lote 1), memória em uso e qualidade, em relação ao fp32."""
    base = result.techniques["fp32"]
    reference = base.scores["perplexity_token"]
    for name, found in result.techniques.items():
        one, eight = found.speed["1"], found.speed["8"]
        perplexity, kl = found.scores["perplexity_token"], found.scores.get("kl_fp32")
        sizes = [_mib(found.disk_bytes), _mib(found.memory_bytes), decimal(found.peak_mib)]
        faster = decimal(_over(one.decode, base.speed["1"].decode), 2, "x")
        shares = found.memory_bytes / base.memory_bytes, reference.value / perplexity.value
        row = [name, *sizes, faster, *(percent(share, 0) for share in shares)]
        yield "dia5_tecnicas", [*row, interval(perplexity), interval(kl, 3)]
        row = [name, _mib(found.predicted_disk_bytes), _mib(found.disk_bytes)]
        row += [decimal(found.quantize_seconds, 1), decimal(one.prefill)]
        yield "dia5_custos", [*row, decimal(one.decode, 1), decimal(eight.decode, 1)]
        if name in ("bnb-int8", "bnb-nf4-double", "gptq-4bit-g64"):
            row = ["5", f"{name} no lugar de fp32", "perplexidade por token"]
            pair = [interval(reference), interval(perplexity)]
            yield "resumo_semana", [*row, *pair, f"`{result.command}`"]
    for name, why in result.absent.items():
        yield "dia5_tecnicas", [name, f"ausente: {why}", *[""] * 7]


def quantization(result: results.Day5) -> Rows:
    trap = result.trap
    models = {"modelo base": trap.base, "depois do treino do dia 3": trap.trained}
    for label, model in models.items():
        row = [label, interval(model.perplexity["none"])]
        for grid in ("q4_1", "nf4"):
            row += [interval(model.perplexity[grid]), percent(model.weight_error[grid], 2)]
        yield "dia5_armadilha", row
    kept = [percent(trap.kept[grid], 0) for grid in ("q4_1", "nf4")]
    yield "dia5_sobra", [decimal(trap.moved_steps, 4), *kept]
    for grid, gain in result.gptq_over_rounding.items():
        low, high = gain.ci95
        clear = "arredondar melhor" if high < 0 else "sem diferença clara"
        verdict = "GPTQ melhor" if low > 0 else clear
        yield "dia5_gptq", [f"4 bits, {grid}", interval(gain, 3), verdict]
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
    read, accepted = decimal(result.read), decimal(result.accepted)
    leaks = f"{decimal(result.naive_leaks)} de {decimal(result.naive_held_out)}"
    yield "dia6_preparo", ["linhas lidas", read]
    yield "dia6_preparo", ["linhas aceitas", accepted]
    yield "dia6_preparo", ["reservadas que um sorteio simples deixaria no treino", leaks]
    covered = percent(result.vocabulary_coverage)
    yield "dia6_preparo", ["palavras do teste que o treino já mostrou", covered]
    for split in (split for split in ("train", "test") if split in result.tokens):
        found = result.tokens[split]
        sizes = ", ".join(map(decimal, (found.median, found.p95, found.maximum)))
        label = f"tokens por conversa, {SPLITS[split]} (mediana, 95%, máximo)"
        yield "dia6_preparo", [label, sizes]
    for kind, count in result.dirt.items():
        refused = decimal(result.rejected.get(kind, 0))
        yield "dia6_defeitos", [DIRT[kind], decimal(count), refused]
    for name, rows in result.formats.items():
        yield "dia6_conjunto", [name, *(decimal(rows.get(split)) for split in SPLITS)]
    row = ["6", "dados brutos → dados prontos", "linhas", read, accepted]
    yield "resumo_semana", [*row, f"`{result.command}`"]


def metrics(result: results.Day6Metrics) -> Rows:
    for name, pair in result.checks.items():
        yield "dia6_medidas", [name, decimal(pair.ours, 4), decimal(pair.library, 4)]


def tuning(result: results.Day6Training) -> Rows:
    for name, found in result.texts.items():
        for key in ("perplexity_token", "bleu", "chrf", "rougeL"):
            pair = [found.before.get(key), found.after.get(key)]
            yield "dia6_formatos", [name, *_score_row(key, *pair), _apart(pair)]
    tried = result.classification.classifiers if result.classification else {}
    for name, found in tried.items():
        scores = [interval(score, 1, 100) for score in (found.accuracy, found.macro_f1)]
        times = [decimal(seconds, 1) for seconds in (found.train_seconds, found.answer_seconds)]
        costs = [decimal(found.trainable_parameters), p_value(found.p_against_tfidf)]
        yield "dia6_classificadores", [CLASSIFIERS[name], *scores, *times, *costs]


# --- dias 1 e 7: mini-projeto ---------------------------------------------------------------------
def variants(result: results.Evaluation) -> Rows:
    for name, found in result.variants.items():
        accuracy = interval(found.execution_accuracy, 1, 100)
        loss = interval(found.gold_perplexity, 3)
        loss = "o motor não informa" if loss == MISSING else loss
        row = [name, accuracy, interval(found.valid_sql, 1, 100)]
        row += [interval(found.exact_match, 1, 100), loss, interval(found.bleu, 1)]
        row.append(decimal(found.prompt_tokens))
        yield "dia7_resultados", row
        if found.group in ("untrained", "examples", "trained", "others"):
            yield "dia1_abordagens", row
        test, latency, against = result.against_trained.get(name), found.latency, ""
        if test is not None:
            p = f"p = {p_value(test.p_value)}".replace("= <", "<")
            against = f"perde {test.only_first}, ganha {test.only_second}; {p}"
        times = [decimal(latency.p50_s, 2), decimal(latency.p95_s, 2)]
        times.append(decimal(latency.tokens_per_second, 1))
        sizes = [_mib(found.weights_bytes), _mib(found.memory_bytes)]
        yield "dia7_formas", [name, found.engine, *sizes, *times, accuracy, against]
        if (done := found.training) and found.group in ("trained", "others"):
            speed = [decimal(done.minutes, 1), decimal(done.tokens_per_second)]
            sizes = [decimal(done.trainable_parameters), _mib(done.memory_bytes)]
            best = [decimal(done.best_eval_loss, 4), decimal(done.best_step)]
            yield "dia7_treino", [name, done.method, decimal(done.examples), *speed, *sizes, *best]


def errors(result: results.Evaluation) -> Rows:
    """O modelo sem treino, com o esquema, ao lado do treinado: onde cada um acerta."""
    first = {variant.group: variant for variant in reversed(result.variants.values())}
    pair = [first.get(group) for group in ("untrained", "trained")]
    causes = pair[1].error_causes if pair[1] else {}
    for cause, count in causes.items():
        yield "dia7_causas", [cause, decimal(count), percent(count / sum(causes.values()), 0)]
    levels = [found.by_difficulty if found else {} for found in pair]
    kinds = [found.by_kind if found else {} for found in pair]
    groups = [
        (f"dificuldade: {x}", [y.get(x) for y in levels]) for x in ("fácil", "média", "difícil")
    ]
    groups += [(f"tipo: {x}", [y.get(x) for y in kinds]) for x in sorted(set().union(*kinds))]
    for label, scores in groups:
        count = next((score.n for score in scores if score), None)
        yield "dia7_grupos", [label, decimal(count), *(interval(x, 1, 100) for x in scores)]
    scores = [interval(found and found.execution_accuracy, 1, 100) for found in pair]
    row = ["7", "mini-projeto: perguntas → SQL", "acurácia de execução (%)", *scores]
    yield "resumo_semana", [*row, f"`{result.command}`"]


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
