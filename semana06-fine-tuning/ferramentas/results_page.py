"""A página de uma pasta de resultados: por dia, uma tabela à vista e as outras dobradas.

De cada tabela, um dicionário diz as colunas: o título e como se escreve a célula de uma linha.
"""

from collections.abc import Callable, Iterator

from comum.labels import CLASSIFIERS, DIRT, FORMATS, MEMORY, METHODS, SCORES, SPLITS
from comum.numbers import MIB, decimal, general, interval, p_value, percent
from comum.results import (
    Day3,
    Day4Study,
    Day5,
    Day6Data,
    Evaluation,
    Result,
    Technique,
    TrainingRun,
    Variant,
)
from comum.tables import markdown

from measured import Measured, change, day_of, first_of, ratio, score
from measured import written as value_of

Columns = dict[str, Callable]
INTRO = (
    "Entre colchetes, o intervalo de 95%: os valores compatíveis com o que se mediu, se o teste "
    "tivesse outras perguntas do mesmo tipo. Se os de dois modelos se tocam, eles sozinhos não "
    "decidem; nas mesmas perguntas, decide o teste pareado (McNemar). Um traço é o que não se "
    "mediu. As notas ao pé da página dizem o comando, a data e a máquina."
)
TECHNIQUES = {
    "bnb": "bitsandbytes",
    "int8": "8 bits (LLM.int8)",
    "double": "escala dupla",
    "rtn": "só arredondar",
    "4bit": "4 bits",
    "8bit": "8 bits",
    "g32": "grupos de 32",
    "g64": "grupos de 64",
    "g128": "grupos de 128",
    "fp32": "fp32",
    "bf16": "bf16",
}
ANSWERS: Columns = {
    "acurácia de execução (%)": lambda v: interval(v.execution_accuracy, 1, 100),
    "perplexidade da referência": lambda v: interval(v.gold_perplexity, 3),
    "BLEU": lambda v: interval(v.bleu, 1),
    "tokens no prompt": lambda v: decimal(v.prompt_tokens),
    "treino (min)": lambda v: decimal(v.training and v.training.minutes, 1),
    "resposta, mediana (s)": lambda v: decimal(v.latency.p50_s, 2),
}
RESULTS: Columns = {
    "acurácia de execução (%)": lambda v: interval(v.execution_accuracy, 1, 100),
    "SQL que executa (%)": lambda v: interval(v.valid_sql, 1, 100),
    "igual à referência (%)": lambda v: interval(v.exact_match, 1, 100),
}
DECLINES: Columns = {
    "recusou o que o banco não responde (%)": lambda v: interval(v.declined_right, 1, 100),
    "recusou o que ele responde (%)": lambda v: interval(v.declined_wrong, 1, 100),
}
COSTS: Columns = {
    "motor": lambda v: v.engine,
    "pesos (MiB)": lambda v: decimal(v.weights_bytes and v.weights_bytes / MIB),
    "memória (MiB)": lambda v: decimal(v.memory_bytes and v.memory_bytes / MIB),
    "resposta, mediana (s)": lambda v: decimal(v.latency.p50_s, 2),
    "95% até (s)": lambda v: decimal(v.latency.p95_s, 2),
    "tokens por segundo": lambda v: decimal(v.latency.tokens_per_second, 1),
}
TRAINING: Columns = {
    "exemplos": lambda t: decimal(t.examples),
    "minutos": lambda t: decimal(t.minutes, 1),
    "tokens por segundo": lambda t: decimal(t.tokens_per_second),
    "treináveis": lambda t: decimal(t.trainable_parameters),
    "memória (MiB)": lambda t: decimal(t.memory_bytes and t.memory_bytes / MIB),
    "menor perda de validação": lambda t: decimal(t.best_eval_loss, 4),
    "no passo": lambda t: decimal(t.best_step),
}
PAIRED: Columns = {
    "só o treinado acerta": lambda test: decimal(test.only_first),
    "só esta acerta": lambda test: decimal(test.only_second),
    "p": lambda test: p_value(test.p_value),
}
RUN: Columns = {
    "perplexidade, validação": lambda run: score(run.validation, "perplexity_token"),
    "perplexidade, teste": lambda run: score(run.test, "perplexity_token"),
    "treináveis": lambda run: decimal(run.trainable_parameters),
    "treino (min)": lambda run: decimal(run.seconds / 60, 1),
    "pico (MiB)": lambda run: decimal(run.peak_mib),
}
SETTINGS = {
    "method": "variante",
    "r": "posto",
    "alpha": "alpha",
    "dropout": "dropout",
    "learning_rate": "learning rate",
    "target_modules": "camadas",
    "epochs": "passadas",
    "train_examples": "conversas de treino",
}
TRIES: Columns = {
    "posto": lambda run: value_of(run.settings.get("r")),
    "alpha": lambda run: value_of(run.settings.get("alpha")),
    "dropout": lambda run: value_of(run.settings.get("dropout")),
    "learning rate": lambda run: value_of(run.settings.get("learning_rate")),
} | RUN
STUDY: Columns = {
    "perplexidade, validação": lambda row: (
        decimal(row.perplexity, 2) + (f" ± {decimal(row.spread, 2)}" if row.spread else "")
    ),
    "perplexidade, teste": lambda row: decimal(row.test, 2),
    "treináveis": lambda row: decimal(row.trainable_parameters),
    "treino (min)": lambda row: decimal(row.minutes, 1),
    "pico (MiB)": lambda row: decimal(row.peak_mib),
}
CLASSIFYING: Columns = {
    "acurácia (%)": lambda c: interval(c.accuracy, 1, 100),
    "macro-F1 (%)": lambda c: interval(c.macro_f1, 1, 100),
    "treino (s)": lambda c: decimal(c.train_seconds, 1),
    "resposta (s)": lambda c: decimal(c.answer_seconds, 1),
    "treináveis": lambda c: decimal(c.trainable_parameters),
    "p contra o TF-IDF": lambda c: p_value(c.p_against_tfidf),
}


