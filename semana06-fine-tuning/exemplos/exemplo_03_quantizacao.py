"""Dia 5: quantização, medida.

Você vai quantizar um peso à mão, conferir que o bitsandbytes faz a mesma conta, e depois quantizar
o modelo do dia 3 com várias técnicas: cada uma é gravada, recarregada noutro processo e medida.

    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py --quick   # quatro técnicas
    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py           # todas

O que olhar: as conferências (passo 1), a armadilha do modelo base (passo 2), a tabela (passo 4).
O que não está aqui: GGUF pelo llama.cpp (a tabela o mostra como ausente) e a comparação QLoRA.
"""

import utils  # antes do torch

import json
import subprocess
import sys
from pathlib import Path

import bitsandbytes
import matplotlib
import numpy
import torch

import medidas
import quantizacao_a_mao as hand
from plano_memoria import MIB
from tecnicas import TECHNIQUES, linears, missing

HERE = Path(__file__).resolve().parent
MODELS = utils.WEEK_DIR / "modelos"
QUICK = ("fp32", "bnb-int8", "bnb-nf4-dupla", "gptq-4bit-g64")
SIZES = {True: (8, 8, 2), False: (32, 90, 24)}  # calibração, conversas de teste, respostas


def main() -> None:
    args = arguments()
    names = list(QUICK) if args.quick else list(TECHNIQUES)
    calibration, tests, answers = SIZES[args.quick]
    source = trained_model(args)
    args.output.mkdir(parents=True, exist_ok=True)

    utils.banner(1, "À mão, num peso")
    model = utils.load_model(str(source)).cpu()
    weights = [m.weight.detach() for m in linears(model).values()]
    checks = by_hand(weights[0])
    figure = plot_levels(weights[0])

    utils.banner(2, "A armadilha: o modelo base veio de blocos de 4 bits")
    trap = compare_with_base(weights, args.base)
    del model, weights

    utils.banner(3, "Quantizar e medir, cada técnica no seu processo")
    absent = {n: why for n in names if (why := missing(TECHNIQUES[n]))}
    present = [n for n in names if n not in absent]
    run("tecnicas.py", source, args.output, calibration, *present)
    made = json.loads((args.output / "quantizar.json").read_text(encoding="utf-8"))
    absent |= made["recusadas"]
    reference = args.output / "referencia.pt"
    reference.unlink(missing_ok=True)
    rows = {}
    for name in present:
        if name not in absent:
            result = args.output / f"{name}.json"
            run("medir_quantizado.py", args.output / name, result, reference, tests, answers)
            rows[name] = json.loads(result.read_text(encoding="utf-8"))
            rows[name]["previsto_bytes"] = made["previsto_bytes"][name]
            rows[name]["segundos_para_quantizar"] = made["segundos"][name]

    utils.banner(4, "Lado a lado")
    print(table(rows, absent))
    pairs = {g: (f"gptq-4bit-{g}", f"rtn-4bit-{g}") for g in ("g64", "g32")}
    paired = {g: compare_pair(rows[ours], rows[control])
              for g, (ours, control) in pairs.items()
              if {ours, control} <= rows.keys()}  # fmt: skip
    for group, gain in paired.items():
        print(f"arredondar em vez de GPTQ, {group}: {medidas.show(gain, 3)} nats por token a mais")

    utils.banner(5, "O que levar")
    for line in guide(rows):
        print(line)
    path = utils.save_result("dia5_quantizacao" + ("_quick" if args.quick else ""), {
        "modelo": str(source), "conferencias": checks, "armadilha": trap, "tecnicas": rows,
        "ausentes": absent, "gptq_contra_arredondar": paired,
        "configuracao": {"calibracao": calibration, "teste": tests, "respostas": answers},
    })  # fmt: skip
    print(f"\nResultados: {path}\nFiguras: {figure}, {plot_tradeoff(rows)}")


def arguments():
    parser = utils.Parser(__doc__)
    parser.add_argument("--model", type=Path, metavar="PASTA",
                        help="modelo a quantizar (padrão: o do dia 3)")  # fmt: skip
    parser.add_argument("--base", default=str(utils.DEFAULT_MODEL), metavar="PASTA",
                        help="o modelo de antes do treino")  # fmt: skip
    parser.add_argument("--output", type=Path, default=MODELS / "dia5", metavar="PASTA")
    parser.add_argument("--quick", action="store_true", help="fp32, 8 bits, NF4 e GPTQ de 4 bits")
    return parser.parse_args()


def run(script: str, *values) -> None:
    """Um passo num processo só dele."""
    command = [sys.executable, str(HERE / script), *map(str, values)]
    if subprocess.run(command).returncode:
        raise utils.UserError(f"{script} não terminou; veja a mensagem acima.")


