"""As técnicas do dia 5: cada uma quantiza o modelo e o grava numa pasta.

    python tecnicas.py MODELO PASTA_DE_SAIDA QUANTAS_CONVERSAS TECNICA [TECNICA …]

GPTQ e arredondamento saem no formato pack-quantized do compressed-tensors. As Hessianas vêm de uma
única passada do modelo em float32 pelo treino e servem a todas as variantes (o artigo usa a saída
da camada anterior já quantizada; aqui a conta é feita uma vez só). O GGUF é escrito pela ferramenta
da semana, `ferramentas/escrever_gguf.py`.
"""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import medidas
import motor_llama_cpp
import quantizacao_a_mao as hand
import torch
import utils  # antes do torch
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

GGUF_TOOL = utils.WEEK_DIR / "ferramentas" / "escrever_gguf.py"
GGUF_NAME = "modelo.gguf"


@dataclass(frozen=True)
class Technique:
    """Uma linha da tabela. `kind`: dense, bnb, gptq, rtn ou gguf."""

    kind: str
    bits: float
    group: int = 0
    scale_bits: float = 0.0  # bits de escala por grupo
    quant_type: str = ""
    double: bool = False
    package: str = ""
    outside_bits: float = 16  # embeddings e normas, que a maioria não quantiza

    @property
    def bits_per_weight(self) -> float:
        if not self.group:
            return self.bits + self.scale_bits
        return hand.bits_per_weight(self.bits, self.group, self.scale_bits)


# A escala dupla guarda cada absmax em 8 bits e uma escala de 32 bits a cada 256 deles.
DOUBLE = 8 + 32 / 256
Q8_0 = hand.bits_per_weight(8, 32, 16)
Q4_K_M = 4.85  # bits por peso que o llama.cpp anuncia, num modelo de largura múltipla de 256
BNB = "bitsandbytes"
CT = "compressed-tensors"
LLAMA_CPP = "xllamacpp"
TECHNIQUES = {
    "fp32": Technique("dense", 32, outside_bits=32),
    "bf16": Technique("dense", 16),
    "bnb-int8": Technique("bnb", 8, package=BNB),
    "bnb-fp4": Technique("bnb", 4, 64, 32, "fp4", package=BNB),
    "bnb-fp4-dupla": Technique("bnb", 4, 64, DOUBLE, "fp4", True, package=BNB),
    "bnb-nf4": Technique("bnb", 4, 64, 32, "nf4", package=BNB),
    "bnb-nf4-dupla": Technique("bnb", 4, 64, DOUBLE, "nf4", True, package=BNB),
    "gptq-8bit-g64": Technique("gptq", 8, 64, 16, package=CT),
    "gptq-4bit-g128": Technique("gptq", 4, 128, 16, package=CT),
    "gptq-4bit-g64": Technique("gptq", 4, 64, 16, package=CT),
    "gptq-4bit-g32": Technique("gptq", 4, 32, 16, package=CT),
    "rtn-4bit-g64": Technique("rtn", 4, 64, 16, package=CT),
    "rtn-4bit-g32": Technique("rtn", 4, 32, 16, package=CT),
    "gguf-q8_0": Technique("gguf", 8, 32, 16, "q8_0", package=LLAMA_CPP, outside_bits=Q8_0),
    "gguf-q4_0": Technique("gguf", 4, 32, 16, "q4_0", package=LLAMA_CPP, outside_bits=Q8_0),
    "gguf-q4_k_m": Technique("gguf", Q4_K_M, quant_type="q4_k_m", package=LLAMA_CPP,
                             outside_bits=Q8_0),
}  # fmt: skip


def missing(technique: Technique) -> str | None:
    """Por que esta técnica não roda aqui, e o comando que a traz; None quando roda."""
    if technique.kind == "gguf":
        return motor_llama_cpp.missing()
    name = technique.package.replace("-", "_")
    if name and importlib.util.find_spec(name) is None:
        return f"falta a biblioteca: python -m pip install {technique.package}"
    return None


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """As camadas que se quantizam: todas as lineares, menos a de saída (dividida com a entrada)."""
    head = model.get_output_embeddings()
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def predicted_bytes(model: nn.Module, technique: Technique) -> dict[str, float]:
    """Bytes previstos em disco e na memória, em uso: bits por peso vezes pesos.

    O int8 do bitsandbytes guarda ainda uma escala de 32 bits por linha. Os pesos do
    compressed-tensors são pequenos no arquivo; em uso, voltam a bf16, ao lado das escalas.
    """
    layers = [m.weight for m in linears(model).values()]
    inside = sum(w.numel() for w in layers)
    outside = sum(p.numel() for p in model.parameters()) - inside
    rest = outside * technique.outside_bits / 8
    if technique.kind == "bnb" and technique.bits == 8:
        rest += 4 * sum(len(w) for w in layers)
    disk = inside * technique.bits_per_weight / 8 + rest
    expanded = inside * (2 + technique.scale_bits / 8 / max(technique.group, 1)) + rest
    return {"disco": disk, "memoria": expanded if technique.kind in ("gptq", "rtn") else disk}


