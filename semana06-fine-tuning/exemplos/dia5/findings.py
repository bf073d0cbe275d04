"""As tabelas, o guia e as figuras do dia 5, calculados dos números medidos."""

import textwrap
from collections.abc import Callable

from comum.labels import SCORES
from comum.models import compute_dtype
from comum.numbers import MIB, decimal, general, interval, percent, signed
from comum.results import Score, Technique, TrainingRun, Trap
from comum.statistics import ratio
from comum.tables import show

import torch

from utils import save_figure

CLOSE, USABLE = 1.02, 1.10  # perplexidade relativa ao fp32: quase igual; ainda aceitável
GRIDS = {"none": "sem arredondar", "q4_1": "Q4_1 (a de origem)", "nf4": "NF4"}
NOTES = {
    "gptq": "GPTQ e RTN: o compressed-tensors guarda 4 ou 8 bits no arquivo e, em uso, volta à "
    "precisão das contas: poupa disco, não memória.",
    "bnb-nf4": "bitsandbytes em CPU: a escala dupla é desfeita ao carregar, e as escalas ficam em "
    "16 bits onde há instruções de bf16.",
    "gguf-q4_k_m": "Q4_K_M: os 4,85 bits previstos valem em larguras múltiplas de 256; nas outras "
    "o llama.cpp usa blocos de 5 e 8 bits, e o arquivo cresce.",
}
QUALITY = ("perplexity_token", "kl_fp32", "agreement_fp32")
QUALITY += ("outside_portuguese", "outside_english", "bleu")
Rows = dict[str, Technique]


def score(row: Technique) -> float:
    return row.scores["perplexity_token"].value


def decode(row: Technique, batch: int = 1) -> float:
    return row.speed[str(batch)].decode


def show_trap(trap: Trap) -> None:
    """A armadilha: uma linha por modelo, e o que se conclui dela."""
    lines = []
    for name, model in (("base", trap.base), ("treinado", trap.trained)):
        errors = (percent(model.weight_error[grid], 2) for grid in ("q4_1", "nf4"))
        lines.append([name, *(interval(model.perplexity[grid]) for grid in GRIDS), *errors])
    show(["perplexidade", *GRIDS.values(), "erro Q4_1", "erro NF4"], lines)
    if not trap.moved_steps:
        print("Os dois modelos são o mesmo: não há treino a comparar.")
        return
    left = {grid: percent(share, 0) for grid, share in trap.kept.items()}
    print(f"O treino moveu cada peso, em média, {decimal(trap.moved_steps, 4)} passo da grade.")
    print(f"Do que ele mudou, sobra depois de arredondar: Q4_1 {left['q4_1']}, NF4 {left['nf4']}.")
    if trap.kept["q4_1"] < trap.kept["nf4"] / 2:
        print(
            "Na grade de origem, o pouco que se arredonda é o próprio treino. Noutra grade cada\n"
            "peso erra muito mais, mas para os dois lados, e o treino, somado, passa: o erro dos\n"
            "pesos não serve para escolher entre técnicas; a perplexidade serve."
        )


def show_table(title: str, rows: Rows, cells: dict[str, Callable[[Technique], str]]) -> None:
    lines = [[name, *(cell(row) for cell in cells.values())] for name, row in rows.items()]
    show(["técnica", *cells], lines, title)


