"""As tabelas, o guia e as figuras do dia 5, calculados dos números medidos."""

from pathlib import Path

import matplotlib
import medidas
import numpy
import quantizacao_a_mao as hand
import torch
import utils  # antes do torch
from plano_memoria import MIB
from utils import decimal

CLOSE, USABLE = 1.02, 1.10  # perplexidade relativa ao fp32: quase igual; ainda aceitável


def signed(value: float) -> str:
    return f"{value:+.1f}".replace(".", ",")


def perplexity(row: dict) -> float:
    return row["metricas"]["perplexidade_token"]["valor"]


def decode(row: dict, batch: int = 1) -> float:
    return row["velocidade"][f"lote_{batch}"]["decode"]


def cost_table(rows: dict, absent: dict) -> str:
    """Tamanho previsto e medido, tempo para quantizar e velocidade, uma linha por técnica."""
    lines = [
        f"{'':<16}{'disco (MiB)':^16}{'memória (MiB)':^18}{'pico':>6}{'quant.':>8}"
        f"{'prefill (tok/s)':^20}{'decodificação (tok/s)':^22}",
        f"{'técnica':<16}{'previsto':>9}{'medido':>7} {'previsto':>10}{'medido':>7}{'(MiB)':>6}"
        f"{'(s)':>8}{'lote 1':>10}{'lote 8':>9}{'lote 1':>12}{'lote 8':>9}",
    ]
    for name, row in rows.items():
        one, eight = row["velocidade"]["lote_1"], row["velocidade"]["lote_8"]
        lines.append(
            f"{name:<16}{row['previsto_bytes'] / MIB:>9.0f}{row['bytes_em_disco'] / MIB:>7.0f}"
            f"{row['previsto_memoria_bytes'] / MIB:>11.0f}{row['bytes_na_memoria'] / MIB:>7.0f}"
            f"{row['pico_mib']:>6.0f}{decimal(row['segundos_para_quantizar'], 1):>8}"
            f"{one['prefill']:>10.0f}{eight['prefill']:>9.0f}"
            f"{decimal(one['decode'], 1):>12}{decimal(eight['decode'], 1):>9}"
        )
    lines += [f"{name:<16} ausente: {why}" for name, why in absent.items()]
    notes = {
        "gptq": "GPTQ e RTN: o compressed-tensors guarda 4 ou 8 bits no arquivo e, em uso, volta a "
                "bf16: poupa disco, não memória.",
        "bnb-nf4": "bitsandbytes em CPU: a escala dupla é desfeita ao carregar, e as escalas ficam "
                   "em 16 bits onde há instruções de bf16.",
        "gguf-q4_k_m": "Q4_K_M: os 4,85 bits previstos valem em larguras múltiplas de 256; nas "
                       "outras o llama.cpp usa blocos de 5 e 8 bits, e o arquivo cresce.",
    }  # fmt: skip
    lines += [text for start, text in notes.items() if any(n.startswith(start) for n in rows)]
    return "\n".join(lines)


def quality_table(rows: dict) -> str:
    """As notas de cada técnica, com intervalos de 95%."""
    columns = (("perplexidade", "perplexidade_token", 2, 1), ("KL", "kl_fp32", 3, 1),
               ("igual ao fp32 (%)", "concordancia_fp32", 1, 100),
               ("fora, português", "fora_portugues", 3, 1), ("fora, inglês", "fora_ingles", 3, 1),
               ("BLEU", "bleu", 1, 1))  # fmt: skip
    lines = [f"{'(95%)':<16}" + "".join(f"{title:<23}" for title, *_ in columns)]
    for name, row in rows.items():
        cells = (medidas.show(row["metricas"][key], *how) for _, key, *how in columns)
        lines.append(f"{name:<16}" + "".join(f"{cell:<23}" for cell in cells))
    lines.append("perplexidade e KL: por token da resposta; fora: por byte, de textos de fora do "
                 "domínio; BLEU: das respostas gulosas, cortadas em 60 tokens.")  # fmt: skip
    return "\n".join(lines)