def page(title: str, opening: str, found: Measured) -> str:
    """A página inteira, em Markdown."""
    parts = [f"# {title}", opening, INTRO]
    for number, day in enumerate((day1, day2, day3, day4, day5, day6, day7), 1):
        parts += [f"## Dia {number}", *(list(day(found)) or ["Ainda não medido."])]
    sources = [(name, result) for name, result in vars(found).items() if isinstance(result, Result)]
    return "\n\n".join([*parts, "---", *(_origin(*source) for source in sources)]) + "\n"


def _origin(key: str, result: Result) -> str:
    """A nota de um resultado: comandos, data, máquina e versões."""
    machine, versions = result.machine, result.versions
    commands = result.command.split(" && ")
    parts = [
        *(f"`{command}`" for command in commands),
        day_of(result),
        *([machine.processor] if machine else []),
        *([f"{machine.threads} threads"] if machine and machine.threads else []),
        *([machine.gpu or "sem GPU"] if machine else []),
        *(
            f"{library} {versions[library]}"
            for library in ("torch", "transformers")
            if library in versions
        ),
        *([f"código `{result.commit}`"] if result.commit else []),
    ]
    return f"[^{key}]: {', '.join(parts)}."


def grid(first: str, columns: Columns, rows: dict[str, object]) -> str:
    """A tabela: uma linha por nome, com as células que `columns` diz."""
    cells = [[name, *(cell(row) for cell in columns.values())] for name, row in rows.items()]
    return markdown([first, *columns], cells)


def folded(title: str, table: str, source: str = "") -> str:
    """Uma tabela dobrada; `source`, se ela vem de outro resultado que a tabela à vista."""
    origin = f"\n\nOrigem:[^{source}]" if source else ""  # no <summary> a nota não funcionaria
    return f"<details><summary>{title}</summary>\n\n{table}{origin}\n\n</details>"


# --- dias 1 a 4 -----------------------------------------------------------------------------------
def day1(found: Measured) -> Iterator[str]:
    if found.project:
        groups = ("untrained", "examples", "trained", "others")
        rows = {n: v for n, v in _named(found.project).items() if v.group in groups}
        yield "As abordagens, nas mesmas perguntas do mini-projeto.[^project]"
        yield grid("abordagem", ANSWERS, rows)


def day2(found: Measured) -> Iterator[str]:
    if found.day4:
        verdict = {"resultado": lambda passed: "certo" if passed else "**ERRADO**"}
        yield "O que a lição do dia 4 confere da matemática do LoRA.[^day4]"
        yield grid("conferência", verdict, found.day4.checks)