def trained_model(args) -> Path:
    """A pasta do modelo treinado; na falta dela, roda o dia 3 (curto, com --quick)."""
    if args.model is not None:
        if not (args.model / "config.json").is_file():
            raise utils.UserError(
                f"--model {args.model} não é a pasta de um modelo (falta config.json)."
            )
        return args.model
    folder = MODELS / "dia3"
    if (folder / "config.json").is_file():
        return folder
    folder = MODELS / "dia3-curto" if args.quick else folder
    if not (folder / "config.json").is_file():
        print("Falta o modelo do dia 3: treinando agora.", flush=True)
        quick = ["--quick"] if args.quick else []
        run("exemplo_01_fine_tuning_basico.py", "--model", args.base, "--output", folder, *quick)
    return folder


def by_hand(weight: torch.Tensor) -> dict[str, bool]:
    """Erros e bytes à mão, e a concordância com o bitsandbytes."""
    outlier = weight.clone()
    outlier[0, 0] = 50 * weight.abs().max()
    for label, matrix in (("peso", weight), ("com um valor 50 vezes maior", outlier)):
        for rows in (False, True):
            codes, scale = hand.int8(matrix, rows)
            error = hand.relative_error((codes * scale)[1:], matrix[1:])
            print(f"int8 por {'linha ' if rows else 'tensor'}, {label}: erro nas outras linhas "
                  f"{100 * error:.2f}%")  # fmt: skip
    codes, absmax = hand.nf4(weight)
    error = hand.relative_error(hand.from_nf4(codes, absmax, weight.shape), weight)
    print(f"NF4 em blocos de 64: erro {100 * error:.2f}%, {hand.bits_per_weight(4, 64, 32):.2f} "
          f"bits por peso ({hand.bits_per_weight(4, 64, 8.125):.3f} com escala dupla)")  # fmt: skip
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    _, double = bitsandbytes.functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    levels = double.state2.code
    ours, second, _ = hand.double_quantize(absmax, levels)
    theirs = double.absmax
    same = (ours == theirs).float().mean().item()
    gap = (levels[ours.long()] - levels[theirs.long()]).abs().max()
    print(f"escala dupla: {100 * same:.2f}% dos códigos de 8 bits iguais; os outros: empates, ou "
          "valores junto do zero em que a busca do bitsandbytes não escolhe o mais próximo")
    checks = {
        "códigos NF4": torch.equal(hand.pack4(codes), packed.reshape(-1)),
        "absmax dos blocos": torch.equal(absmax, state.absmax),
        "escalas em 8 bits (99% dos códigos, os outros a um degrau)":
            same >= 0.99 and bool(gap <= levels.diff().max() + 1e-6),
        "escalas das escalas": torch.allclose(second, double.state2.absmax, rtol=1e-4),
    }
    for text, passed in checks.items():
        print(f"[{'certo' if passed else 'ERRADO'}] {text}: iguais aos do bitsandbytes")
    if not all(checks.values()):
        raise utils.UserError("uma conferência com o bitsandbytes falhou; veja a linha com ERRADO.")
    return checks


def compare_with_base(weights: list[torch.Tensor], base: str) -> dict:
    """Erro relativo médio das grades no modelo base e no treinado, e quanto o treino moveu."""
    before = [m.weight.detach() for m in linears(utils.load_model(base).cpu()).values()]
    if [w.shape for w in before] != [w.shape for w in weights]:
        raise utils.UserError(f"--base {base} não tem as camadas do modelo treinado.")
    errors = {
        label: {
            "q4_1": float(numpy.mean([hand.relative_error(hand.q4_1(w), w) for w in group])),
            "nf4": float(numpy.mean([
                hand.relative_error(hand.from_nf4(*hand.nf4(w), w.shape), w) for w in group
            ])),
        }
        for label, group in (("base", before), ("treinado", weights))
    }  # fmt: skip
    steps = []
    for old, new in zip(before, weights, strict=True):
        blocks = old.reshape(-1, 32)
        step = (blocks.amax(1) - blocks.amin(1)) / 15
        moved = (new - old).reshape(-1, 32).abs().mean(1)
        steps.append((moved / step.clamp(min=1e-12)).mean().item())
    errors["deslocamento_em_passos"] = float(numpy.mean(steps))
    for label in ("base", "treinado"):
        print(f"{label:<9} erro da grade Q4_1 {100 * errors[label]['q4_1']:.3f}%, "
              f"do NF4 {100 * errors[label]['nf4']:.3f}%")  # fmt: skip
    print(f"O treino moveu cada peso, em média, {errors['deslocamento_em_passos']:.4f} passo da "
          "grade de 4 bits: quanto menor, mais ele guarda a grade de origem.")  # fmt: skip
    return errors


