"""O bloco de cada dia no caderno: as tabelas do plano da semana, com os números de quem estuda.

Uma função por dia escreve o bloco com o que se mediu; sem medida, as mesmas linhas, vazias.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import mean

from comum.labels import FORMATS, METHODS
from comum.numbers import MIB, MISSING, decimal, interval, percent
from comum.results import Day4, Day5, Day6Data, Evaluation, Result, TrainingRun, Variant
from comum.tables import markdown

from measured import Measured, best_kind, change, day_of, first_of, probability, ratio, score
from measured import written as value_of

DAY3 = {"Perplexity": "perplexity_token", "Accuracy": "next_token_accuracy", "BLEU Score": "bleu"}
DAY4 = {"Rank": "r", "Alpha": "alpha", "Dropout": "dropout", "Learning Rate": "learning_rate"}
# O que mais tem de ser igual entre dois treinos para a diferença ser do hiperparâmetro.
EQUAL = ("model", "target_modules", "epochs", "batch_size", "train_examples", "load_in_4bit")
TRIED = 3  # colunas de valores na tabela do plano
# A técnica de cada linha do plano: a primeira destas que se mediu.
DAY5 = {
    "8-bit": ("bnb-int8",),
    "4-bit (QLoRA)": ("bnb-nf4-double", "bnb-nf4"),
    "GPTQ": ("gptq-4bit-g64", "gptq-4bit-g32"),
}
DAY1_NOTE = """

Tempo: de treino e de uma resposta (mediana). Custo: o prompt e a memória. Qualidade: acurácia de
execução. RAG: só a busca de exemplos parecidos (`--few-shot 4`, como os fixos)."""
DAY4_NOTE = """

Em cada célula, o valor e a perplexidade de validação, com tudo o mais igual; de mais de três
valores, os três melhores."""
DAY5_NOTE = """

