"""O relatório do dia 4: treino completo e LoRA lado a lado, em tabela, frases e figura."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import medidas
import plano_memoria
import utils  # antes do torch
from utils import decimal, thousands

METRICS = (
    ("perplexidade por token", "teste_perplexidade_token", 2, 1),
    ("perplexidade por byte", "teste_perplexidade_byte", 3, 1),
    ("próximo token certo (%)", "teste_acuracia_proximo_token", 1, 100),
    ("BLEU", "teste_bleu", 1, 1),
)
SMOOTH = 10  # passos da média móvel na figura


def table(runs: dict[str, dict]) -> str:
    """Treináveis, memória, tempo, qualidade e disco, método a método."""

    def line(label: str, cell: Callable[[dict], str]) -> str:
        return f"{label:<30}" + "".join(f"{cell(result):>22}" for result in runs.values())

    lines = ["\n" + " " * 30 + "".join(f"{method:>22}" for method in runs)]
    lines.append(line("treináveis", lambda r: thousands(r["parametros"]["treinaveis"])))
    for part in plano_memoria.PARTS:
        lines.append(line(f"{part} (MiB)", lambda r, p=part: thousands(r["memoria_mib"][p])))
    lines += [
        line("soma das quatro (MiB)", lambda r: thousands(four(r["memoria_mib"]))),
        line("soma prevista (MiB)", lambda r: thousands(four(r["memoria_prevista_mib"]))
             if r["memoria_prevista_mib"] else "sem fórmula"),
        line("pico do processo (MiB)", lambda r: thousands(r["memoria_mib"]["pico_do_processo"])),
        line("treino (min)", lambda r: decimal(r["treino"]["segundos"] / 60, 1)),
        line("tokens/s", lambda r: thousands(r["treino"]["tokens_por_segundo"])),
    ]  # fmt: skip
    for label, key, decimals, scale in METRICS:
        lines.append(
            line(label, lambda r, k=key, d=decimals, s=scale: medidas.show(r["metricas"][k], d, s))
        )
    lines.append(line("salvo em disco (MiB)", lambda r: thousands(r["disco_mib"])))
    return "\n".join(lines)


def verdict(full: dict, lora: dict) -> str:
    """O que a comparação permite dizer, a partir dos números medidos."""
    peaks = [r["memoria_mib"]["pico_do_processo"] for r in (lora, full)]
    sums = [four(r["memoria_mib"]) for r in (lora, full)]
    lines = [
        f"\nmemória do LoRA / completo: {decimal(sums[0] / sums[1], 2)} na soma das quatro "
        f"parcelas, {decimal(peaks[0] / peaks[1], 2)} no pico do processo (que inclui "
        f"{thousands(lora['memoria_mib']['processo_vazio'])} MiB de Python e bibliotecas)"
    ]
    for label, key, *_ in METRICS:
        low, high = full["metricas"][key]["ic95"]
        value = lora["metricas"][key]["valor"]
        lower_is_better = "perplexidade" in key
        where = "dentro do intervalo do completo"
        if not low <= value <= high:
            better = (value < low) == lower_is_better
            where = f"fora do intervalo do completo, {'melhor' if better else 'pior'} que ele"
        lines.append(f"{label}: o LoRA fica {where}")
    return "\n".join(lines)


def four(memory: dict[str, float]) -> float:
    """Soma das quatro parcelas, em MiB."""
    return sum(memory[part] for part in plano_memoria.PARTS)


def plot(name: str, runs: dict[str, dict]) -> Path:
    """Memória por parcela e perda de treino, método a método."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    bottom = [0.0] * len(runs)
    for part in plano_memoria.PARTS:
        heights = [result["memoria_mib"][part] for result in runs.values()]
        left.bar(list(runs), heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    left.set(ylabel="MiB", title="Memória de um passo")
    left.legend()
    for method, result in runs.items():
        losses = result["treino"]["perdas"]
        width = min(SMOOTH, len(losses))  # média móvel: a perda de um lote só oscila demais
        smooth = [sum(losses[i - width : i]) / width for i in range(width, len(losses) + 1)]
        right.plot(range(width, len(losses) + 1), smooth, label=method)
    right.set(xlabel="passo", ylabel="perda (nats por token da resposta)",
              title=f"Treino (média de {SMOOTH} passos)")  # fmt: skip
    right.legend()
    return utils.save_figure(figure, name)
