"""Dia 5: quantização, medida.

Você vai quantizar um peso à mão, conferir que o bitsandbytes faz a mesma conta, e depois quantizar
o modelo do dia 3 com várias técnicas: cada uma é gravada, recarregada noutro processo e medida.

    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py --quick   # 2 min
    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py           # 15 min: todas e QLoRA

Medir cada técnica leva menos de um minuto em 2 núcleos. Com outro programa pesado ao lado, leva
várias vezes mais, e as velocidades não valem: o llama.cpp é o que mais sofre.

O que olhar: as conferências (passo 1); a armadilha do modelo base (passo 2); previsto e medido, e o
que cada técnica custa em qualidade (passo 4); o guia (passo 6), calculado dos seus números.

As linhas GGUF pedem o llama.cpp, opcional: python -m pip install "xllamacpp==2026.10.11549". O que
falta numa máquina aparece na tabela como ausente, com o comando que o traz.
"""

import json
import subprocess
import sys
from pathlib import Path

import armadilha
import medidas
import numpy
import quantizacao_a_mao as hand
import relatorio_quantizacao as report
import torch
import utils  # antes do torch
from tecnicas import TECHNIQUES, linears, missing

HERE = Path(__file__).resolve().parent
MODELS = utils.WEEK_DIR / "modelos"
QUICK = ("fp32", "bnb-int8", "bnb-nf4-dupla", "gptq-4bit-g64")
NARROW = {"gptq-4bit-g64": "gptq-4bit-g32"}  # em modelos cuja largura não se divide em 64
SIZES = {  # conversas de calibração, de teste e da armadilha; respostas; vezes que se cronometra
    True: {"calibracao": 8, "teste": 6, "armadilha": 4, "respostas": 1, "repeticoes": 1},
    False: {"calibracao": 32, "teste": 60, "armadilha": 20, "respostas": 12, "repeticoes": 3},
}
# LoRA e QLoRA partem do mesmo modelo base e veem os mesmos lotes, numa passada por 240 conversas.
TRAINING = {"learning_rate": 4e-3, "epochs": 1.0, "batch_size": 8, "r": 16, "alpha": 32, "seed": 6,
            "train_examples": 240, "test_examples": 60, "new_tokens": 60}  # fmt: skip


def main() -> None:
    args = arguments()
    sizes = SIZES[args.quick]
    source = trained_model(args)
    args.output.mkdir(parents=True, exist_ok=True)

    utils.banner(1, "À mão, num peso")
    model = utils.load_model(str(source)).cpu()
    layers = linears(model)
    weight = next(iter(layers.values())).weight.detach()
    wide = all(m.in_features % 64 == 0 for m in layers.values())
    checks = by_hand(weight)
    figure = report.plot_levels(weight)
    del model, layers

    utils.banner(2, "A armadilha: o modelo base veio de blocos de 4 bits")
    trap = armadilha.compare(args.base, str(source), sizes["armadilha"])
    print(armadilha.report(trap))

    utils.banner(3, "Quantizar e medir, cada técnica no seu processo")
    names = [n if wide else NARROW.get(n, n) for n in QUICK] if args.quick else list(TECHNIQUES)
    rows, absent = quantize_and_measure(names, source, args.output, sizes)

    utils.banner(4, "Lado a lado")
    print(report.cost_table(rows, absent), report.quality_table(rows), sep="\n\n")
    print("", *report.ratio_lines(rows), sep="\n")
    paired = {
        group: compare_pair(rows[f"gptq-4bit-{group}"], rows[f"rtn-4bit-{group}"])
        for group in ("g64", "g32")
        if {f"gptq-4bit-{group}", f"rtn-4bit-{group}"} <= rows.keys()
    }
    for group, gain in paired.items():
        print(f"arredondar em vez de GPTQ, {group}: {medidas.show(gain, 3)} nats por token a mais")

    utils.banner(5, "QLoRA: treinar um LoRA sobre a base em NF4")
    runs, why = ({}, "--quick") if args.quick else compare_qlora(args)
    print(report.qlora_table(runs) if len(runs) == 2 else f"comparação pulada: {why}")

    utils.banner(6, "O que levar")
    advice = report.guide(rows, runs)
    print(*advice, sep="\n")
    suffix = "_quick" if args.quick else ""
    path = utils.save_result("dia5_quantizacao" + suffix, {
        "modelo": str(source), "configuracao": sizes | {"qlora": TRAINING}, "conferencias": checks,
        "armadilha": trap, "tecnicas": rows, "ausentes": absent, "relativo": report.ratios(rows),
        "gptq_contra_arredondar": paired, "qlora": runs, "guia": advice,
        "pareto": report.pareto(rows),
    })  # fmt: skip
    print(f"\nResultados: {path}\nFiguras: {figure}, {report.plot_tradeoff(rows, suffix)}")


