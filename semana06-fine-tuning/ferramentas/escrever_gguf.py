"""Escreve em GGUF, o formato do llama.cpp, um modelo Llama que está numa pasta do Hugging Face.

    python semana06-fine-tuning/ferramentas/escrever_gguf.py \
        --model semana06-fine-tuning/modelos/dia3 --output dia3.gguf --type q8_0

Tipos: `f16` (nenhuma quantização), `q8_0` e `q4_0` (blocos de 32 pesos e uma escala) saem do pacote
`gguf`, que já vem nas dependências. `q4_k_m` mistura blocos de 256 pesos com duas escalas, e só o
llama.cpp sabe fazê-los: pede o pacote opcional `xllamacpp`, cuja biblioteca traz essa função.

O arquivo leva tudo: pesos, tamanhos, tokenizador e template de chat. Duas coisas a saber. O
llama.cpp gira pares de vizinhos onde o transformers gira metades (RoPE), e por isso as linhas de q
e k trocam de lugar. E uma matriz cuja largura não se divide no bloco pedido fica num tipo de bloco
menor, como no llama.cpp: no SmolLM2-135M, de largura 576, o Q4_K_M vira quase todo Q5_0. Leva
poucos segundos.
"""

import ctypes
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy
from argumentos import Parser
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

LLAMA_CPP_PACKAGE = "xllamacpp"
INSTALL_COMMAND = 'python -m pip install "xllamacpp==2026.10.11549"'
FILE_TYPES = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
# O bloco que se usa quando a largura da matriz não se divide no pedido.
SMALLER_BLOCK = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0, Kind.Q5_0: Kind.F16,
                 Kind.Q8_0: Kind.F16, Kind.Q4_0: Kind.F16}  # fmt: skip
# Como o llama.cpp corta o texto antes dos pares de bytes, pelo pré-tokenizador do Hugging Face.
PRETOKENIZERS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # tipos de token do GGUF

Quantizer = Callable[[numpy.ndarray, Kind], numpy.ndarray]


class WriteError(Exception):
    """O arquivo não pôde ser escrito; a mensagem diz por quê e como resolver."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="PASTA",
                        help="pasta com config.json, safetensors e tokenizer.json")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="ARQUIVO",
                        help="o GGUF a escrever")  # fmt: skip
    parser.add_argument("--type", choices=FILE_TYPES, required=True, help="o tipo dos pesos")
    args = parser.parse_args(argv)
    try:
        counts = write(args.model, args.output, args.type)
    except WriteError as error:
        print(f"Erro: {error}", file=sys.stderr)
        return 2
    kinds = ", ".join(f"{number} em {kind}" for kind, number in counts.most_common())
    size = f"{args.output.stat().st_size / 1e6:.1f} MB".replace(".", ",")
    print(f"{args.output}: {size}; tensores: {kinds}")
    return 0


def write(folder: Path, output: Path, file_type: str) -> Counter:
    """Escreve o GGUF; devolve quantos tensores saíram em cada tipo.

    Os tensores são lidos e gravados um a um. `output` só aparece quando está completo.

    Raises:
        WriteError: pasta incompleta, arquitetura ou tokenizador que não se sabe escrever, ou
            biblioteca ausente.
    """
    config = read_json(folder / "config.json")
    check_architecture(config, folder)
    quantize = llama_cpp_quantizer() if file_type == "q4_k_m" else gguf.quants.quantize
    tensors = find_tensors(folder, config)
    kinds = {name: kind_of(name, tensors, file_type, config) for name in tensors}
    if not output.parent.is_dir():
        raise WriteError(f"a pasta {output.parent} não existe; crie-a ou mude --output.")
    handle, temporary = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}-")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(None, "llama")
        add_shape(writer, config, FILE_TYPES[file_type])
        add_tokenizer(writer, folder, config["vocab_size"])
        for name, (shape, _) in tensors.items():
            declare(writer, name, shape, kinds[name])
        writer.write_header_to_file(Path(temporary))
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (_, load) in tensors.items():
            writer.write_tensor_data(encode(load(), kinds[name], quantize))
        writer.close()
        os.chmod(temporary, 0o644)  # mkstemp cria arquivos que só o dono lê
        os.replace(temporary, output)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return Counter(kind.name for kind in kinds.values())


def declare(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Kind) -> None:
    """Anuncia no índice do arquivo um tensor que será gravado depois."""
    elements, (block, size) = math.prod(shape), gguf.GGML_QUANT_SIZES[kind]
    dtype = {Kind.F32: numpy.float32, Kind.F16: numpy.float16}.get(kind)
    if dtype is None:  # os tipos em blocos são bytes
        dtype, shape = numpy.uint8, gguf.quant_shape_to_byte_shape(shape, kind)
    nbytes = elements // block * size
    writer.add_tensor_info(name, shape, numpy.dtype(dtype), nbytes, raw_dtype=kind)


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise WriteError(f"{path.parent} não é a pasta de um modelo: falta {path.name}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WriteError(f"{path} não é um JSON válido ({error}).") from error


def check_architecture(config: dict, folder: Path) -> None:
    """Aceita o Llama comum e recusa, com o motivo, o que sairia errado em silêncio."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    reasons = [
        (config.get("model_type") != "llama", f"a arquitetura é {config.get('model_type')}"),
        ("quantization_config" in config, "os pesos já estão quantizados"),
        (rope.get("rope_type", "default") != "default", "o RoPE é escalado"),
        (config.get("attention_bias") or config.get("mlp_bias"), "há vieses nas camadas lineares"),
    ]
    for found, reason in reasons:
        if found:
            raise WriteError(
                f"{folder}: {reason}; só sei escrever Llama em precisão cheia, com RoPE simples e "
                "sem vieses. Para os outros, use o convert_hf_to_gguf.py do llama.cpp."
            )


