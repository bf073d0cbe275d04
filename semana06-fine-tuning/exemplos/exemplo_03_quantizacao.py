"""Dia 5: quantização, à mão e pelas bibliotecas, medida.

Você vai arredondar um peso a 8 e a 4 bits, conferir código por código que o bitsandbytes faz a
mesma conta, ver o que o GPTQ acrescenta, e então quantizar o modelo do dia 3 com várias técnicas:
cada uma é gravada, recarregada num processo só dela e medida.

    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py --quick   # 2 minutos
    python semana06-fine-tuning/exemplos/exemplo_03_quantizacao.py          # 15 a 23: todas e QLoRA
    python …/exemplo_03_quantizacao.py --only gguf-q8_0 --only bnb-nf4       # só estas (e o fp32)

O que olhar: as conferências (passos 1, 2 e 4); a armadilha do modelo base (passo 3); previsto e
medido, e o que cada técnica custa em qualidade (passo 6); o guia (passo 8), calculado dos seus
números. Com outro programa pesado ao lado, as velocidades não valem.
"""

import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from comum.paths import DEFAULT_MODEL, MODELS_DIR
from comum.terminal import Parser, UserError, banner, conclude, run_main


def arguments(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, metavar="PASTA", help="modelo a quantizar (padrão: o do dia 3)")
    add("--base", default=str(DEFAULT_MODEL), metavar="PASTA", help="o modelo de antes do treino")
    add("--output", type=Path, default=MODELS_DIR / "dia5", metavar="PASTA", help="onde gravar")
    add("--only", action="append", metavar="TÉCNICA", help="mede só esta; pode repetir")
    add("--quick", action="store_true", help="fp32, 8 bits, NF4 e GPTQ de 4 bits, sem QLoRA")
    args = parser.parse_args(argv)
    if args.model is not None and not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model} não é a pasta de um modelo (falta config.json)")
    return args


if __name__ == "__main__":
    ARGS = arguments()  # antes dos imports pesados: --help responde na hora

from comum import gguf, gptq, models, process, sft
from comum.conversations import DATA_DIR, encode, read_conversations
from comum.memory import peak_mib
from comum.numbers import decimal, percent
from comum.results import Day5, TrainingRun
from comum.training import pad, similar_lengths

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from dia5 import findings, measuring
from dia5.measuring import RECIPES, missing, relative_error

BLOCK = 64  # pesos que dividem uma escala, no NF4
NF4_EDGE = 0.9677083  # a última fração da normal que ainda é um nível (QLoRA, apêndice E)
QUICK = ["fp32", "bnb-int8", "bnb-nf4-double", "gptq-4bit-g64"]
SIZES = {  # conversas de calibração, de teste e da armadilha; respostas; vezes que se cronometra
    True: {"calibration": 8, "test": 6, "trap": 4, "answers": 1, "repeats": 1},
    False: {"calibration": 32, "test": 60, "trap": 20, "answers": 12, "repeats": 3},
}
# LoRA e QLoRA partem da mesma base e veem os mesmos lotes, numa passada por 240 conversas.
QLORA = {"method": "lora", "r": 16, "alpha": 32, "target_modules": "all-linear"}
QLORA |= {"learning_rate": 4e-3, "batch_size": 8, "seed": 6, "train": 240}