def arguments():
    parser = utils.Parser(__doc__)
    parser.add_argument("--model", type=Path, metavar="PASTA",
                        help="modelo a quantizar (padrão: o do dia 3)")  # fmt: skip
    parser.add_argument("--base", default=str(utils.DEFAULT_MODEL), metavar="PASTA",
                        help="o modelo de antes do treino")  # fmt: skip
    parser.add_argument("--output", type=Path, default=MODELS / "dia5", metavar="PASTA",
                        help="onde gravar os modelos quantizados")  # fmt: skip
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
                  f"{utils.decimal(100 * error, 2)}%")  # fmt: skip
    codes, absmax = hand.nf4(weight)
    error = hand.relative_error(hand.from_nf4(codes, absmax, weight.shape), weight)
    bits = [utils.decimal(hand.bits_per_weight(4, 64, b), 3) for b in (32, 8 + 32 / 256)]
    print(f"NF4 em blocos de 64: erro {utils.decimal(100 * error, 2)}%, {bits[0]} bits por peso "
          f"({bits[1]} com escala dupla)")  # fmt: skip
    if why := missing(TECHNIQUES["bnb-nf4"]):
        print(f"Sem a conferência com o bitsandbytes: {why}")
        return {}
    checks = check_bitsandbytes(weight, codes, absmax)
    for text, passed in checks.items():
        print(f"[{'certo' if passed else 'ERRADO'}] {text}: iguais aos do bitsandbytes")
    if not all(checks.values()):
        raise utils.UserError("uma conferência com o bitsandbytes falhou; veja a linha com ERRADO.")
    return checks


def check_bitsandbytes(weight, codes, absmax) -> dict[str, bool]:
    """O NF4 e a escala dupla da biblioteca, comparados aos nossos, código por código."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    _, double = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    levels, theirs = double.state2.code, double.absmax
    ours, second, _ = hand.double_quantize(absmax, levels)
    same = (ours == theirs).float().mean().item()
    gap = (levels[ours.long()] - levels[theirs.long()]).abs().max()
    print(f"escala dupla: {utils.decimal(100 * same, 2)}% dos códigos de 8 bits iguais; os "
          "outros: empates, ou valores junto do zero em que a busca do bitsandbytes não escolhe o "
          "mais próximo")  # fmt: skip
    return {
        "códigos NF4": torch.equal(hand.pack4(codes), packed.reshape(-1)),
        "absmax dos blocos": torch.equal(absmax, state.absmax),
        "escalas em 8 bits (99% dos códigos, os outros a um degrau)":
            same >= 0.99 and bool(gap <= levels.diff().max() + 1e-6),
        "escalas das escalas": torch.allclose(second, double.state2.absmax, rtol=1e-4),
    }  # fmt: skip


def quantize_and_measure(names: list[str], source: Path, folder: Path, sizes: dict):
    """Quantiza, recarrega e mede. Devolve (linhas medidas, ausentes com o motivo)."""
    absent = {n: why for n in names if (why := missing(TECHNIQUES[n]))}
    present = [n for n in names if n not in absent]
    run("tecnicas.py", source, folder, sizes["calibracao"], *present)
    made = json.loads((folder / "quantizar.json").read_text(encoding="utf-8"))
    absent |= made["recusadas"]
    reference = folder / "referencia.pt"
    reference.unlink(missing_ok=True)
    rows = {}
    for number, name in enumerate(n for n in present if n not in absent):
        print(f"[{number + 1}] {name}", flush=True)
        result = folder / f"{name}.json"
        run("medir_quantizado.py", folder / name, result, reference, sizes["teste"],
            sizes["respostas"], sizes["repeticoes"])  # fmt: skip
        rows[name] = json.loads(result.read_text(encoding="utf-8"))
        rows[name]["previsto_bytes"] = made["previsto"][name]["disco"]
        rows[name]["previsto_memoria_bytes"] = made["previsto"][name]["memoria"]
        rows[name]["segundos_para_quantizar"] = made["segundos"][name]
    return rows, absent


def compare_pair(gptq: dict, rtn: dict) -> dict:
    """Nats por token que o arredondamento perde a mais, nas mesmas conversas (bootstrap pareado).

    O denominador é o número de tokens de cada conversa, igual nas duas medições.
    """
    difference = numpy.array(rtn["nats"]) - numpy.array(gptq["nats"])
    return medidas.ratio(difference, numpy.array(gptq["tokens"], dtype=float))


def compare_qlora(args) -> tuple[dict, str]:
    """LoRA sobre a base em bf16 e sobre a base em NF4. Devolve (corridas, por que faltam)."""
    if why := missing(TECHNIQUES["bnb-nf4-dupla"]):
        return {}, why
    runs = {}
    for label, four_bits in (("LoRA sobre bf16", False), ("QLoRA sobre NF4", True)):
        settings, result = args.output / "corrida.json", args.output / "corrida-resultado.json"
        utils.write_json(settings, TRAINING | {"model": args.base, "load_in_4bit": four_bits})
        run("corrida.py", settings, result)
        runs[label] = json.loads(result.read_text(encoding="utf-8"))
    return runs, ""


if __name__ == "__main__":
    utils.run_main(main)