def day3(found: Measured) -> Iterator[str]:
    if result := found.day3:
        pair = result.before, result.after
        keys = [key for key in SCORES if key in result.before and key in result.after]
        rows = [[*_scores(key, *pair), change(*pair, key), _apart(key, *pair)] for key in keys]
        yield "As conversas de teste, antes e depois de treinar todos os pesos.[^day3]"
        yield markdown(["medida", "antes", "depois", "mudança", "intervalos separados?"], rows)
        yield _one_step(result)


def _one_step(result: Day3) -> str:
    """O treino e a memória de um passo, em duas linhas."""
    losses = [(p.eval_loss, p.step) for p in result.curve if p.eval_loss is not None]
    loss, step = min(losses, default=(None, None))
    parts = (f"{name} {decimal(getattr(result.memory_measured, x))}" for x, name in MEMORY.items())
    predicted, measured = result.memory_predicted.total, result.memory_measured.total
    return (
        f"- Treino: {decimal(result.parameters)} parâmetros em {decimal(result.train_minutes, 1)} "
        f"min (passadas: {general(result.epochs)}; lote: {result.batch_size}; learning rate: "
        f"{general(result.learning_rate)}); a menor perda de validação, {decimal(loss, 3)}, no "
        f"passo {decimal(step)}.\n"
        f"- Memória de um passo: {decimal(measured)} MiB ({', '.join(parts)}); a conta previa "
        f"{decimal(predicted)}."
    )


def day4(found: Measured) -> Iterator[str]:
    if found.day4:
        yield "Todos os pesos e LoRA, cada um no seu processo.[^day4]"
        yield _side_by_side(found.day4.runs, ("full", "lora"), ("todos os pesos", "LoRA"))
    tries = {name: run for name, result in found.tries.items() for run in result.runs.values()}
    if len(found.tries) > 1:
        yield folded("Cada corrida da lição, pelo `--name`", grid("corrida", TRIES, tries))
    if found.study:
        title = "O estudo de hiperparâmetros, um fator por vez; a seta marca a escolhida"
        yield folded(title, _study(found.study), "study")


def _side_by_side(runs: dict[str, TrainingRun], names: tuple, titles: tuple[str, str]) -> str:
    """Dois treinos, medida a medida: a memória, o custo e as notas."""
    first, second = pair = [runs.get(name) for name in names]
    rows = []

    def add(label: str, cell: Callable, places: int = 0) -> None:
        values = [run and cell(run) for run in pair]
        if any(x is not None for x in values):
            share = ratio(values[1], values[0], 3)
            rows.append([label, *(decimal(x, places) for x in values), share])

    for part, label in MEMORY.items():
        add(
            f"memória de um passo: {label} (MiB)",
            lambda x, part=part: getattr(x.memory_measured, part),
        )
    add("soma das quatro (MiB)", lambda run: run.memory_measured.total)
    add("soma prevista pela conta (MiB)", lambda x: x.memory_predicted and x.memory_predicted.total)
    add("pico do processo inteiro (MiB)", lambda run: run.peak_mib)
    add("parâmetros treináveis", lambda run: run.trainable_parameters)
    add("treino (min)", lambda run: run.seconds / 60, 1)
    add("tokens por segundo", lambda run: run.tokens_per_second)
    add("salvo em disco (MiB)", lambda run: run.disk_mib, 1)
    scores = [run.test if run else {} for run in (first, second)]
    for key in ("perplexity_token", "next_token_accuracy", "bleu"):
        touching = (
            "intervalos separados" if _apart(key, *scores) == "sim" else "intervalos se tocam"
        )
        rows.append([*_scores(key, *scores), touching])
    return markdown(["medida", *titles, f"{titles[1]} / {titles[0]}"], rows)


def _study(result: Day4Study) -> str:
    rows = {}
    for row in result.rows:
        mark = "→ " if row == result.chosen else ""
        rows[mark + (_settings(row.change) or "ponto base")] = row
    return f"{grid('o que muda', STUDY, rows)}\n\nPonto base: {_settings(result.base)}."


def _settings(settings: dict) -> str:
    """Uma configuração do estudo em palavras: `posto 42, alpha 84`."""
    words = {**METHODS, "all-linear": "todas as lineares"}
    pairs = ((SETTINGS[key], value_of(x)) for key, x in settings.items() if key in SETTINGS)
    return ", ".join(f"{name} {words.get(value, value)}" for name, value in pairs)


def _scores(key: str, before: dict, after: dict) -> list[str]:
    return [SCORES[key][0], score(before, key), score(after, key)]