def show_tables(rows: Rows, absent: dict[str, str]) -> None:
    """Tamanho previsto e medido, velocidade e qualidade, uma linha por técnica."""
    costs = {
        "disco: previsto": lambda row: decimal(row.predicted_disk_bytes / MIB),
        "medido": lambda row: decimal(row.disk_bytes / MIB),
        "memória: prevista": lambda row: decimal(row.predicted_memory_bytes / MIB),
        "medida": lambda row: decimal(row.memory_bytes / MIB),
        "pico": lambda row: decimal(row.peak_mib),
        "quantizar": lambda row: decimal(row.quantize_seconds, 1),
        "prefill x1": lambda row: decimal(row.speed["1"].prefill),
        "x8": lambda row: decimal(row.speed["8"].prefill),
        "decod. x1": lambda row: decimal(decode(row), 1),
        "x8 ": lambda row: decimal(decode(row, 8), 1),
    }
    show_table("Custo: MiB, segundos e tokens/s (x8: oito sequências juntas)", rows, costs)
    for name, why in absent.items():
        print(f"{name}, ausente: {why}")
    if compute_dtype() == torch.float32:
        print("Aqui não há instruções de bf16: as que quantizam fizeram as contas em float32.")
    for start, text in NOTES.items():
        if any(name.startswith(start) for name in rows):
            print(text)
    quality = {
        SCORES[key][0]: lambda row, key=key: interval(row.scores[key], *SCORES[key][1:])
        for key in QUALITY
    }
    show_table("Qualidade, com intervalos de 95%; a KL é por token da resposta", rows, quality)
    fp32 = rows["fp32"]
    ratios = {
        "aceleração (lote 1)": lambda row: decimal(decode(row) / decode(fp32), 2, "X"),
        "memória dos pesos": lambda row: percent(row.memory_bytes / fp32.memory_bytes, 0),
        "qualidade": lambda row: percent(score(fp32) / score(row), 0),
        "resposta": lambda row: " ".join(row.answers[0].split())[:60],
    }
    show_table("Sobre o fp32, e a primeira pergunta respondida", rows, ratios)


def rounding_losses(rows: Rows) -> dict[str, Score]:
    """Nats por token que arredondar perde a mais que o GPTQ, nas mesmas conversas (pareado)."""
    found = {}
    for group in ("g64", "g32"):
        best, rounded = rows.get(f"gptq-4bit-{group}"), rows.get(f"rtn-4bit-{group}")
        if best and rounded:
            more = [a - b for a, b in zip(rounded.nats, best.nats, strict=True)]
            found[group] = ratio(more, best.tokens)
            text = interval(found[group], 3)
            print(f"arredondar em vez de GPTQ, {group}: {text} nats por token a mais")
    return found


def pareto(rows: Rows) -> list[str]:
    """As técnicas que nenhuma outra bate em tamanho e em perplexidade ao mesmo tempo."""
    points = {name: (row.disk_bytes, score(row)) for name, row in rows.items()}
    return [
        name
        for name, (size, loss) in points.items()
        if not any(a <= size and b <= loss and (a, b) != (size, loss) for a, b in points.values())
    ]


def choices(rows: Rows) -> dict[str, str]:
    """O que levar em cada situação, pelos números desta rodada: situação → técnica."""
    best = score(rows["fp32"])
    plain = {name: row for name, row in rows.items() if name in ("fp32", "bf16")}
    close = {name: row for name, row in rows.items() if score(row) <= CLOSE * best}
    usable = {name: row for name, row in rows.items() if score(row) <= USABLE * best}
    situations = [
        ("protótipo (nada a quantizar, a decodificação mais rápida)", plain, decode),
        ("produção (menor arquivo que perde até 2%)", close, lambda row: -row.disk_bytes),
        ("resposta rápida a um usuário (lote 1, perde até 10%)", usable, decode),
        ("muitos pedidos juntos (lote 8, perde até 10%)", usable, lambda row: decode(row, 8)),
        ("memória apertada (perde até 10%)", usable, lambda row: -row.memory_bytes),
    ]
    return {text: max(among, key=lambda n: key(among[n])) for text, among, key in situations}


