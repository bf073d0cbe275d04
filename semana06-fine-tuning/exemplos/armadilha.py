"""A armadilha do modelo base: ele veio de blocos de 4 bits (GGUF Q4_1), e isso engana quem mede.

Arredondar o modelo base na grade de que ele veio não muda nada: qualquer comparação que parta dele
favorece grades parecidas. O treino tira os pesos da grade, mas por pouco, bem menos que um passo; e
quem volta à mesma grade volta quase ao modelo base. Aqui se mede o erro, a perplexidade e o que
sobra do treino depois de arredondar.
"""

import textwrap
from collections.abc import Callable

import medidas
import numpy
import quantizacao_a_mao as hand
import torch
import utils  # antes do torch
from tecnicas import linears
from torch import nn

BATCH = 8
LESSON = (
    "Na grade de origem o erro dos pesos é minúsculo e engana duas vezes: no modelo base parece "
    "que 4 bits não custam nada; no treinado, o pouco que se arredonda é o próprio treino. Uma "
    "grade que não é a de origem erra muito mais em cada peso, mas para os dois lados, e o treino, "
    "somado, passa. Por isso as técnicas abaixo partem do treinado, e o erro dos pesos não serve "
    "para escolher entre elas: a perplexidade serve."
)
GRIDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "q4_1": hand.q4_1,
    "nf4": lambda weight: hand.from_nf4(*hand.nf4(weight), weight.shape),
}


def compare(base: str, trained: str, tests: int) -> dict:
    """Erro, perplexidade e o que sobra do treino, no modelo base e no treinado, grade por grade.

    `sobra_do_treino` projeta a diferença entre os dois modelos já arredondados na diferença entre
    os originais: 1 quando o arredondamento, em média, a preserva; 0 quando a apaga.

    Raises:
        utils.UserError: os dois modelos não têm as mesmas camadas.
    """
    tokenizer = utils.load_tokenizer(trained)
    texts = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", tests)
    result: dict = {}
    weights: dict[str, list[torch.Tensor]] = {}
    for label, source in (("base", base), ("treinado", trained)):
        model = utils.load_model(source)
        weights[label] = [m.weight.detach().cpu().clone() for m in linears(model).values()]
        result[label] = measure(model, tokenizer, texts)
        del model
    before, after = weights["base"], weights["treinado"]
    if [w.shape for w in before] != [w.shape for w in after]:
        raise utils.UserError(f"--base {base} não tem as camadas do modelo treinado.")
    result["deslocamento_em_passos"] = moved_steps(before, after)
    result["sobra_do_treino"] = {name: kept(before, after, f) for name, f in GRIDS.items()}
    return result


def measure(model: nn.Module, tokenizer, texts: list) -> dict:
    """O erro relativo médio de cada grade, e a perplexidade antes e depois dela."""

    def perplexity() -> dict:
        return medidas.answer_scores(model, tokenizer, texts, BATCH)["perplexidade_token"]

    layers = linears(model).values()
    found = {"perplexidade": {"sem arredondar": perplexity()}}
    for name, grid in GRIDS.items():
        originals, errors = [], []
        for layer in layers:
            weight = layer.weight.data
            originals.append(weight)
            layer.weight.data = grid(weight.cpu()).to(weight.device)
            errors.append(hand.relative_error(layer.weight.data, weight))
        found[name] = float(numpy.mean(errors))
        found["perplexidade"][name] = perplexity()
        for layer, weight in zip(layers, originals, strict=True):
            layer.weight.data = weight
    return found


def moved_steps(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Quanto o treino moveu cada peso, em média, em passos da grade de 4 bits do bloco dele."""
    steps = []
    for old, new in zip(before, after, strict=True):
        blocks = old.reshape(-1, 32)
        step = (blocks.amax(1) - blocks.amin(1)) / 15
        moved = (new - old).reshape(-1, 32).abs().mean(1)
        steps.append((moved / step.clamp(min=1e-12)).mean().item())
    return float(numpy.mean(steps))


def kept(before: list[torch.Tensor], after: list[torch.Tensor], grid: Callable) -> float:
    above = below = 0.0
    for old, new in zip(before, after, strict=True):
        change = new - old
        above += ((grid(new) - grid(old)) * change).sum().item()
        below += change.square().sum().item()
    return above / below if below else 1.0


def report(found: dict) -> str:
    """A armadilha em texto: uma linha por modelo e o que se conclui dela."""
    names = {"q4_1": "Q4_1 (a de origem)", "nf4": "NF4"}
    lines = [f"{'modelo':<10}{'sem arredondar':<26}" + "".join(f"{names[g]:<42}" for g in GRIDS)]
    for label in ("base", "treinado"):
        scores = found[label]["perplexidade"]
        cells = [f"{label:<10}{medidas.show(scores['sem arredondar']):<26}"]
        for grid in GRIDS:
            error = f"{100 * found[label][grid]:.3f}%".replace(".", ",")
            cells.append(f"{medidas.show(scores[grid]) + f' (erro {error})':<42}")
        lines.append("".join(cells))
    steps = f"{found['deslocamento_em_passos']:.4f}".replace(".", ",")
    left = {g: f"{100 * found['sobra_do_treino'][g]:.0f}%" for g in GRIDS}
    lines += [
        "(perplexidade por token, com intervalo de 95%; erro relativo médio dos pesos)",
    ]
    if not found["deslocamento_em_passos"]:
        return "\n".join([*lines, "Os dois modelos são o mesmo: não há treino a comparar."])
    lines += [
        f"O treino moveu cada peso, em média, {steps} passo da grade de 4 bits.",
        f"Do que o treino mudou, sobra depois de arredondar: Q4_1 {left['q4_1']}, "
        f"NF4 {left['nf4']}.",
    ]
    base, trained = (found[m]["perplexidade"] for m in ("base", "treinado"))
    for grid in GRIDS:
        before, after = (100 * (s[grid]["valor"] / s["sem arredondar"]["valor"] - 1)
                         for s in (base, trained))  # fmt: skip
        text = f"a perplexidade muda {before:+.1f}% no modelo base e {after:+.1f}% no treinado"
        lines.append(f"{names[grid]}: {text.replace('.', ',')}.")
    shares = found["sobra_do_treino"]
    if shares["q4_1"] < shares["nf4"] / 2:
        lines.append(textwrap.fill(LESSON, 100))
    return "\n".join(lines)
