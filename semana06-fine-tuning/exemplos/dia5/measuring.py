"""As técnicas do dia 5, o tamanho que se prevê de cada uma, e como se mede um modelo salvo.

A primeira medição (a do fp32) guarda os log-probs das primeiras conversas; as outras se comparam
com eles (KL e concordância do primeiro colocado). Um GGUF é medido pelo próprio llama.cpp.
"""

import contextlib
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comum import llama_cpp, process
from comum.conversations import DATA_DIR, encode, greedy_answers, prompt_of, read_conversations
from comum.decoding import stream
from comum.files import building, check_output, weights_bytes
from comum.llama_cpp import LlamaCpp
from comum.memory import peak_mib, resident_bytes
from comum.models import (
    clock,
    compute_dtype,
    device,
    fix_seeds,
    linears_of,
    load_model,
    load_tokenizer,
)
from comum.results import Speed, Technique, Trap, TrapModel
from comum.scoring import answer_sums, text_perplexity
from comum.statistics import bleu, perplexity, ratio
from comum.terminal import UserError, progress
from comum.training import IGNORED

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

TEST = DATA_DIR / "atendimento_teste.jsonl"
GGUF_NAME = "modelo.gguf"
MARK = "tokenizer_config.json"  # diz que uma pasta foi feita aqui
COMPARED = 30  # conversas guardadas para a KL: 49.152 log-probs por token ocupam muito
PROMPT_TOKENS, NEW_TOKENS, ANSWER_TOKENS = 64, 16, 60
BATCHES = (1, 8)

Grid = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Uma linha da tabela. `kind`: dense, bnb, gptq, rtn ou gguf."""

    kind: str
    bits: float
    group: int = 0
    scale_bits: float = 0.0  # bits de escala por grupo
    quant_type: str = ""
    outside_bits: float = 16  # embeddings e normas, que a maioria não quantiza

    @property
    def bits_per_weight(self) -> float:
        """Os bits de um peso, com a parte dele na escala do grupo: 4 + 32/64 = 4,5."""
        return self.bits + (self.scale_bits / self.group if self.group else 0)

    @property
    def dtype(self) -> torch.dtype:
        """A precisão das contas e, em uso, do que não se quantiza."""
        dense = {32: torch.float32, 16: torch.bfloat16} if self.kind == "dense" else {}
        return dense.get(self.bits) or compute_dtype()


PACKAGES = dict(bnb="bitsandbytes", gptq="compressed-tensors", rtn="compressed-tensors")
DOUBLE = 8 + 32 / 256  # a escala dupla: 8 bits por bloco, e uma de 32 a cada 256 blocos
Q8_0 = 8 + 16 / 32
RECIPES = {
    "fp32": Recipe("dense", 32, outside_bits=32),
    "bf16": Recipe("dense", 16),
    "bnb-int8": Recipe("bnb", 8),
    "bnb-fp4": Recipe("bnb", 4, 64, 32, "fp4"),
    "bnb-fp4-double": Recipe("bnb", 4, 64, DOUBLE, "fp4"),
    "bnb-nf4": Recipe("bnb", 4, 64, 32, "nf4"),
    "bnb-nf4-double": Recipe("bnb", 4, 64, DOUBLE, "nf4"),
    "gptq-8bit-g64": Recipe("gptq", 8, 64, 16),
    "gptq-4bit-g128": Recipe("gptq", 4, 128, 16),
    "gptq-4bit-g64": Recipe("gptq", 4, 64, 16),
    "gptq-4bit-g32": Recipe("gptq", 4, 32, 16),
    "rtn-4bit-g64": Recipe("rtn", 4, 64, 16),
    "rtn-4bit-g32": Recipe("rtn", 4, 32, 16),
    "gguf-q8_0": Recipe("gguf", 8, 32, 16, "q8_0", Q8_0),
    "gguf-q4_0": Recipe("gguf", 4, 32, 16, "q4_0", Q8_0),
    # 4,85: o que o llama.cpp anuncia, num modelo de largura múltipla de 256.
    "gguf-q4_k_m": Recipe("gguf", 4.85, 0, 0, "q4_k_m", Q8_0),
}


def missing(recipe: Recipe) -> str | None:
    """Por que esta técnica não roda aqui, e o comando que a traz; None quando roda."""
    if recipe.kind == "gguf":
        return llama_cpp.missing()
    package = PACKAGES.get(recipe.kind)
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        return f"falta a biblioteca: python -m pip install {package}"
    return None


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """As camadas que se quantizam, pelo nome.

    Raises:
        UserError: são as do GPT-2, que guardam o peso transposto: linhas e colunas se trocariam.
    """
    layers = linears_of(model)
    if other := next((m for m in layers.values() if not isinstance(m, nn.Linear)), None):
        raise UserError(
            f"as camadas do modelo são {type(other).__name__}, e a lição só quantiza nn.Linear, "
            "como as dos Llama; escolha outro em --model."
        )
    return layers


def predicted_bytes(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Bytes previstos no arquivo e na memória, em uso: bits por peso vezes pesos.

    O int8 do bitsandbytes guarda ainda uma escala de 32 bits por linha. Em uso, o que não se
    quantiza está na precisão das contas, e a ela voltam, ao lado das escalas, os pesos do
    compressed-tensors, que só no arquivo são pequenos.
    """
    layers = [module.weight for module in linears_of(model).values()]
    inside = sum(weight.numel() for weight in layers)
    outside = sum(p.numel() for p in model.parameters()) - inside
    packed = inside * recipe.bits_per_weight / 8
    if recipe.kind == "bnb" and recipe.bits == 8:
        packed += 4 * sum(len(weight) for weight in layers)
    disk = memory = packed + outside * recipe.outside_bits / 8
    if recipe.kind != "gguf":
        size = recipe.dtype.itemsize
        if recipe.kind in ("gptq", "rtn"):
            packed = inside * (size + recipe.scale_bits / 8 / recipe.group)
        memory = packed + outside * size
    return {"predicted_disk_bytes": disk, "predicted_memory_bytes": memory}