def ratios(rows: dict) -> dict[str, dict[str, dict[str, float]]]:
    """Aceleração (decodificação, lote 1), memória em uso e qualidade, sobre o fp32 e o bf16."""
    return {
        name: {
            other: {
                "aceleracao": decode(row) / decode(rows[other]),
                "memoria": row["bytes_na_memoria"] / rows[other]["bytes_na_memoria"],
                "arquivo": row["bytes_em_disco"] / rows[other]["bytes_em_disco"],
                "qualidade": perplexity(rows[other]) / perplexity(row),
            }
            for other in ("fp32", "bf16") if other in rows
        }
        for name, row in rows.items()
    }  # fmt: skip


def ratio_lines(rows: dict) -> list[str]:
    """`aceleração X, memória Y%, qualidade Z%`, uma linha por técnica."""
    lines = []
    for name, references in ratios(rows).items():
        parts = [
            f"aceleração {decimal(r['aceleracao'], 2)}X, memória {decimal(100 * r['memoria'])}%, "
            f"qualidade {decimal(100 * r['qualidade'])}%"
            for r in references.values()
        ]
        second = f"  (sobre o bf16: {parts[1]})" if len(parts) > 1 else ""
        lines.append(f"{name:<16}{parts[0]}{second}")
    lines.append("aceleração: decodificação em lote 1; memória: pesos em uso; qualidade: "
                 "perplexidade do fp32 (ou do bf16) sobre a da técnica.")  # fmt: skip
    return lines


def pareto(rows: dict) -> list[str]:
    """As técnicas que nenhuma outra bate em tamanho e em perplexidade ao mesmo tempo."""
    points = {n: (r["bytes_em_disco"], perplexity(r)) for n, r in rows.items()}
    return [
        n for n, p in points.items()
        if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())
    ]  # fmt: skip


def choices(rows: dict) -> dict[str, str]:
    """O que levar em cada situação, pelos números desta corrida: situação → técnica."""
    best = perplexity(rows["fp32"])
    plain = [n for n in rows if n in ("fp32", "bf16")]
    close = [n for n in rows if perplexity(rows[n]) <= CLOSE * best]
    usable = [n for n in rows if perplexity(rows[n]) <= USABLE * best]
    return {
        "protótipo (nada a quantizar, a decodificação mais rápida)":
            max(plain, key=lambda n: decode(rows[n])),
        "produção (menor arquivo que perde até 2% de perplexidade)":
            min(close, key=lambda n: rows[n]["bytes_em_disco"]),
        "resposta rápida a um usuário (lote 1, perde até 10%)":
            max(usable, key=lambda n: decode(rows[n])),
        "muitos pedidos juntos (lote 8, perde até 10%)":
            max(usable, key=lambda n: decode(rows[n], 8)),
        "memória apertada (menos memória em uso, perde até 10%)":
            min(usable, key=lambda n: rows[n]["bytes_na_memoria"]),
    }  # fmt: skip