def guide(rows: Rows, runs: dict[str, TrainingRun]) -> list[str]:
    """O guia: escolhas medidas aqui, e onde a literatura e esta máquina discordam."""
    here, other = ("GPU", "CPU") if torch.cuda.is_available() else ("CPU", "GPU")
    lines = [f"Nesta máquina ({here}), por estes números:"]
    lines += [f"  {situation}: {name}" for situation, name in choices(rows).items()]
    lines.append(f"  frente de Pareto (arquivo x perplexidade): {', '.join(pareto(rows))}")
    lines.append(f"Em {other} não se mediu nada nesta rodada; rode lá a mesma lição.")
    published = {
        "bnb-int8": "LLM.int8() (Dettmers et al., 2022): metade da memória do fp16 sem perda, e "
        "mais lento abaixo de 6,7 bilhões de parâmetros",
        "bnb-nf4-double": "NF4 (Dettmers et al., 2023): iguala 16 bits depois de um ajuste por "
        "cima (QLoRA), de 7 a 65 bilhões de parâmetros; só quantizar, como aqui, custa mais",
        "gptq-4bit-g64": "GPTQ (Frantar et al., 2022): em 4 bits, no OPT-125M e no WikiText2, de "
        "27,65 a 31,12 (+12,6%); os 3,25X sobre o fp16 numa A100 são do OPT-175B em 3 bits, com "
        "núcleo próprio",
    }
    name, compared = "bf16" if "bf16" in rows else "fp32", []
    for technique, text in published.items():
        if row := rows.get(technique):
            loss = 100 * (score(row) / score(rows["fp32"]) - 1)
            compared.append(
                f"  {text}. Aqui: {percent(row.memory_bytes / rows[name].memory_bytes, 0)} da "
                f"memória do {name}, {decimal(decode(row) / decode(rows[name]), 2)}X a velocidade, "
                f"perplexidade {signed(loss, 1)}% sobre o fp32."
            )
    if len(runs) == 2:
        lora, qlora = runs["lora"], runs["qlora"]
        weights = qlora.memory_measured.weights / lora.memory_measured.weights
        scores = [run.test["perplexity_token"] for run in (lora, qlora)]
        compared.append(
            "  QLoRA (Dettmers et al., 2023): a qualidade do LoRA em 16 bits, com muito menos "
            f"memória. Aqui: pesos {percent(weights, 0)} e pico "
            f"{percent(qlora.peak_mib / lora.peak_mib, 0)} dos do LoRA, "
            f"{decimal(qlora.seconds / lora.seconds, 2)} vez o tempo, perplexidade "
            f"{decimal(scores[1].value, 2)} contra {decimal(scores[0].value, 2)} (intervalos "
            f"{'separados' if scores[0].apart(scores[1]) else 'que se cruzam'})."
        )
    return lines + ["Literatura e esta máquina:", *compared] * bool(compared)


def show_guide(rows: Rows, runs: dict[str, TrainingRun]) -> None:
    lines = guide(rows, runs)
    print(*(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines), sep="\n")


def save_figures(
    rows: Rows, weight: torch.Tensor, levels: torch.Tensor, block: int, stem: str
) -> None:
    """Grava as duas figuras: `dia5_niveis.png` e, em `{stem}.png`, a da comparação."""
    drawn = {"dia5_niveis": draw_levels(weight, levels, block), stem: draw_tradeoff(rows)}
    print("Figuras:", ", ".join(str(save_figure(figure, name)) for name, figure in drawn.items()))


def draw_levels(weight: torch.Tensor, levels: torch.Tensor, block: int):
    """Os níveis do NF4 sobre o histograma dos pesos normalizados por bloco."""
    from matplotlib.figure import Figure

    blocks = weight.reshape(-1, block)
    figure = Figure(figsize=(8, 4))
    axis = figure.subplots()
    axis.hist((blocks / blocks.abs().amax(1, keepdim=True)).flatten().numpy(), bins=120)
    for level in levels.tolist():
        axis.axvline(level, color="tab:red", linewidth=0.8)
    axis.set(xlabel=f"peso / absmax do bloco de {block}", ylabel="pesos")
    axis.set_title("Os 16 níveis do NF4")
    return figure


def draw_tradeoff(rows: Rows):
    """Tamanho contra perplexidade; a cor é a técnica e o anel marca a frente de Pareto."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure, front = Figure(figsize=(9, 5.5)), pareto(rows)
    axis = figure.subplots()
    for (name, row), color in zip(rows.items(), colormaps["tab20"].colors, strict=False):
        style = {"s": 90, "color": color, "edgecolors": "red" if name in front else "none"}
        axis.scatter(row.disk_bytes / MIB, score(row), linewidths=2, label=name, **style)
    axis.set(xlabel="MiB em disco", ylabel="perplexidade por token")
    axis.set_title("Tamanho e qualidade (anel vermelho: frente de Pareto)")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, place: general(value))
    axis.legend(loc="upper right", fontsize=8)
    return figure