def quantize_and_measure(
    quantize: Callable, source: str, output: Path, predicted: dict[str, dict], sizes: dict[str, int]
) -> tuple[dict[str, Technique], dict[str, str]]:
    """Quantiza, recarrega e mede cada técnica: (as medidas, as ausentes com o motivo).

    Args:
        quantize: `quantize(técnica, pasta)`, que grava o modelo ou lança UserError.
        predicted: técnica → o que se prevê dela; a primeira é o fp32, a referência das outras.

    Raises:
        UserError: em `output` há uma pasta com o nome de uma técnica que não foi feita aqui.
    """
    for name in predicted:
        check_output(output / name, MARK)
    tokenizer, reference = load_tokenizer(source), output / "referencia.pt"
    reference.unlink(missing_ok=True)
    rows, absent = {}, {}
    for name, expected in predicted.items():
        print(f"\n[{name}]", flush=True)
        started = time.perf_counter()
        try:
            if why := missing(RECIPES[name]):
                raise UserError(why)
            with building(output / name, MARK) as folder:
                quantize(name, folder)
                made = expected | {"quantize_seconds": time.perf_counter() - started}
                tokenizer.save_pretrained(folder)
        except UserError as error:
            absent[name] = str(error)
            print(f"ausente: {error}")
            continue
        rows[name] = process.alone(measure, output / name, reference, sizes, made)
    reference.unlink(missing_ok=True)  # centenas de MB que só serviam a esta comparação
    return rows, absent