Em relação ao fp32 da mesma corrida: decodificação de uma sequência; pesos em uso; perplexidade do
fp32 sobre a da técnica (100%: igual)."""
Point = tuple[dict, float]  # os hiperparâmetros de um treino e a perplexidade de validação dele
Block = tuple[str, Result | None]  # o texto e o resultado de que vem


# --- dias 1 e 2: o que se preenche antes à mão ----------------------------------------------------
def day1(found: Measured) -> Block:
    project = found.project
    if project is None:
        return "", None
    fixed = first_of(project, "examples", "exemplos")
    rows = [
        _approach("Fine-tuning", first_of(project, "trained")),
        _approach("RAG", first_of(project, "examples", "parecidos")),
        _approach("Prompt Engineering", fixed or first_of(project, "untrained")),
    ]
    header = ["Método", "Tempo", "Custo", "Qualidade", "Casos de Uso"]
    return f"{markdown(header, rows)}{DAY1_NOTE}", project


def _approach(name: str, part: Variant | None) -> list[str]:
    if part is None:
        return [name, *[MISSING] * 4]
    training = f"{decimal(part.training.minutes, 1)} min" if part.training else "sem treino"
    memory = decimal(part.memory_bytes and part.memory_bytes / MIB, unit=" MiB")
    return [
        name,
        f"{training}; {decimal(part.latency.p50_s, 2)} s",
        f"{decimal(part.prompt_tokens)} tokens; {memory}",
        f"{interval(part.execution_accuracy, 1, 100)} %",
        best_kind(part),
    ]


def day2(found: Measured) -> Block:
    lora = found.day4 and found.day4.runs.get("lora")
    if lora is None:
        return "", None
    checks = found.day4.checks.values()
    share = percent(lora.trainable_parameters / lora.total_parameters, 2)
    return (
        f"- Rank utilizado: {value_of(lora.settings['r'])}\n"
        f"- Parâmetros treináveis: {decimal(lora.trainable_parameters)} ({share} do total)\n"
        f"- Conferências à mão: {sum(checks)} certas de {len(checks)}"
    ), found.day4


# --- dias 3 a 5 -----------------------------------------------------------------------------------
def day3(found: Measured) -> Block:
    result, rows = found.day3, []
    for name, key in DAY3.items():
        unit, cells = " %" * (key == "next_token_accuracy"), [""] * 3
        if result:
            pair = result.before, result.after
            cells = [*(score(scores, key) + unit for scores in pair), change(*pair, key)]
        rows.append([name, *cells])
    return markdown(["Métrica", "Antes", "Depois", "Melhoria"], rows), result


def day4(found: Measured) -> Block:
    points = _points(found)
    header = ["Parâmetro", *(f"Valor {n}" for n in range(1, TRIED + 1)), "Melhor"]
    table = markdown(header, [[name, *_tried(points, key)] for name, key in DAY4.items()])
    if points:
        table += DAY4_NOTE
    results = [found.day4, found.study, *found.tries.values()]
    text = f"{table}\n\n### Uso de Memória:\n{_memory(found.day4)}"
    return text, next((result for result in results if result), None)


def _points(found: Measured) -> list[Point]:
    """Todo treino com o LoRA comum: os do estudo e cada corrida da lição."""
    rows = found.study.rows if found.study else []
    points = [(found.study.base | row.change, row.perplexity) for row in rows]
    points = [point for point in points if point[0]["method"] == "lora"]
    for result in found.tries.values():
        if lora := result.runs.get("lora"):
            points.append((lora.settings, lora.validation["perplexity_token"].value))
    return points


def _tried(points: list[Point], name: str) -> list[str]:
    """Os valores de um hiperparâmetro, com tudo o mais igual, e o melhor."""
    groups: dict[tuple, dict] = defaultdict(lambda: defaultdict(list))
    sizes: Counter[tuple] = Counter()
    for settings, perplexity in points:
        others = [str(settings.get(key)) for key in DAY4.values() if key != name]
        data = tuple(str(settings.get(key)) for key in EQUAL)
        groups[data, *others][settings[name]].append(perplexity)
        sizes[data] += 1
    if not groups:
        return [""] * (TRIED + 1)
    # De vários grupos comparáveis, o que tentou mais valores; depois, o dos dados mais usados.
    ranks = {
        key: (len(group), sizes[key[0]], -min(map(mean, group.values())))
        for key, group in groups.items()
    }
    means = {value: mean(losses) for value, losses in groups[max(ranks, key=ranks.get)].items()}
    best = sorted(means, key=means.get)
    cells = [f"{value_of(value)}: {decimal(means[value], 2)}" for value in sorted(best[:TRIED])]
    return [*cells, *[""] * (TRIED - len(cells)), value_of(best[0]) if len(best) > 1 else MISSING]


def _memory(result: Day4 | None) -> str:
    full, lora = (result and result.runs.get(name) for name in ("full", "lora"))

    def shown(run: TrainingRun | None) -> str:
        if run is None:
            return ""
        parts = decimal(run.memory_measured.total)
        return f"{decimal(run.peak_mib)} MiB no pico do processo ({parts} nas quatro parcelas)"

    saved = ""
    if full and lora:
        parts = percent(1 - lora.memory_measured.total / full.memory_measured.total, 0)
        saved = f"{percent(1 - lora.peak_mib / full.peak_mib, 0)} no pico ({parts} nas parcelas)"
    return f"- Full fine-tuning: {shown(full)}\n- LoRA: {shown(lora)}\n- Economia: {saved}"


def day5(found: Measured) -> Block:
    result = found.day5
    rows = [[name, *_technique(result, choices)] for name, choices in DAY5.items()]
    table = markdown(["Técnica", "Speedup", "Memória", "Qualidade"], rows)
    if result:
        table += DAY5_NOTE
    return table, result


def _technique(result: Day5 | None, choices: tuple[str, ...]) -> list[str]:
    techniques = result.techniques if result else {}
    row = next((techniques[name] for name in choices if name in techniques), None)
    if row is None:
        return [MISSING if result else ""] * 3
    fp32 = techniques["fp32"]
    losses = [part.scores["perplexity_token"].value for part in (fp32, row)]
    memory = percent(row.memory_bytes / fp32.memory_bytes, 0)
    return [
        ratio(row.speed["1"].decode, fp32.speed["1"].decode) + "x",
        f"{decimal(row.memory_bytes / MIB)} MiB ({memory})",
        f"{percent(losses[0] / losses[1], 0)} (perplexidade {decimal(losses[1], 2)})",
    ]


# --- dias 6 e 7 -----------------------------------------------------------------------------------
def day6(found: Measured) -> Block:
    names = "Tamanho", "Domínio", "Formato", "Qualidade"
    cells = _dataset(found.data) if found.data else [""] * 4
    return "\n".join(f"- {n}: {cell}" for n, cell in zip(names, cells, strict=True)), found.data


def _dataset(data: Day6Data) -> list[str]:
    formats = []
    for name, parts in data.formats.items():
        sizes = " + ".join(decimal(rows) for rows in parts.values())
        formats.append(f"{FORMATS.get(name, name)} ({sizes})")
    leaks = f"{decimal(data.naive_leaks)} das {decimal(data.naive_held_out)} reservadas"
    return [
        f"{decimal(data.accepted)} linhas, das {decimal(data.read)} lidas",
        f"o de `{data.source}`",
        f"{', '.join(formats)}: treino + validação + teste",
        f"{decimal(data.read - data.accepted)} linhas recusadas; um sorteio simples deixaria no "
        f"treino {leaks}",
    ]


def day7(found: Measured) -> Block:
    cells = _project(found.project) if found.project else [""] * 4
    names = "Modelo base", "Melhoria obtida", "Tempo de treinamento", "Interface demo"
    lines = (f"- **{name}:** {cell}" for name, cell in zip(names, cells, strict=True))
    return "\n".join(lines), found.project


def _project(project: Evaluation) -> list[str]:
    before, after = (first_of(project, group) for group in ("untrained", "trained"))
    shares = [interval(part and part.execution_accuracy, 1, 100) for part in (before, after)]
    gain = f"acurácia de execução de {shares[0]} para {shares[1]} %"
    if test := project.base_against_trained:
        gain += f"; só o treinado acerta {test.only_second} perguntas, só o base, "
        gain += f"{test.only_first} ({probability(test.p_value)})"
    done, time = after and after.training, MISSING
    if done:
        method, examples = METHODS.get(done.method, done.method), decimal(done.examples)
        time = f"{decimal(done.minutes, 1)} min ({method}, {examples} exemplos)"
    name = "SmolLM2-135M-Instruct" if project.model == "default" else project.model
    return [name, gain, time, "`make app`"]


# De cada bloco: a função que o escreve e o comando que o mede.
DAYS: dict[str, tuple[Callable[[Measured], Block], str]] = {
    "dia1": (day1, "make demo"),
    "dia2": (day2, "make dia4"),
    "dia3": (day3, "make dia3"),
    "dia4": (day4, "make dia4"),
    "dia5": (day5, "make dia5"),
    "dia6": (day6, "make dia6"),
    "dia7": (day7, "make demo"),
}


def lines_of(name: str, found: Measured) -> list[str]:
    """As linhas de um bloco: o que falta rodar e a tabela vazia, ou a cheia e de onde ela vem."""
    function, command = DAYS[name]
    text, result = function(found)
    if result is None:
        todo = f"ainda não medido: `{command}` e, depois, `make experimentos`"
        return [todo, *(["", *text.split("\n")] if text else [])]
    page = f"README.md#dia-{name[-1]}"
    origin = (
        f"Medido em {day_of(result)}: [todos os números](resultados/{page}). Agora confira com\n"
        f"[a nossa medida](referencia/{page})."
    )
    # Nada que venha de um resultado parece uma marca.
    safe = text.replace("<!", "&lt;!").replace("-->", "--&gt;")
    return f"{safe}\n\n{origin}".split("\n")