def find_tensors(folder: Path, config: dict) -> dict[str, tuple[tuple[int, ...], Callable]]:
    """Os tensores pelo nome no GGUF: forma e uma função que lê o float32, já na ordem do llama.cpp.

    Raises:
        WriteError: faltam pesos, ou há um tensor que o Llama não tem.
    """
    from safetensors import SafetensorError, safe_open

    layers = config["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    queries = config["num_attention_heads"]
    heads = {"attn_q": queries, "attn_k": config.get("num_key_value_heads", queries)}
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            weights = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise WriteError(f"{path} está estragado ({error}).") from error
        for key in weights.keys():  # noqa: SIM118  (safe_open não é um dicionário)
            name = names.get_name(key, try_suffixes=(".weight",))
            if name is None:
                raise WriteError(f"{path}: o tensor {key} não é de um Llama.")
            if key == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue  # a saída é a própria tabela de entrada
            part = name.split(".")[-2]
            found[name] = (
                tuple(weights.get_slice(key).get_shape()),
                lambda weights=weights, key=key, part=part: rotated(
                    weights.get_tensor(key).float().numpy(), heads.get(part)
                ),
            )
    expected = 9 * layers + 2 + (not config.get("tie_word_embeddings", False))
    if len(found) != expected:
        raise WriteError(
            f"{folder} tem {len(found)} tensores, e este Llama teria {expected}. Se é um adaptador "
            "LoRA, funda-o antes (merge_and_unload)."
        )
    return found


def rotated(weight: numpy.ndarray, heads: int | None) -> numpy.ndarray:
    """As linhas de q e k na ordem do llama.cpp: a posição i e a i + d/2 ficam vizinhas."""
    if heads is None:
        return weight
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def kind_of(name: str, tensors: dict, file_type: str, config: dict) -> Kind:
    """O tipo de cada tensor, pela receita do llama.cpp (`llama_tensor_get_type`)."""
    shape = tensors[name][0]
    if len(shape) == 1:
        return Kind.F32  # normas: poucas, e sensíveis
    wanted = {"f16": Kind.F16, "q8_0": Kind.Q8_0, "q4_0": Kind.Q4_0, "q4_k_m": Kind.Q4_K}[file_type]
    is_output = name == ("output.weight" if "output.weight" in tensors else "token_embd.weight")
    if is_output and wanted in (Kind.Q4_0, Kind.Q4_K):
        # Quantizar a saída é o que mais custa em qualidade. Sem o llama.cpp não há Q6_K.
        wanted = Kind.Q8_0 if file_type == "q4_0" else Kind.Q6_K
    elif file_type == "q4_k_m" and name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, layers = int(name.split(".")[1]), config["num_hidden_layers"]
        eighth = layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            wanted = Kind.Q6_K
    while wanted in SMALLER_BLOCK and shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = SMALLER_BLOCK[wanted]
    return wanted


def encode(weight: numpy.ndarray, kind: Kind, quantize: Quantizer) -> numpy.ndarray:
    if kind == Kind.F32:
        return weight
    return weight.astype(numpy.float16) if kind == Kind.F16 else quantize(weight, kind)


def llama_cpp_quantizer() -> Quantizer:
    """A função do llama.cpp que quantiza linhas, na biblioteca do pacote xllamacpp.

    Raises:
        WriteError: o pacote falta, ou a biblioteca dele não expõe a função (Windows).
    """
    spec = importlib.util.find_spec(LLAMA_CPP_PACKAGE)
    if spec is None or spec.origin is None:
        raise WriteError(f"o tipo q4_k_m pede o llama.cpp. Instale-o: {INSTALL_COMMAND}")
    files = Path(spec.origin).parent.glob("xllamacpp*")
    libraries = [path for path in files if path.suffix in (".so", ".pyd")]
    try:
        function = ctypes.CDLL(str(libraries[0])).ggml_quantize_chunk
    except (IndexError, OSError, AttributeError) as error:
        raise WriteError(
            "neste sistema o pacote xllamacpp não expõe o quantizador do llama.cpp. Escreva um f16 "
            "e converta-o com o llama-quantize: https://github.com/ggml-org/llama.cpp/releases"
        ) from error
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                         ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]  # fmt: skip

    def quantize(weight: numpy.ndarray, kind: Kind) -> numpy.ndarray:
        weight = numpy.ascontiguousarray(weight, dtype=numpy.float32)
        rows, columns = weight.shape
        output = numpy.empty(gguf.quant_shape_to_byte_shape(weight.shape, kind), dtype=numpy.uint8)
        done = function(int(kind), weight.ctypes.data, output.ctypes.data, 0, rows, columns, None)
        if done != output.nbytes:
            raise WriteError(f"o llama.cpp escreveu {done} bytes em vez de {output.nbytes}.")
        return output

    return quantize