def measure(folder: Path, reference: Path, sizes: dict[str, int], made: dict) -> Technique:
    """Recarrega o modelo salvo em `folder` e o mede; feito para um processo só dele.

    Args:
        reference: os log-probs do fp32; se não existe, são os deste modelo que ficam ali.
        made: o que já se sabe: tamanhos previstos e segundos para quantizar.
    """
    fix_seeds(0)
    tokenizer = load_tokenizer(str(folder))
    test = read_conversations(TEST, sizes["test"])
    model = load(folder)
    native = isinstance(model, LlamaCpp)
    rates = {str(batch): speed(model, batch, sizes["repeats"]) for batch in BATCHES}
    peak = peak_mib()  # antes das notas: os log-probs guardados não são do modelo
    if native:
        model.resize(1, llama_cpp.LONGEST)
    scores, nats, tokens = compared_scores(model, tokenizer, test, reference)
    for key, name in (("outside_portuguese", "portugues"), ("outside_english", "ingles")):
        text = (DATA_DIR / f"fora_do_dominio_{name}.txt").read_text(encoding="utf-8")
        scores[key] = text_perplexity(model, tokenizer, text)
    asked = test[: sizes["answers"]]
    answer = native_answers if native else greedy_answers
    answers = answer(model, tokenizer, [prompt_of(tokenizer, m) for m in asked], ANSWER_TOKENS)
    scores["bleu"] = bleu(answers, [messages[-1]["content"] for messages in asked])
    return Technique(
        scores=scores,
        nats=nats,
        tokens=tokens,
        speed=rates,
        peak_mib=peak,
        disk_bytes=weights_bytes(folder),
        memory_bytes=model.weights_bytes if native else resident_bytes(model),
        answers=answers[:3],
        **made,
    )


def load(folder: Path):
    """O modelo salvo; o que quantiza faz as contas na precisão que rende nesta máquina."""
    if (folder / GGUF_NAME).is_file():
        return LlamaCpp(folder / GGUF_NAME, max(BATCHES), PROMPT_TOKENS + NEW_TOKENS)
    # O compressed-tensors expande os pesos na primeira passada, com barras em inglês no stderr.
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=RECIPES[folder.name].dtype, device_map={"": device()}
        ).eval()
        model(input_ids=torch.tensor([[1]], device=model.device))
    return model


@torch.inference_mode()
def speed(model, batch: int, repeats: int) -> Speed:
    """Tokens/s de prefill e de decodificação: mediana de `repeats`, depois de aquecer."""
    if isinstance(model, LlamaCpp):
        model.resize(batch, PROMPT_TOKENS + NEW_TOKENS)
    vocabulary = model.config.vocab_size
    prompt = torch.randint(10, vocabulary, (batch, PROMPT_TOKENS), device=model.device)
    rates = []
    for _ in range(repeats + 1):
        ids, cache, marks = prompt, None, [clock()]
        for _ in range(1 + NEW_TOKENS):  # o primeiro lê o prompt inteiro
            found = model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
            ids, cache = found.logits[:, -1:].argmax(-1), found.past_key_values
            marks.append(clock())
        tokens = batch * PROMPT_TOKENS, batch * NEW_TOKENS
        rates.append((tokens[0] / (marks[1] - marks[0]), tokens[1] / (marks[-1] - marks[1])))
    prefill, decode = (statistics.median(column) for column in zip(*rates[1:], strict=True))
    return Speed(prefill=prefill, decode=decode)


def native_answers(model: LlamaCpp, tokenizer, prompts: list[str], new_tokens: int) -> list[str]:
    """`greedy_answers`, pelo llama.cpp: uma por vez."""
    asked = progress(prompts, "Respondendo", "conversa")
    return [["", *stream(model, tokenizer, prompt, new_tokens)][-1] for prompt in asked]