def guide(rows: dict, qlora: dict) -> list[str]:
    """O guia: escolhas medidas aqui, e onde a literatura e esta máquina discordam."""
    here = "GPU" if torch.cuda.is_available() else "CPU"
    other = "CPU" if here == "GPU" else "GPU"
    lines = [f"Nesta máquina ({here}), por estes números:"]
    lines += [f"  {situation}: {name}" for situation, name in choices(rows).items()]
    lines.append(f"  frente de Pareto (arquivo x perplexidade): {', '.join(pareto(rows))}")
    lines.append(f"Em {other} não se mediu nada nesta corrida; rode lá a mesma lição.")
    if here == "CPU":
        lines += [
            "  ponto de partida, pela literatura: protótipo e treino em NF4 com escala dupla "
            "(QLoRA), produção em bf16 ou GPTQ,",
            "  inferência rápida em GPTQ com núcleo próprio (Frantar et al., 2022: 3,25X numa A100 "
            "sobre fp16, no OPT-175B).",
        ]
    lines.append("Literatura e esta máquina:")
    fp32 = rows["fp32"]
    if "bnb-int8" in rows:
        row = rows["bnb-int8"]
        lines.append(
            "  LLM.int8() (Dettmers et al., 2022): metade da memória do fp16 sem perda, e mais "
            f"lento abaixo de 6,7 bilhões de parâmetros. Aqui: {share(row, rows)}"
        )
    if "bnb-nf4-dupla" in rows:
        lines.append("  NF4 (Dettmers et al., 2023): iguala 16 bits, de 7 a 65 bilhões de "
                     f"parâmetros. Aqui: {share(rows['bnb-nf4-dupla'], rows)}")  # fmt: skip
    measured = [n for n in ("gptq-4bit-g64", "gptq-4bit-g32") if n in rows]
    if measured:
        before, after = perplexity(fp32), perplexity(rows[measured[0]])
        lines.append(
            "  GPTQ (Frantar et al., 2022), 4 bits no OPT-125M: 27,65 → 31,12, ou +12,6%. Aqui, "
            f"{measured[0]}: {decimal(before, 2)} → {decimal(after, 2)}, ou "
            f"{signed(100 * (after / before - 1))}%."
        )
    if len(qlora) == 2:
        lines.append("  QLoRA (Dettmers et al., 2023): mesma qualidade do LoRA em 16 bits, com "
                     f"muito menos memória. Aqui: {qlora_verdict(qlora)}")  # fmt: skip
    return lines


def share(row: dict, rows: dict) -> str:
    """Memória e velocidade sobre o bf16 (ou o fp32) e perplexidade sobre o fp32, numa frase."""
    name = "bf16" if "bf16" in rows else "fp32"
    other = rows[name]
    memory = 100 * row["bytes_na_memoria"] / other["bytes_na_memoria"]
    speed = decode(row) / decode(other)
    loss = 100 * (perplexity(row) / perplexity(rows["fp32"]) - 1)
    return (f"{decimal(memory)}% da memória do {name}, {decimal(speed, 2)}X a velocidade, "
            f"perplexidade {signed(loss)}% sobre o fp32.")  # fmt: skip


def qlora_table(runs: dict) -> str:
    """LoRA sobre bf16 e sobre NF4, lado a lado."""
    lines = [f"{'':<44}" + "".join(f"{name:>24}" for name in runs)]
    numbers = (
        ("pesos na memória (MiB)", lambda r: decimal(r["memoria_mib"]["pesos"])),
        ("pico do processo (MiB)", lambda r: decimal(r["memoria_mib"]["pico_do_processo"])),
        ("segundos de treino", lambda r: decimal(r["treino"]["segundos"])),
        ("tokens por segundo", lambda r: decimal(r["treino"]["tokens_por_segundo"])),
        ("perplexidade no teste",
         lambda r: medidas.show(r["metricas"]["teste_perplexidade_token"])),
        ("próximo token certo no teste (%)",
         lambda r: medidas.show(r["metricas"]["teste_acuracia_proximo_token"], 1, 100)),
        ("BLEU no teste", lambda r: medidas.show(r["metricas"]["teste_bleu"], 1)),
    )  # fmt: skip
    for label, value in numbers:
        lines.append(f"{label:<44}" + "".join(f"{value(run):>24}" for run in runs.values()))
    return "\n".join(lines)