def add_shape(writer: gguf.GGUFWriter, config: dict, file_type: LlamaFileType) -> None:
    """Os tamanhos do modelo, com os nomes que o llama.cpp espera."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    rope = config.get("rope_parameters") or {}
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    head = config.get("head_dim") or width // heads
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Vocabulário, fusões, tokens especiais e template de chat da pasta.

    Raises:
        WriteError: o tokenizador não é um BPE de bytes cujo corte o llama.cpp conheça.
    """
    content = read_json(folder / "tokenizer.json")
    cut = content.get("pre_tokenizer") or {}
    steps = tuple(step["type"] for step in cut.get("pretokenizers", [cut]) if step)
    if content["model"]["type"] != "BPE" or steps not in PRETOKENIZERS:
        raise WriteError(
            f"{folder}: o tokenizador ({content['model']['type']}, corte {', '.join(steps)}) não é "
            "um dos que sei escrever; use o convert_hf_to_gguf.py do llama.cpp."
        )
    texts = [f"[PAD{i}]" for i in range(vocabulary)]
    kinds = [USER_DEFINED] * vocabulary
    known = content["model"]["vocab"].values()
    if max(known, default=0) >= vocabulary:
        raise WriteError(
            f"{folder}: o tokenizador tem tokens além dos {vocabulary} do modelo (vocab_size)."
        )
    for text, index in content["model"]["vocab"].items():
        texts[index], kinds[index] = text, NORMAL
    for token in content.get("added_tokens", []):
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    settings = read_json(folder / "tokenizer_config.json")
    ids = {text: index for index, text in enumerate(texts)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRETOKENIZERS[steps])
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    merges = content["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)  # os prompts da semana já vêm completos
    writer.add_add_space_prefix(False)
    specials = {"bos_token": writer.add_bos_token_id, "eos_token": writer.add_eos_token_id,
                "pad_token": writer.add_pad_token_id}  # fmt: skip
    for role, add in specials.items():
        token = settings.get(role)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            add(ids[token])
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
    elif isinstance(settings.get("chat_template"), str):
        writer.add_chat_template(settings["chat_template"])


if __name__ == "__main__":
    sys.exit(main())