def main(args) -> None:
    sizes = SIZES[args.quick]
    if unknown := set(args.only or ()) - RECIPES.keys():
        raise UserError(f"--only {unknown.pop()}: escolha entre {', '.join(RECIPES)}.")
    source = str(trained_model(args))
    args.output.mkdir(parents=True, exist_ok=True)
    model, tokenizer = models.load_model(source), models.load_tokenizer(source)
    layers = measuring.linear_layers(model)
    name, layer = next(iter(layers.items()))
    weight = layer.weight.detach().cpu()
    print(f"Modelo: {source}. Nos passos 1 a 4, um peso: {name}, {list(weight.shape)}.")

    banner(1, "À mão: 8 bits")
    checks = conclude(eight_bits(weight))

    banner(2, "À mão: 4 bits, os níveis do NF4")
    checks |= conclude(four_bits(weight))

    banner(3, "A armadilha: o modelo base veio de blocos de 4 bits")
    grids = {"q4_1": q4_1, "nf4": lambda w: dequantize_nf4(*quantize_nf4(w), w.shape)}
    trap = measuring.trap(args.base, source, grids, sizes["trap"])
    findings.show_trap(trap)

    banner(4, "GPTQ: arredondar olhando as entradas")
    train = read_conversations(DATA_DIR / "atendimento_treino.jsonl", sizes["calibration"])
    sequences = [encode(tokenizer, messages)["input_ids"] for messages in train]
    checks |= conclude(gptq_against_rounding(model, layer, sequences))

    banner(5, "Quantizar, gravar, recarregar e medir, cada técnica no seu processo")
    names = ["fp32", *(args.only or (QUICK if args.quick else RECIPES))]
    if args.quick and any(module.in_features % 64 for module in layers.values()):
        names = [g if (g := n.replace("g64", "g32")) in RECIPES else n for n in names]
    # Bits por peso vezes pesos: a conta sai antes de haver arquivo, e a tabela a põe ao lado dele.
    predicted = {n: measuring.predicted_bytes(model, RECIPES[n]) for n in names}
    del model, layers, layer
    save = partial(quantize_and_save, source, sequences)
    rows, absent = measuring.quantize_and_measure(save, source, args.output, predicted, sizes)

    banner(6, "Lado a lado")
    findings.show_tables(rows, absent)
    paired = findings.rounding_losses(rows)

    banner(7, "QLoRA: treinar um LoRA sobre a base em NF4")
    runs: dict[str, TrainingRun] = {}
    skipped = "ela pede a lição sem --quick e sem --only" if args.quick or args.only else None
    if why := skipped or missing(RECIPES["bnb-nf4-double"]):
        print(f"Comparação pulada: {why}")
    else:
        runs = {m: process.alone(train_adapter, args.base, m, sizes) for m in ("lora", "qlora")}
        half = models.PRECISIONS[models.compute_dtype()]
        sft.show_runs({f"LoRA sobre {half}": runs["lora"], "QLoRA sobre NF4": runs["qlora"]})

    banner(8, "O que levar")
    findings.show_guide(rows, runs)
    stem = "dia5_quantizacao" + "_quick" * bool(args.quick or args.only)
    findings.save_figures(rows, weight, nf4_levels(), BLOCK, stem)
    found = {"checks": checks, "trap": trap, "techniques": rows, "absent": absent, "qlora": runs}
    Day5(model=source, sizes=sizes, gptq_over_rounding=paired, **found).announce(stem)
    print("Sua vez: python semana06-fine-tuning/exercicios/conferir.py dia5")
    print("A seguir: mude a calibração (SIZES, neste script) e repita com --only.")


def trained_model(args) -> Path:
    """A pasta do modelo treinado; na falta dela, roda o dia 3 (curto, com --quick)."""
    folders = [MODELS_DIR / "dia3", *([MODELS_DIR / "dia3-curto"] if args.quick else [])]
    for folder in [args.model] if args.model else folders:
        if (folder / "config.json").is_file():
            return folder
    print("Falta o modelo do dia 3: treinando agora.", flush=True)
    # O dia 3 roda como se alguém o digitasse: é outro script, e o processo dele acaba com ele.
    script = Path(__file__).with_name("exemplo_01_fine_tuning_basico.py")
    command = [sys.executable, script, "--model", args.base, "--output", folders[-1]]
    if subprocess.run([*command, *(["--quick"] if args.quick else [])]).returncode:
        raise UserError("o dia 3 não terminou; veja a mensagem acima.")
    return folders[-1]


# --- 8 bits -------------------------------------------------------------------------------------
def int8(weight: Tensor, per_row: bool) -> tuple[Tensor, Tensor]:
    """Absmax: o maior valor vira 127, e os outros, na mesma escala, o inteiro mais próximo."""
    # Uma escala por linha [saída, 1] custa 4 bytes a cada linha; uma só [], 4 bytes ao todo.
    largest = weight.abs().amax(1, keepdim=True) if per_row else weight.abs().max()
    largest = largest.clamp(min=1e-12)  # uma linha toda zero não divide por zero
    return (weight * (127 / largest)).round().to(torch.int8), largest / 127