def qlora_verdict(runs: dict) -> str:
    lora, qlora = runs["LoRA sobre bf16"], runs["QLoRA sobre NF4"]
    scores = [r["metricas"]["teste_perplexidade_token"] for r in (lora, qlora)]
    (low, high), (other_low, other_high) = (score["ic95"] for score in scores)
    apart = high < other_low or other_high < low
    peaks = [r["memoria_mib"]["pico_do_processo"] for r in (lora, qlora)]
    seconds = [r["treino"]["segundos"] for r in (lora, qlora)]
    return (
        f"pico de {decimal(100 * peaks[1] / peaks[0])}% do LoRA, "
        f"{decimal(seconds[1] / seconds[0], 2)} vez o tempo, perplexidade "
        f"{decimal(scores[1]['valor'], 2)} contra {decimal(scores[0]['valor'], 2)} "
        f"(intervalos {'separados' if apart else 'que se cruzam'})."
    )


def plot_levels(weight: torch.Tensor) -> Path:
    """Os níveis do NF4 sobre o histograma dos pesos normalizados por bloco."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    blocks = weight.reshape(-1, 64)
    figure, axis = pyplot.subplots(figsize=(8, 4))
    axis.hist((blocks / blocks.abs().amax(1, keepdim=True)).flatten().numpy(), bins=120)
    for level in hand.nf4_levels().tolist():
        axis.axvline(level, color="tab:red", linewidth=0.8)
    axis.set(xlabel="peso / absmax do bloco de 64", ylabel="pesos", title="Os 16 níveis do NF4")
    return utils.save_figure(figure, "dia5_niveis")


def label_points(axis, names: list[str], xs: list[float], ys: list[float]) -> None:
    """Um nome por ponto, ligado a ele por um traço, sem que dois nomes se cubram."""
    axis.figure.canvas.draw()  # só depois disto as escalas são as definitivas
    pixels = axis.transData.transform(numpy.column_stack([xs, ys]))
    line = 13 * axis.figure.dpi / 72  # a altura de uma linha de texto, em pixels
    middle = axis.transAxes.transform((0.5, 0))[0]
    placed: list[tuple[float, float]] = []  # (x do ponto, y do nome) dos já escritos
    for index in numpy.argsort(pixels[:, 1], kind="stable"):
        x, y = pixels[index]
        level = y
        while any(abs(x - a) < 8 * line and abs(level - b) < line for a, b in placed):
            level += line / 4
        placed.append((x, level))
        side = -1 if x > middle else 1  # o nome fica para dentro da moldura
        axis.annotate(
            names[index], (xs[index], ys[index]), xytext=(side * 2 * line, level - y),
            textcoords="offset pixels", fontsize=8, va="center",
            ha="left" if side > 0 else "right",
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "gray"},
        )  # fmt: skip


def plot_tradeoff(rows: dict, suffix: str = "") -> Path:
    """Tamanho contra perplexidade; a cor é a velocidade e o anel marca a frente de Pareto."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axis = pyplot.subplots(figsize=(9, 5.5))
    sizes = [r["bytes_em_disco"] / MIB for r in rows.values()]
    values = [perplexity(r) for r in rows.values()]
    front = pareto(rows)
    dots = axis.scatter(sizes, values, c=[decode(r) for r in rows.values()], s=80, linewidths=2,
                        edgecolors=["red" if n in front else "none" for n in rows])  # fmt: skip
    figure.colorbar(dots, label="tokens/s (decodificação, lote 1)")
    axis.set(xlabel="MiB em disco", ylabel="perplexidade por token", xscale="log",
             title="Tamanho e qualidade (anel vermelho: frente de Pareto)")  # fmt: skip
    axis.margins(0.12)
    label_points(axis, list(rows), sizes, values)
    whole = FuncFormatter(lambda value, place: f"{value:.0f}")
    axis.xaxis.set_major_formatter(whole)
    axis.xaxis.set_minor_formatter(whole)
    comma = FuncFormatter(lambda value, place: f"{value:g}".replace(".", ","))
    axis.yaxis.set_major_formatter(comma)
    axis.grid(alpha=0.3)
    return utils.save_figure(figure, "dia5_troca" + suffix)