@torch.inference_mode()
def hessians(model: nn.Module, tokenizer, conversations: list) -> dict[str, torch.Tensor]:
    """Soma de x·xᵀ das entradas de cada camada linear. Camadas de mesma entrada dividem a matriz.

    Returns:
        {nome da camada: [entrada, entrada]}; q, k e v apontam para a mesma, gate e up também.
    """
    sums: dict[str, torch.Tensor] = {}
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str):
        twin = name.replace("k_proj", "q_proj").replace("v_proj", "q_proj")
        twin = twin.replace("up_proj", "gate_proj")
        seen[name] = twin

        def hook(module, inputs):
            if twin == name:
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in linears(model).items()]
    for messages in tqdm(conversations, desc="Hessianas", unit="conversa", file=sys.stdout):
        model(input_ids=torch.tensor([medidas.encode(tokenizer, messages)["input_ids"]]))
    for handle in hooks:
        handle.remove()
    return {name: sums[twin] for name, twin in seen.items()}


def save_grouped(source: str, technique: Technique, inputs: dict | None, output: Path) -> None:
    """Quantiza com GPTQ (ou arredonda, sem `inputs`) e grava em pack-quantized."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    scales = {}
    with torch.no_grad():
        layers = linears(model)
        for name, layer in tqdm(layers.items(), desc=output.name, unit="camada", file=sys.stdout):
            weight = layer.weight.data
            if inputs is None:
                codes, scale = hand.rtn(weight, technique.bits, technique.group)
            else:
                codes, scale = hand.gptq(weight, inputs[name], technique.bits, technique.group)
            layer.weight.copy_(codes * scale.repeat_interleave(technique.group, 1))
            scales[name] = scale
    arguments = QuantizationArgs(
        num_bits=technique.bits, type="int", symmetric=True, strategy="group",
        group_size=technique.group,
    )  # fmt: skip
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], format="pack-quantized"
    )
    with contextlib.redirect_stderr(io.StringIO()):  # as barras de progresso são em inglês
        apply_quantization_config(model, config)
    for name, layer in linears(model).items():
        layer.weight_scale.data = scales[name]
        layer.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    with contextlib.redirect_stderr(io.StringIO()):
        compressor.compress_model(model)
    compressor.remove_decompression_hook(model)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.bfloat16()
    model.config.dtype = torch.bfloat16
    model.save_pretrained(output)
    compressor.update_config(str(output))


def write_gguf(source: str, file_type: str, output: Path) -> None:
    """Chama a ferramenta que escreve GGUF, num processo à parte; a recusa dela vira a da linha."""
    output.mkdir(parents=True)
    command = [sys.executable, GGUF_TOOL, "--model", source, "--output", output / GGUF_NAME,
               "--type", file_type]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["escrever_gguf.py não disse por quê"]
        raise utils.UserError(lines[-1].removeprefix("Erro: "))


def save(name: str, source: str, inputs: dict | None, output: Path) -> None:
    """Quantiza `source` com a técnica `name` e grava em `output`."""
    technique = TECHNIQUES[name]
    if technique.kind == "gguf":
        write_gguf(source, technique.quant_type, output)
        return
    if technique.kind in ("gptq", "rtn"):
        save_grouped(source, technique, inputs if technique.kind == "gptq" else None, output)
        return
    options: dict = {"dtype": torch.float32 if name == "fp32" else torch.bfloat16}
    if technique.kind == "bnb":
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if technique.bits == 8
            else BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type=technique.quant_type,
                bnb_4bit_use_double_quant=technique.double,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    if technique.kind == "bnb" and technique.group:
        check_width(model, technique.group)
    model.save_pretrained(output)


def check_width(model: nn.Module, group: int) -> None:
    """Recusa a largura que o núcleo de CPU do bitsandbytes não aceita em 4 bits."""
    for layer in linears(model).values():
        if layer.in_features % group:
            raise utils.UserError(
                f"largura {layer.in_features} não se divide em blocos de {group}, como pede o "
                "núcleo de 4 bits do bitsandbytes em CPU."
            )


def main() -> None:
    source, folder, count, *names = sys.argv[1:]
    tokenizer = utils.load_tokenizer(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    report: dict = {"previsto": {n: predicted_bytes(model, TECHNIQUES[n]) for n in names}}
    inputs = None
    if any(TECHNIQUES[n].kind == "gptq" for n in names):
        texts = utils.read_conversations(utils.DATA_DIR / "atendimento_treino.jsonl", int(count))
        started = time.perf_counter()
        inputs = hessians(model, tokenizer, texts)
        report["segundos_hessianas"] = time.perf_counter() - started
    del model
    report["segundos"], report["recusadas"] = {}, {}
    for name in names:
        output = Path(folder) / name
        shutil.rmtree(output, ignore_errors=True)
        started = time.perf_counter()
        try:
            save(name, source, inputs, output)
        except utils.UserError as error:
            shutil.rmtree(output, ignore_errors=True)
            report["recusadas"][name] = str(error)
            continue
        tokenizer.save_pretrained(output)
        report["segundos"][name] = time.perf_counter() - started
        print(f"{name}: {report['segundos'][name]:.0f} s", flush=True)
    utils.write_json(Path(folder) / "quantizar.json", report)


if __name__ == "__main__":
    utils.run_main(main)