def _apart(key: str, before: dict, after: dict) -> str:
    """Diz se os intervalos das duas medidas ficam sem nada em comum."""
    both = key in before and key in after
    return "sim" if both and before[key].apart(after[key]) else "não"


# --- dia 5 ----------------------------------------------------------------------------------------
def day5(found: Measured) -> Iterator[str]:
    if (result := found.day5) is None:
        return
    yield "As técnicas, no modelo do dia 3; velocidade e qualidade em relação ao fp32.[^day5]"
    rows = {technique(name): row for name, row in result.techniques.items()}
    yield grid("técnica", _against_fp32(result), rows)
    absent = [f"- {technique(name)}, ausente: {why}" for name, why in result.absent.items()]
    yield "\n".join(absent)
    yield folded("A armadilha do modelo base", _trap(result))
    gains = {technique(f"4bit-{group}"): gain for group, gain in result.gptq_over_rounding.items()}
    column = {"nats por token que só arredondar perde a mais": lambda gain: interval(gain, 3)}
    yield folded("GPTQ contra só arredondar, nas mesmas conversas", grid("grade", column, gains))
    if result.qlora:
        titles = ("LoRA sobre bf16", "QLoRA sobre NF4")
        yield folded("QLoRA", _side_by_side(result.qlora, ("lora", "qlora"), titles))


def technique(name: str) -> str:
    """O nome de uma técnica para quem lê: `gptq-4bit-g64` vira `GPTQ, 4 bits, grupos de 64`."""
    return ", ".join(TECHNIQUES.get(part, part.upper()) for part in name.split("-"))


def _against_fp32(result: Day5) -> Columns:
    fp32 = result.techniques["fp32"]
    loss = fp32.scores["perplexity_token"].value
    return {
        "arquivo (MiB)": lambda row: decimal(row.disk_bytes / MIB),
        "em uso (MiB)": lambda row: decimal(row.memory_bytes / MIB),
        "pico (MiB)": lambda row: decimal(row.peak_mib),
        "para quantizar (s)": lambda row: decimal(row.quantize_seconds, 1),
        "velocidade, 1 sequência": lambda x: _speed(x, fp32, "1"),
        "8 sequências": lambda x: _speed(x, fp32, "8"),
        "qualidade": lambda row: percent(loss / row.scores["perplexity_token"].value, 0),
        "perplexidade": lambda row: score(row.scores, "perplexity_token"),
        "KL": lambda row: score(row.scores, "kl_fp32"),
    }


def _speed(row: Technique, fp32: Technique, batch: str) -> str:
    return ratio(row.speed[batch].decode, fp32.speed[batch].decode) + "x"


def _trap(result: Day5) -> str:
    trap, rows = result.trap, []
    for name, model in (("modelo base", trap.base), ("depois do treino", trap.trained)):
        losses = [interval(model.perplexity[grid]) for grid in ("none", "q4_1", "nf4")]
        errors = [percent(model.weight_error[grid], 2) for grid in ("q4_1", "nf4")]
        rows.append([name, *losses, *errors])
    header = ["perplexidade", "sem arredondar", "na grade Q4_1", "na grade NF4"]
    table = markdown([*header, "erro dos pesos, Q4_1", "erro dos pesos, NF4"], rows)
    kept = [percent(trap.kept.get(grid), 0) for grid in ("q4_1", "nf4")]
    return (
        f"{table}\n\nO treino moveu cada peso, em média, {decimal(trap.moved_steps, 4)} passo da "
        f"grade; do que ele mudou, sobram {kept[0]} na Q4_1 e {kept[1]} no NF4."
    )


# --- dia 6 ----------------------------------------------------------------------------------------
def day6(found: Measured) -> Iterator[str]:
    if found.tuning:
        yield "O ajuste curto, em dois formatos de texto, antes e depois.[^tuning]"
        rows = []
        for name, text in found.tuning.texts.items():
            pair = text.before, text.after
            for key in ("perplexity_token", "bleu", "chrf", "rougeL"):
                label, *cells = _scores(key, *pair)
                rows.append([f"{FORMATS.get(name, name)}: {label}", *cells, _apart(key, *pair)])
        yield markdown(["medida", "antes", "depois", "intervalos separados?"], rows)
        if kinds := found.tuning.classification:
            rows = {CLASSIFIERS.get(name, name): x for name, x in kinds.classifiers.items()}
            yield folded("Classificar", grid("jeito de classificar", CLASSIFYING, rows))
    if found.data:
        yield folded("O preparo dos dados", _preparation(found.data), "data")
    if found.metrics:
        columns = {
            "à mão": lambda x: decimal(x.ours, 4),
            "biblioteca": lambda x: decimal(x.library, 4),
        }
        rows = {x.replace("rouge", "ROUGE-"): pair for x, pair in found.metrics.checks.items()}
        table = grid("exemplo de lápis e papel", columns, rows)
        yield folded("As medidas, à mão e pela biblioteca", table, "metrics")


