"""As tabelas do fim da avaliação: notas com intervalos de 95%, tamanho e tempo."""

from comum import tables
from comum.numbers import decimal, interval, megabytes, p_value
from comum.results import Evaluation, Variant

# Na ordem em que se mostram.
GROUPS = ("untrained", "examples", "trained", "wordings", "others", "forms")
DIFFICULTIES = ("fácil", "média", "difícil")
SIDE_BY_SIDE = 3  # variantes que cabem lado a lado num terminal de 80 colunas


def show(evaluation: Evaluation) -> None:
    """Imprime as notas, os custos e as comparações com o treinado."""
    variants = evaluation.variants
    first = next(iter(variants.values()))
    total, others = first.execution_accuracy.n, ""
    if first.declined_right:
        others = f" e {first.declined_right.n} que o banco não responde"
    print(f"\n{total} perguntas{others}; intervalos de 95% entre colchetes")
    _show(["%", "acurácia de execução", "SQL válido", "igual à referência"], variants, _shares)
    if first.declined_wrong:
        header = ["%", "recusou o que o banco não responde", "recusou o que ele responde"]
        _show(header, variants, _declines)
    header = ["", "perplexidade da referência", "BLEU", "tokens no prompt", "treino"]
    _show(header, variants, _others)
    names = list(variants)
    for start in range(0, len(names), SIDE_BY_SIDE):
        block = names[start : start + SIDE_BY_SIDE]
        tables.show(["acurácia, %", *block], _details([variants[name] for name in block]))
    print("Perguntas feitas uma a uma:")
    _show(["", "motor", "p50", "p95", "tokens/s", "pesos", "memória"], variants, _costs)
    paired = evaluation.base_against_trained
    if paired:
        change = f"perde {paired.only_first} da base, ganha {paired.only_second}"
        print(f"McNemar, treinado: {change} (p: {p_value(paired.p_value)})")
    for name, paired in evaluation.against_trained.items():
        change = f"perde {paired.only_first} do treinado, ganha {paired.only_second}"
        print(f"McNemar, {name}: {change} (p: {p_value(paired.p_value)})")


def _show(header: list[str], variants: dict[str, Variant], cells) -> None:
    """Uma linha por variante: o nome e o que `cells` diz dela."""
    tables.show(header, [[name, *cells(part)] for name, part in variants.items()])


def _shares(part: Variant) -> list[str]:
    scores = (part.execution_accuracy, part.valid_sql, part.exact_match)
    return [interval(score, 1, 100) for score in scores]


def _declines(part: Variant) -> list[str]:
    return [interval(score, 1, 100) for score in (part.declined_right, part.declined_wrong)]


def _others(part: Variant) -> list[str]:
    return [
        interval(part.gold_perplexity, 3),
        interval(part.bleu, 1),
        decimal(part.prompt_tokens),
        decimal(part.training and part.training.minutes, unit=" min"),
    ]


def _details(parts: list[Variant]) -> list[list[str]]:
    """A acurácia por dificuldade e por tipo de consulta, com uma coluna por variante."""
    groups = [part.by_difficulty | part.by_kind for part in parts]
    return [
        [f"{name} ({groups[0][name].n})", *(interval(group[name], 1, 100) for group in groups)]
        for name in (*DIFFICULTIES, *parts[0].by_kind)
        if all(name in group for group in groups)
    ]


def _costs(part: Variant) -> list[str]:
    alone = part.latency
    return [
        part.engine,
        decimal(alone.p50_s, 2, " s"),
        decimal(alone.p95_s, 2, " s"),
        decimal(alone.tokens_per_second, 1),
        megabytes(part.weights_bytes),
        megabytes(part.memory_bytes),
    ]