def eight_bits(weight: Tensor) -> dict[str, bool]:
    """O erro com uma escala e com uma por linha, o estrago de um valor extremo, e a conferência."""
    # Modelos grandes têm valores assim, em poucas posições: o LLM.int8() existe para contorná-los.
    outlier = weight.clone()
    outlier[0, 0] = 50 * weight.abs().max()
    for label, matrix in (("o peso", weight), ("o mesmo, com um extremo na 1ª linha", outlier)):
        for per_row, where in ((False, "por tensor"), (True, "por linha")):
            codes, scale = int8(matrix, per_row)
            # Só as outras linhas: numa escala única, o extremo da primeira estraga todas elas.
            error = relative_error((codes * scale)[1:], matrix[1:])
            print(f"int8 {where}, {label}: erro da 2ª linha em diante {percent(error, 2)}")
    if missing(RECIPES["bnb-int8"]):
        return {}
    from bitsandbytes.functional import int8_vectorwise_quant

    half = weight.half()  # a biblioteca só aceita fp16
    theirs, largest, _ = int8_vectorwise_quant(half)
    ours, scale = int8(half.float(), per_row=True)
    return {
        "códigos int8 por linha": torch.equal(ours, theirs),
        "escalas do int8": torch.allclose(scale[:, 0] * 127, largest),
    }