def _preparation(data: Day6Data) -> str:
    """O que entrou e saiu, os formatos e os defeitos."""
    lines = [
        f"- {decimal(data.read)} linhas lidas, {decimal(data.accepted)} aceitas",
        f"- um sorteio simples deixaria no treino {decimal(data.naive_leaks)} das "
        f"{decimal(data.naive_held_out)} reservadas",
        f"- o treino já mostrou {percent(data.vocabulary_coverage)} das palavras do teste",
    ]
    for name, parts in data.formats.items():
        sizes = ", ".join(f"{SPLITS[split]} {decimal(rows)}" for split, rows in parts.items())
        lines.append(f"- {FORMATS.get(name, name)}: {sizes}")
    columns: Columns = {
        "linhas com ele": lambda kind: decimal(data.dirt[kind]),
        "recusadas por ele": lambda kind: decimal(data.rejected.get(kind, 0)),
    }
    rows = {DIRT.get(kind, kind): kind for kind in data.dirt}
    return "\n".join(lines) + f"\n\n{grid('defeito', columns, rows)}"


# --- dia 7 ----------------------------------------------------------------------------------------
def day7(found: Measured) -> Iterator[str]:
    if (project := found.project) is None:
        return
    rows = _named(project)
    columns = RESULTS | (DECLINES if any(v.declined_right for v in rows.values()) else {})
    yield "Perguntas em palavras livres, do teste escrito à mão.[^project]"
    yield grid("modelo", columns, rows)
    yield folded("O que custa responder, uma pergunta por vez", grid("modelo", COSTS, rows))
    if project.against_trained:
        tests = {_label(n, project.variants[n]): x for n, x in project.against_trained.items()}
        title = "O treinado e cada variante, nas mesmas perguntas (McNemar)"
        yield folded(title, grid("modelo", PAIRED, tests))
    own = {n: v.training for n, v in rows.items() if v.group in ("trained", "others")}
    if trainings := {name: training for name, training in own.items() if training}:
        yield folded("Os treinos", grid("modelo", TRAINING, trainings))
    yield folded("Por dificuldade e por tipo de pergunta (acurácia, %)", _by_group(project))
    trained = first_of(project, "trained")
    if trained and trained.error_causes:
        total = sum(trained.error_causes.values())
        columns = {"erros": decimal, "parte": lambda count: percent(count / total, 0)}
        yield folded("Por que o treinado erra", grid("causa", columns, trained.error_causes))


def _named(project: Evaluation) -> dict[str, Variant]:
    """As variantes, pelo nome que se mostra."""
    return {_label(name, variant): variant for name, variant in project.variants.items()}


def _label(name: str, variant: Variant) -> str:
    """Uma forma pelo nome da técnica; outro treino, pelo método e pelos exemplos, com a pasta."""
    trained, _, part = name.rpartition(", ")
    if variant.group == "forms":
        return f"{trained}, {technique(part)}"
    if variant.group != "others" or not (training := variant.training):
        return name
    method = METHODS.get(training.method, training.method)
    return f"{method}, {decimal(training.examples)} exemplos (`{part}`)"


def _by_group(project: Evaluation) -> str:
    """Onde acertam o modelo sem treino e o treinado."""
    shown = {
        title: variant.by_difficulty | variant.by_kind
        for group, title in (("untrained", "sem treino"), ("trained", "treinado"))
        if (variant := first_of(project, group))
    }
    *_, last = shown.values()
    levels = ("fácil", "média", "difícil")
    names = [*(x for x in levels if x in last), *sorted(last.keys() - set(levels))]
    columns: Columns = {"perguntas": lambda name: decimal(last[name].n)}
    for title, scores in shown.items():
        columns[title] = lambda name, scores=scores: interval(scores.get(name), 1, 100)
    return grid("tipo", columns, {name: name for name in names})