@torch.inference_mode()
def compared_scores(
    model, tokenizer, conversations: list, reference: Path
) -> tuple[dict, list[float], list[float]]:
    """Notas na resposta de cada conversa, e os nats e tokens de cada uma (para o teste pareado)."""
    saved = torch.load(reference) if reference.is_file() else None
    kept, sums = [], []  # nats, tokens, acertos, KL, concordâncias
    for number, messages in enumerate(progress(conversations, "Perplexidade", "conversa")):
        row = encode(tokenizer, messages)
        logits = model(input_ids=torch.tensor([row["input_ids"]], device=model.device)).logits
        labels = torch.tensor(row["labels"])[1:]
        answer = labels != IGNORED
        logp = logits[0, :-1].cpu()[answer].float().log_softmax(-1)
        target, best = labels[answer], logp.argmax(-1)
        divergence, agreed = 0.0, 0.0
        if number < COMPARED:
            if saved is None:
                kept.append(logp.half())
            truth = logp if saved is None else saved[number].float()
            divergence = functional.kl_div(logp, truth, reduction="sum", log_target=True).item()
            agreed = (truth.argmax(-1) == best).sum().item()
        nats = -logp.gather(1, target[:, None]).sum().item()
        sums.append((nats, len(target), (best == target).sum().item(), divergence, agreed))
    if saved is None:
        torch.save(kept, reference)
    nats, tokens, hits, divergence, agreed = numpy.array(sums, dtype=float).T
    scores = {
        "perplexity_token": perplexity(nats, tokens),
        "next_token_accuracy": ratio(hits, tokens),
        "kl_fp32": ratio(divergence[:COMPARED], tokens[:COMPARED]),
        "agreement_fp32": ratio(agreed[:COMPARED], tokens[:COMPARED]),
    }
    return scores, nats.tolist(), tokens.tolist()


@torch.no_grad()
def trap(base: str, trained: str, grids: dict[str, Grid], tests: int) -> Trap:
    """Erro, perplexidade e o que sobra do treino, no modelo base e no treinado, grade por grade.

    `kept` projeta a diferença entre os dois modelos já arredondados na diferença entre os
    originais: 1 quando o arredondamento, em média, a preserva; 0 quando a apaga.

    Raises:
        UserError: os dois modelos não têm as mesmas camadas.
    """
    tokenizer = load_tokenizer(trained)
    test = read_conversations(TEST, tests)
    rows = [encode(tokenizer, messages) for messages in test]
    models = [load_model(base), load_model(trained)]
    old, new = ([m.weight.clone() for m in linears_of(model).values()] for model in models)
    if [w.shape for w in old] != [w.shape for w in new]:
        raise UserError(f"--base {base} não tem as camadas do modelo treinado.")
    pairs = list(zip(old, new, strict=True))
    found = [rounded_scores(model, rows, tokenizer.pad_token_id, grids) for model in models]
    return Trap(
        base=found[0],
        trained=found[1],
        moved_steps=statistics.mean(moved_steps(*pair) for pair in pairs),
        kept={name: kept_share(pairs, grid) for name, grid in grids.items()},
    )


def rounded_scores(model: nn.Module, rows: list, pad: int, grids: dict[str, Grid]) -> TrapModel:
    """A perplexidade antes ("none") e depois de cada grade, e o erro relativo médio dos pesos."""
    layers = linears_of(model).values()
    originals = [layer.weight.clone() for layer in layers]
    scores, errors = {}, {}
    for name, grid in {"none": lambda weight: weight, **grids}.items():
        for layer, weight in zip(layers, originals, strict=True):
            layer.weight.copy_(grid(weight))
        nats, tokens, _ = answer_sums(model, rows, pad).T
        scores[name] = perplexity(nats, tokens)
        pairs = zip(layers, originals, strict=True)
        errors[name] = statistics.mean(relative_error(layer.weight, w) for layer, w in pairs)
    return TrapModel(perplexity=scores, weight_error={name: errors[name] for name in grids})


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """‖Ŵ − W‖ / ‖W‖."""
    return ((approximate - exact).norm() / exact.norm()).item()


def moved_steps(old: Tensor, new: Tensor, block: int = 32) -> float:
    """Quanto o treino moveu um peso, em média, em passos da grade de 4 bits do bloco dele."""
    blocks = old.reshape(-1, block)
    step = (blocks.amax(1) - blocks.amin(1)) / 15
    moved = (new - old).reshape(-1, block).abs().mean(1)
    return (moved / step.clamp(min=1e-12)).mean().item()


def kept_share(pairs: list[tuple[Tensor, Tensor]], grid: Grid) -> float:
    """Do que mudou de cada `old` para o seu `new`, a fração que sobra depois da grade."""
    above = sum(((grid(new) - grid(old)) * (new - old)).sum().item() for old, new in pairs)
    below = sum((new - old).square().sum().item() for old, new in pairs)
    return above / below if below else 1.0
