"""Escreve em GGUF, o formato do llama.cpp, um modelo Llama que está numa pasta do Hugging Face.

O arquivo leva tudo: pesos, tamanhos, tokenizador e template de chat. Duas coisas a saber. O
llama.cpp gira pares de vizinhos onde o transformers gira metades (RoPE), e por isso as linhas de q
e k trocam de lugar. E uma matriz cuja largura não se divide no bloco pedido fica num tipo de bloco
menor, como no llama.cpp: no SmolLM2-135M, de largura 576, o Q4_K_M vira quase todo Q5_0.
"""

from collections.abc import Iterator
from pathlib import Path

from comum.files import read_json, replacing
from comum.terminal import UserError

import gguf
import numpy
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

# Forma: o tipo do arquivo e o da maioria dos tensores.
FILE_TYPES = {
    "f16": (LlamaFileType.MOSTLY_F16, Kind.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, Kind.Q8_0),
    "q4_0": (LlamaFileType.MOSTLY_Q4_0, Kind.Q4_0),
    "q4_k_m": (LlamaFileType.MOSTLY_Q4_K_M, Kind.Q4_K),
}
# O bloco que se usa quando a largura da matriz não se divide no pedido.
SMALLER_BLOCK = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}  # os outros caem em F16
# Como o llama.cpp corta o texto antes dos pares de bytes, pelo pré-tokenizador do Hugging Face.
PRETOKENIZERS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # tipos de token do GGUF


def write(folder: Path, output: Path, file_type: str) -> None:
    """Escreve o GGUF.

    Os tensores são lidos e quantizados um a um. `output` só aparece quando está completo.

    Args:
        file_type: um dos de `FILE_TYPES`. `q4_k_m` pede o pacote do llama.cpp.

    Raises:
        UserError: pasta incompleta, arquitetura ou tokenizador que não se sabe escrever, ou
            biblioteca ausente.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} não é a pasta de um modelo: falta {name}.")
    config = read_json(folder / "config.json")
    _check_architecture(config, folder)
    with replacing(output) as temporary:
        writer = gguf.GGUFWriter(temporary, "llama", use_temp_file=True)
        _add_shape(writer, config, FILE_TYPES[file_type][0])
        _add_tokenizer(writer, folder, config["vocab_size"])
        for name, weight in _tensors(folder, config):
            kind = kind_of(name, weight.shape, file_type, config)
            writer.add_tensor(name, _encode(weight, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _check_architecture(config: dict, folder: Path) -> None:
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
            raise UserError(
                f"{folder}: {reason}; só sei escrever Llama em precisão cheia, com RoPE simples e "
                "sem vieses. Para os outros, use o convert_hf_to_gguf.py do llama.cpp."
            )


def _tensors(folder: Path, config: dict) -> Iterator[tuple[str, numpy.ndarray]]:
    """Cada tensor, em float32 e na ordem do llama.cpp, com o nome que tem no GGUF.

    Raises:
        UserError: faltam pesos, ou há um tensor que o Llama não tem.
    """
    from safetensors import SafetensorError, safe_open

    layers, tied = config["num_hidden_layers"], config.get("tie_word_embeddings", False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    queries = config["num_attention_heads"]
    heads = {"attn_q": queries, "attn_k": config.get("num_key_value_heads", queries)}
    found = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            weights = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise UserError(f"{path} está estragado ({error}).") from error
        for key in weights.keys():  # noqa: SIM118  (safe_open não é um dicionário)
            name = names.get_name(key, try_suffixes=(".weight",))
            if name is None:
                raise UserError(f"{path}: o tensor {key} não é de um Llama.")
            if key == "lm_head.weight" and tied:
                continue  # a saída é a própria tabela de entrada
            found += 1
            weight = weights.get_tensor(key).float().numpy()
            yield name, _rotated(weight, heads.get(name.split(".")[-2]))
    expected = 9 * layers + 2 + (not tied)
    if found != expected:
        raise UserError(
            f"{folder} tem {found} tensores, e este Llama teria {expected}. Se é um adaptador "
            "LoRA, funda-o antes (merge_and_unload)."
        )


def _rotated(weight: numpy.ndarray, heads: int | None) -> numpy.ndarray:
    """As linhas de q e k na ordem do llama.cpp: a posição i e a i + d/2 ficam vizinhas."""
    if heads is None:
        return weight
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def kind_of(name: str, shape: tuple[int, ...], file_type: str, config: dict) -> Kind:
    """O tipo de cada tensor, pela receita do llama.cpp (`llama_tensor_get_type`)."""
    if len(shape) == 1:
        return Kind.F32  # normas: poucas, e sensíveis
    wanted = FILE_TYPES[file_type][1]
    tied, layers = config.get("tie_word_embeddings", False), config["num_hidden_layers"]
    if name == ("token_embd.weight" if tied else "output.weight"):
        # Quantizar a saída é o que mais custa em qualidade. Sem o llama.cpp não há Q6_K.
        wanted = {Kind.Q4_0: Kind.Q8_0, Kind.Q4_K: Kind.Q6_K}.get(wanted, wanted)
    elif file_type == "q4_k_m" and name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            wanted = Kind.Q6_K
    while shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = SMALLER_BLOCK.get(wanted, Kind.F16)
    return wanted


def _encode(weight: numpy.ndarray, kind: Kind) -> numpy.ndarray:
    """Os valores como se gravam: float, ou os bytes dos blocos [linhas, bytes por linha]."""
    try:
        return gguf.quants.quantize(weight, kind)
    except NotImplementedError:  # os blocos de 256 (Q4_K, Q6_K), que só o llama.cpp sabe fazer
        from comum.llama_cpp import quantize

        return quantize(weight, kind, gguf.quant_shape_to_byte_shape(weight.shape, kind))


def _add_shape(writer: gguf.GGUFWriter, config: dict, file_type: LlamaFileType) -> None:
    """Os tamanhos do modelo, com os nomes que o llama.cpp espera."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or width // heads
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
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Vocabulário, fusões, tokens especiais e template de chat da pasta.

    Raises:
        UserError: o tokenizador não é um BPE de bytes cujo corte o llama.cpp conheça.
    """
    content = read_json(folder / "tokenizer.json")
    cut = content.get("pre_tokenizer") or {}
    steps = tuple(step["type"] for step in cut.get("pretokenizers", [cut]) if step)
    if content["model"]["type"] != "BPE" or steps not in PRETOKENIZERS:
        raise UserError(
            f"{folder}: o tokenizador ({content['model']['type']}, corte {', '.join(steps)}) não é "
            "um dos que sei escrever; use o convert_hf_to_gguf.py do llama.cpp."
        )
    if max(content["model"]["vocab"].values(), default=0) >= vocabulary:
        raise UserError(
            f"{folder}: o tokenizador tem tokens além dos {vocabulary} do modelo (vocab_size)."
        )
    texts = [f"[PAD{i}]" for i in range(vocabulary)]
    kinds = [USER_DEFINED] * vocabulary
    for text, index in content["model"]["vocab"].items():
        texts[index], kinds[index] = text, NORMAL
    for token in content.get("added_tokens", []):
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRETOKENIZERS[steps])
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(False)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocabulary)
    special.add_special_token = {"bos": False}  # os prompts da semana já vêm completos
    special.add_to_gguf(writer, quiet=True)