# --- 4 bits -------------------------------------------------------------------------------------
def nf4_levels() -> Tensor:
    """Os 16 níveis do NF4: quantis da normal, com o zero exato (Dettmers et al., 2023)."""
    # Pesos treinados parecem tirados de uma normal: níveis em quantis iguais são usados por igual,
    # e há mais deles junto do zero, onde há mais pesos. São sete abaixo do zero e oito acima: com
    # 16 níveis simétricos o zero ficaria entre dois deles, e deixaria de ser exato.
    quantile = torch.distributions.Normal(0.0, 1.0).icdf
    upper = quantile(torch.linspace(NF4_EDGE, 0.5, 9)[:-1])
    lower = -quantile(torch.linspace(NF4_EDGE, 0.5, 8)[:-1])
    levels = torch.cat([lower, torch.zeros(1), upper]).sort().values
    return levels / levels.max()


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """O índice, uint8, do nível mais próximo: entre dois deles, muda-se de código no meio."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2).byte()


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Códigos de 0 a 15, uint8 [n / 64, 64], e o absmax de cada bloco, [n / 64]."""
    if weight.numel() % BLOCK:
        raise UserError(f"{weight.numel()} pesos não se dividem em blocos de {BLOCK}.")
    # Um extremo agora só estraga os 63 vizinhos; em troca, há uma escala a guardar por bloco.
    blocks = weight.reshape(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    levels = nf4_levels().to(weight.device)
    return nearest(blocks / absmax.clamp(min=1e-12)[:, None], levels), absmax


def dequantize_nf4(codes: Tensor, absmax: Tensor, shape: torch.Size) -> Tensor:
    return (nf4_levels().to(absmax.device)[codes.long()] * absmax[:, None]).reshape(shape)


def pack(codes: Tensor) -> Tensor:
    """Dois códigos de 4 bits por byte, o primeiro na metade alta, como no bitsandbytes."""
    flat = codes.reshape(-1)  # nenhum tipo do torch tem 4 bits: sem isto, o byte iria pela metade
    return (flat[::2] << 4) | flat[1::2]


def double_quantize(absmax: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As próprias escalas em 8 bits, em blocos de 256 (QLoRA, seção 3): códigos, escalas, média."""
    # Todo absmax é positivo: sem tirar a média, metade dos níveis, os negativos, não serviria.
    mean = absmax.mean()
    # O último bloco, incompleto, ganha zeros: não mudam o maior valor dele.
    blocks = torch.nn.functional.pad(absmax - mean, (0, -len(absmax) % 256)).reshape(-1, 256)
    second = blocks.abs().amax(1)
    codes = nearest(blocks / second.clamp(min=1e-12)[:, None], levels)
    return codes.reshape(-1)[: len(absmax)], second, mean


def four_bits(weight: Tensor) -> dict[str, bool]:
    """O erro e os bits por peso do NF4, e a concordância com o bitsandbytes, código por código."""
    codes, absmax = quantize_nf4(weight)
    error = relative_error(dequantize_nf4(codes, absmax, weight.shape), weight)
    # A escala de 32 bits se reparte por 64 pesos; a dupla a guarda em 8, mais 32 a cada 256.
    single, double = 4 + 32 / BLOCK, 4 + (8 + 32 / 256) / BLOCK
    print(f"NF4 em blocos de {BLOCK}: erro {percent(error, 2)}; {decimal(single, 3)} bits por peso")
    print(f"com as escalas também quantizadas: {decimal(double, 3)} bits por peso")
    if why := missing(RECIPES["bnb-nf4"]):
        print(f"Sem a conferência com o bitsandbytes: {why}")
        return {}
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    _, nested = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    levels, theirs = nested.state2.code, nested.absmax
    ours, second, _ = double_quantize(absmax, levels)
    # Os códigos que diferem são empates, ou valores junto do zero em que a busca do bitsandbytes
    # não escolhe o nível mais próximo.
    same = (ours == theirs).float().mean().item() >= 0.99
    near = (levels[ours.long()] - levels[theirs.long()]).abs().max() <= levels.diff().max() + 1e-6
    return {
        "códigos NF4 empacotados": torch.equal(pack(codes), packed.reshape(-1)),
        "absmax dos blocos": torch.equal(absmax, state.absmax),
        "escalas em 8 bits (99% dos códigos, os outros a um degrau)": same and bool(near),
        "escalas das escalas": torch.allclose(second, nested.state2.absmax, rtol=1e-4),
    }


# --- a armadilha --------------------------------------------------------------------------------
# O modelo base foi publicado em GGUF Q4_1 e voltou a float32. Arredondá-lo nessa grade não muda
# nada: quem parte dele conclui que 4 bits saem de graça. O treino tira os pesos da grade, mas por
# bem menos que um passo, e quem volta a ela volta quase ao modelo base.
def q4_1(weight: Tensor) -> Tensor:
    """Ida e volta pela grade do GGUF Q4_1: 16 passos iguais, do mínimo ao máximo de cada 32."""
    blocks = weight.reshape(-1, 32)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-12)
    return (((blocks - low) / step).round() * step + low).reshape(weight.shape)


# --- GPTQ ---------------------------------------------------------------------------------------
def gptq_by_hand(weight: Tensor, hessian: Tensor, group: int) -> Tensor:
    """GPTQ em 4 bits, sem as pressas de `comum/gptq.py` (Frantar et al., 2022, algoritmo 1)."""
    # H = Σ x·xᵀ [entrada, entrada] diz o quanto duas entradas da camada se acendem juntas. O erro
    # da saída é ‖(Ŵ − W)·x‖², e H é a curvatura dele: por isso basta guardar H, e não as entradas.
    left = weight.clone()
    damping = gptq.DAMPING * hessian.diagonal().mean()  # sem isto, H pode não ter inversa
    inverse = torch.linalg.inv(hessian + damping * torch.eye(len(hessian)))
    upper = torch.linalg.cholesky(inverse, upper=True)
    for column in range(weight.shape[1]):
        if column % group == 0:  # um grupo novo: a escala sai dos pesos já corrigidos
            scale = (left[:, column : column + group].abs().amax(1) / 7.5).bfloat16().float()
        rounded = (left[:, column] / scale).round().clamp(-8, 7) * scale
        # Arredondar esta coluna errou a saída; as que faltam se mexem para compensar, cada uma na
        # medida em que a entrada dela substitui a desta: é isso que H⁻¹ sabe.
        error = (left[:, column] - rounded) / upper[column, column]
        left[:, column] = rounded
        left[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return left


@torch.no_grad()
def gptq_against_rounding(model, layer, sequences: list[list[int]]) -> dict[str, bool]:
    """Numa camada, o erro dos pesos e o da saída, arredondando e com GPTQ; e a conferência."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].cpu()))
    for ids in sequences:
        model(input_ids=torch.tensor([ids], device=model.device))
    hook.remove()
    # Cada token é uma linha de x; as entradas de uma camada são muito parecidas entre si, e é dessa
    # sobra que o GPTQ tira proveito. Com entradas independentes ele só arredondaria.
    x, weight = torch.cat(seen), layer.weight.detach().cpu()
    group = 64 if weight.shape[1] % 64 == 0 else 32
    theirs, _ = gptq.round_columns(weight, x.T @ x, 4, group)
    rounded, _ = gptq.round_to_nearest(weight, 4, group)
    for name, matrix in (("arredondar", rounded), ("GPTQ", theirs)):
        output = relative_error(x @ matrix.T, x @ weight.T)
        error = percent(relative_error(matrix, weight))
        print(f"{name}: erro dos pesos {error}, erro da saída {percent(output)}")
    print("O GPTQ erra mais nos pesos, e menos no que importa: a saída da camada.")
    ours = gptq_by_hand(weight, x.T @ x, group)
    # Somar noutra ordem muda o último bit, e às vezes o lado de um arredondamento.
    same = ((ours - theirs).abs() < 1e-4).float().mean()
    return {"GPTQ à mão e comum/gptq.py (99% dos pesos)": bool(same > 0.99)}


# --- as bibliotecas -----------------------------------------------------------------------------
def quantize_and_save(source: str, sequences: list[list[int]], name: str, folder: Path) -> None:
    """Quantiza `source` com a técnica `name` e o grava na pasta; UserError se ela não serve."""
    recipe, options = RECIPES[name], None
    if recipe.kind == "gguf":  # o formato do llama.cpp, escrito direto da pasta
        gguf.write(Path(source), folder / measuring.GGUF_NAME, recipe.quant_type)
        return
    if recipe.kind in ("gptq", "rtn"):  # o mesmo formato, com calibração ou sem ela
        model = models.load_model(source)
        # O rtn (round to nearest) é o controle: o que o GPTQ ganha, ganha dele.
        seen = sequences if recipe.kind == "gptq" else []
        scales = gptq.quantize(model, seen, recipe.bits, recipe.group)
        gptq.save(model, scales, recipe.bits, recipe.group, folder)
        return
    if recipe.kind == "bnb":  # o bitsandbytes quantiza enquanto carrega, sem ver dado algum
        options = BitsAndBytesConfig(
            load_in_8bit=recipe.bits == 8,
            load_in_4bit=recipe.bits == 4,
            bnb_4bit_quant_type=recipe.quant_type or "nf4",
            bnb_4bit_use_double_quant=name.endswith("double"),
            bnb_4bit_compute_dtype=models.compute_dtype(),  # a que cada peso volta, na conta
        )
    dtype = torch.float32 if name == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, quantization_config=options)
    widths = {layer.in_features for layer in models.linears_of(model).values()}
    if recipe.group and models.device().type == "cpu" and any(w % BLOCK for w in widths):
        raise UserError(f"o bitsandbytes em CPU pede larguras múltiplas dos blocos de {BLOCK}.")
    model.save_pretrained(folder)


# --- QLoRA --------------------------------------------------------------------------------------
def train_adapter(base: str, method: str, sizes: dict[str, int]) -> TrainingRun:
    """Um LoRA sobre a base congelada inteira ("lora") ou em NF4 ("qlora"); num processo só dele."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    run = SimpleNamespace(**QLORA, model=base, load_in_4bit=method == "qlora")
    models.fix_seeds(run.seed)  # a mesma matriz A sorteada nas duas
    idle, tokenizer = peak_mib(), models.load_tokenizer(base)
    train = read_conversations(DATA_DIR / "atendimento_treino.jsonl", run.train)
    rows = [encode(tokenizer, messages) for messages in train]  # a máscara do dia 3
    lengths = [len(row["input_ids"]) for row in rows]
    batches = similar_lengths(lengths, run.batch_size, random.Random(run.seed))
    # Sem o dtype, embeddings e normas ficariam em float32 só na base em NF4: comparação injusta.
    dtype = models.compute_dtype()
    model = models.load_model(base, dtype, run.load_in_4bit)
    lora = LoraConfig(
        r=run.r, lora_alpha=run.alpha, target_modules=run.target_modules, task_type="CAUSAL_LM"
    )
    config = SFTConfig(
        output_dir=tempfile.gettempdir(),  # obrigatório, mesmo sem nada a salvar
        num_train_epochs=1,
        per_device_train_batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        train_sampling_strategy="sequential",  # os lotes já estão sorteados, iguais nas duas
        max_length=None,  # o padrão corta em 1.024 tokens, e o que se perde é a resposta
        gradient_checkpointing=False,  # o padrão, True, trocaria tempo por memória
        bf16=dtype == torch.bfloat16,  # o padrão, True, é lento onde não há bf16
        fp16=dtype == torch.float16,
        use_cpu=models.device().type == "cpu",
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
    )
    trainer = SFTTrainer(
        get_peft_model(model, lora),
        config,
        train_dataset=Dataset.from_list([rows[i] for batch in batches for i in batch]),
        processing_class=tokenizer,
        callbacks=[sft.Bar(f"Treinando ({method})", release_every=1)],  # o pico é o dos pesos
    )
    models.train_in_float32(trainer.model)  # o TRL passaria a bf16 só o adaptador do QLoRA
    batch = pad(rows[: run.batch_size], tokenizer.pad_token_id)
    texts = {"test": read_conversations(measuring.TEST, sizes["test"])}
    return sft.training_run(trainer, batch, texts, measuring.ANSWER_TOKENS, vars(run), idle)


if __name__ == "__main__":
    sys.exit(run_main(main, ARGS))