def compare_pair(gptq: dict, rtn: dict) -> dict:
    """Nats por token que o arredondamento perde a mais, nas mesmas conversas (bootstrap pareado).

    O denominador é o número de tokens de cada conversa, igual nas duas medições.
    """
    difference = numpy.array(rtn["nats"]) - numpy.array(gptq["nats"])
    return medidas.ratio(difference, numpy.array(gptq["tokens"], dtype=float))


def table(rows: dict, absent: dict) -> str:
    """Uma linha por técnica: aceleração, memória e qualidade relativas ao fp32."""
    first = rows["fp32"]
    lines = [f"{'técnica':<16}{'MiB':>6}{'previsto':>9}{'pico':>7}{'aceleração':>11}{'memória':>9}"
             f"{'qualidade':>10}  {'perplexidade':<20}{'KL':<22}{'igual ao fp32 (%)'}"]  # fmt: skip
    for name, row in rows.items():
        scores = row["metricas"]
        faster = row["velocidade"]["lote_1"]["decode"] / first["velocidade"]["lote_1"]["decode"]
        memory = row["bytes_em_disco"] / first["bytes_em_disco"]
        quality = (first["metricas"]["perplexidade_token"]["valor"]
                   / scores["perplexidade_token"]["valor"])  # fmt: skip
        lines.append(
            f"{name:<16}{row['bytes_em_disco'] / MIB:>6.0f}{row['previsto_bytes'] / MIB:>9.0f}"
            f"{row['pico_mib']:>7.0f}{faster:>10.2f}X{100 * memory:>8.0f}%{100 * quality:>9.0f}%  "
            f"{medidas.show(scores['perplexidade_token']):<20}"
            f"{medidas.show(scores['kl_fp32'], 3):<22}"
            f"{medidas.show(scores['concordancia_fp32'], 1, 100)}"
        )
    lines += [f"{name:<16}ausente: {why}" for name, why in absent.items()]
    lines.append("aceleração: decodificação, lote 1; memória: arquivo; qualidade: perplexidade do "
                 "fp32 sobre a da técnica. Embeddings ficam em 16 bits.")  # fmt: skip
    return "\n".join(lines)


def pareto(rows: dict) -> list[str]:
    """As técnicas que nenhuma outra bate em tamanho e em perplexidade ao mesmo tempo."""
    points = {n: (r["bytes_em_disco"], r["metricas"]["perplexidade_token"]["valor"])
              for n, r in rows.items()}  # fmt: skip
    return [
        n for n, p in points.items()
        if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())
    ]  # fmt: skip


def guide(rows: dict) -> list[str]:
    """Recomendações calculadas dos números medidos nesta máquina."""
    best = rows["fp32"]["metricas"]["perplexidade_token"]["valor"]
    near = [n for n in rows if rows[n]["metricas"]["perplexidade_token"]["valor"] <= 1.02 * best]
    smallest = min(near, key=lambda n: rows[n]["bytes_em_disco"])
    fastest = max(rows, key=lambda n: rows[n]["velocidade"]["lote_1"]["decode"])
    return [
        f"menor arquivo que perde até 2% de perplexidade: {smallest}",
        f"decodificação mais rápida em lote 1: {fastest}",
        f"frente de Pareto (tamanho x perplexidade): {', '.join(pareto(rows))}",
        "literatura: no OPT-125M, o GPTQ de 4 bits leva a perplexidade de 27,65 a 31,12 (Frantar "
        "et al., 2022).",
    ]


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


def plot_tradeoff(rows: dict) -> Path:
    """Tamanho contra perplexidade; a cor é a velocidade e o anel marca a frente de Pareto."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5))
    sizes = [r["bytes_em_disco"] / MIB for r in rows.values()]
    values = [r["metricas"]["perplexidade_token"]["valor"] for r in rows.values()]
    colors = [r["velocidade"]["lote_1"]["decode"] for r in rows.values()]
    front = pareto(rows)
    dots = axis.scatter(sizes, values, c=colors, s=70,
                        edgecolors=["red" if n in front else "none" for n in rows])  # fmt: skip
    for name, x, y in zip(rows, sizes, values, strict=True):
        axis.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    figure.colorbar(dots, label="tokens/s (decodificação, lote 1)")
    axis.set(xlabel="MiB em disco", ylabel="perplexidade por token", xscale="log",
             title="Tamanho e qualidade (anel vermelho: frente de Pareto)")  # fmt: skip
    return utils.save_figure(figure, "dia5_troca")


if __name__ == "__main__":
    utils.run_main(main)
