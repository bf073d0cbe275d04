"""Confere os exercícios que você escreveu: o que está certo, o que ainda não, e uma dica.

    python semana06-fine-tuning/exercicios/conferir.py dia2   # os três do dia 2
    python semana06-fine-tuning/exercicios/conferir.py        # a semana inteira, em segundos

A sua resposta é comparada com a de uma biblioteca (torch, peft, bitsandbytes, scipy) em números
sorteados com semente fixa; as dicas estão em dicas.yaml. Nada se escreve nos seus arquivos. O
código de saída só é 0 com tudo certo.
"""

import inspect
import math
import random
import runpy
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from comum.terminal import Parser, run_main
from comum.yaml import read_yaml

HERE = Path(__file__).parent
NAMES = ("mascara", "lora", "perda", "fusao", "quantizar", "dividir", "acertos")
STUBS = {f"dia{day}": f"dia{day}_{name}.py" for day, name in enumerate(NAMES, 1)}
RIGHT, WRONG, UNWRITTEN = "[certo]", "[ainda não]", "[por escrever]"

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("day", nargs="?", choices=STUBS, help="só este dia (padrão: todos)")
    ARGS = parser.parse_args()  # antes dos imports pesados: --help responde na hora

import scipy
import torch
from scipy.cluster.vq import vq
from scipy.sparse import csgraph
from torch import Tensor, nn
from torch.nn import functional

HINTS = read_yaml(HERE / "dicas.yaml")
Cases = Iterable[tuple]


def main(args) -> int:
    days = [args.day] if args.day else list(STUBS)
    right, total = sum(check_day(day, HERE / STUBS[day]) for day in days), 3 * len(days)
    print(f"\n{right} de {total} certos.", "Parabéns!" if right == total else "Siga no seu ritmo.")
    return int(right < total)


def check_day(day: str, path: Path) -> int:
    """Imprime o que há em cada exercício de um dia; devolve quantos estão certos."""
    print(f"\n{day}: {path.name}")
    try:
        written = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        print(f"  {WRONG} o arquivo não roda: {said_of(error, path)}")
        return 0
    levels, marks = iter(("fácil", "médio", "desafio")), []
    for name, *cases in globals()[day]():
        mark, text = verdict(written.get(name), HINTS[name], cases, path)
        marks.append(mark)
        print(f"  {mark:<14} {next(levels):<7} {name}{text and ': '}{text}", flush=True)
    return marks.count(RIGHT)


def verdict(yours: object, hints: dict[str, str], cases: Cases, path: Path) -> tuple[str, str]:
    """A marca de um exercício e a frase que a acompanha.

    Args:
        cases: os argumentos; o resultado certo, ou a função que diz o nome do engano; e os enganos
            conhecidos, cada um com o resultado que dá.
    """
    if not callable(yours):
        return WRONG, "não achei esta função no arquivo; não mude o nome dela."
    for arguments, right, *traps in cases:
        try:
            found = yours(*arguments)
        except (Exception, SystemExit) as error:
            return WRONG, f"parou com {said_of(error, path)}. Dica: {hints['other']}"
        if found is None:
            return (UNWRITTEN, "") if untouched(yours) else (WRONG, "não devolve nada: e o return?")
        if wrong := right(found) if callable(right) else mistake(found, right, *traps):
            return WRONG, hints.get(wrong, hints["other"])
    return RIGHT, ""


def untouched(yours: Callable) -> bool:
    """Se na função ainda está o lugar de escrever com que ela veio."""
    try:
        return "escreva aqui" in inspect.getsource(yours)
    except (OSError, TypeError):  # não foi escrita em Python, ou não neste arquivo
        return False


def said_of(error: BaseException, path: Path) -> str:
    """O erro numa frase, com a última linha do arquivo de quem estuda por onde ele passou."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
    return f"{type(error).__name__} na linha {line} ({error})"


def mistake(found: object, right: object, traps: dict[str, object] | None = None) -> str:
    """Vazio se os dois são iguais; senão, o engano que dá este resultado, ou "other"."""
    known = (name for name, trap in (traps or {}).items() if same(found, trap))
    return "" if same(found, right) else next(known, "other")


def same(found: object, right: object) -> bool:
    """Igualdade a menos do arredondamento, em números, listas e tensores."""
    if isinstance(right, tuple):
        pair = isinstance(found, tuple | list) and len(found) == len(right)
        return pair and all(map(same, found, right))
    try:
        left, right = (torch.as_tensor(x).detach().double() for x in (found, right))
    except (TypeError, ValueError, RuntimeError):
        return False
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-4, atol=1e-6)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


# --- os dias: de cada exercício, o nome e os casos ------------------------------------------------
def dia1() -> Cases:
    prompt, answer, right = [11, 12, 13], [21, 22], [-100, -100, -100, 21, 22]
    traps = {"unmasked": prompt + answer, "short": answer, "shifted": [*right[1:], -100]}
    yield "answer_labels", ((prompt, answer), right, traps)

    logs, labels = draw(7, 5).log_softmax(-1), torch.tensor([-100, -100, 3, 1, 4, 0, 2])
    mean, unshifted = functional.nll_loss(logs[:-1], labels[1:]), functional.nll_loss(logs, labels)
    traps = {"unshifted": unshifted, "all": mean * 5 / 7, "sum": 5 * mean, "sign": -mean}
    yield "next_token_loss", ((logs.exp().tolist(), labels.tolist()), mean, traps)

    small, large = draw(6).double(), 1000 * draw(6).double()
    losses = [-logits.log_softmax(-1)[2] for logits in (small, large)]
    traps = {"sign": -losses[0], "probability": (-losses[0]).exp()}
    second = (large.tolist(), 2), losses[1], {"overflow": math.inf}
    yield "surprise", ((small.tolist(), 2), losses[0], traps), second


def lora_case() -> tuple:
    """Um LoRA do peft como se já tivesse treinado (r = 3, α = 12), com x, W₀, A e B."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(r=3, lora_alpha=12, target_modules=["0"], init_lora_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 5, bias=False)), config)
    return model, draw(4, 8), *(p.detach().clone() for p in model.parameters())


def dia2() -> Cases:
    model, x, w0, a, b = lora_case()
    trained = [p for p in model.parameters() if p.requires_grad]
    traps = {"frozen": 8 * 5, "product": 8 * 5 * 3, "only_a": 8 * 3, "only_b": 5 * 3}
    yield "lora_parameters", ((8, 5, 3), sum(p.numel() for p in trained), traps)

    base, change, right = x @ w0.T, x @ a.T @ b.T, model(x)
    traps = {"unscaled": base + change, "alpha": base + 12 * change, "no_base": 4 * change}
    yield "lora_forward", ((x.clone(), w0, a, b, 12), right.detach(), traps)

    right.backward(draw(4, 5))
    grads = tuple(p.grad for p in trained)
    traps = {"unscaled": tuple(grad / 4 for grad in grads), "order": grads[::-1]}
    yield "lora_gradients", ((x, a, b, 12, draw(4, 5)), grads, traps)


def dia3() -> Cases:
    logits, labels = 2 * draw(6, 9), torch.tensor([-100, 4, 2, -100, 8, 0])
    loss = functional.cross_entropy(logits, labels)
    each = functional.cross_entropy(logits, labels, reduction="none")  # zero nos -100
    traps = {"no_exp": loss, "all": each.mean().exp(), "early": each[labels >= 0].exp().mean()}
    yield "perplexity", ((logits, labels), loss.exp(), traps)

    model, x, y = nn.Linear(4, 3, bias=False), draw(5, 4), torch.tensor([0, 2, 1, 1, 0])
    before = model.weight.detach().clone().requires_grad_()
    loss = functional.cross_entropy(x @ before.T, y)
    after = before - torch.autograd.grad(loss, before)[0]
    traps = {"still": (loss, before), "leftover": (loss, after - draw(3, 4))}
    model.weight.grad = draw(3, 4)  # o que sobrou do passo anterior
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def moved(found: object) -> str:
        return mistake((found, model.weight), (loss, after), traps)

    yield "train_step", ((model, x, y, optimizer), moved)

    weight, (one, two), m, v = nn.Parameter(draw(6)), draw(2, 6), 0, 0
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.2)
    for weight.grad in (one, two):
        before, old = weight.detach().clone(), (m, v)
        optimizer.step()
        m, v = (optimizer.state[weight][key].clone() for key in ("exp_avg", "exp_avg_sq"))
    raw, after = 0.98 * before - 0.1 * m / (v.sqrt() + 1e-8), weight.detach()
    traps = {"raw": (raw, m, v), "no_decay": (after + 0.02 * before, m, v)}
    yield "adamw_step", ((before, two, *old, 2, 0.1, 0.2), (after, m, v), traps)


def dia4() -> Cases:
    from peft import LoraConfig, get_peft_model

    model, _, w0, a, b = lora_case()
    traps = {"unscaled": w0 + b @ a, "alpha": w0 + 12 * b @ a, "no_base": 4 * b @ a}
    yield "merge", ((w0.clone(), a, b, 12), model.merge_and_unload()[0].weight, traps)

    sizes = {"q_proj": (8, 6), "faq_proj": (8, 9), "up_proj": (8, 16), "down_proj": (16, 8)}
    block = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
    model = get_peft_model(nn.ModuleDict({"block": block}), config)
    traps = {"all": 4 * (14 + 17 + 24 + 24), "suffix": 4 * (14 + 17 + 24), "frozen": 48 + 128}
    linears = {f"block.{name}": size for name, size in sizes.items()}
    right = model.get_nb_trainable_parameters()[0]
    yield "trainable", ((linears, ["q_proj", "up_proj"], 4), right, traps)

    u, s, vt = scipy.linalg.svd(draw(6, 9).numpy(), full_matrices=False)
    best, unsized, twice = (u[:, :2] * s[:2] ** n @ vt[:2] for n in (1, 0, 2))

    def product(found: object) -> str:
        shapes = isinstance(found, tuple) and [list(getattr(x, "shape", [])) for x in found]
        if shapes != [[2, 9], [6, 2]]:
            return "shapes"
        a, b = (torch.as_tensor(x).double() for x in found)
        return mistake(b @ a, best, {"unsized": unsized, "twice": twice})

    yield "extract_lora", ((draw(6, 9), 2), product)


def dia5() -> Cases:
    from bitsandbytes import functional as library

    weight = draw(4, 64).half()
    codes, largest, _ = library.int8_vectorwise_quant(weight)
    weight, scale, one = weight.float(), largest[:, None] / 127, weight.float().abs().max() / 127
    traps = {"one": ((weight / one).round(), one), "cut": ((weight / scale).trunc(), scale)}

    def int8(found: object) -> str:
        wrong = mistake(found, (codes, scale), traps)
        return wrong or "dtype" * (getattr(found[0], "dtype", None) != torch.int8)

    yield "absmax_int8", ((weight.clone(),), int8)

    levels, values = library.get_4bit_type("nf4", device="cpu"), torch.linspace(-1, 1, 120)
    nearest = torch.from_numpy(vq(values[:, None].numpy(), levels[:, None].numpy())[0])
    nearest, above = nearest.reshape(3, 40), torch.searchsorted(levels, values).reshape(3, 40)
    below = torch.searchsorted(levels, values, right=True).reshape(3, 40) - 1
    traps = {"values": levels[nearest], "above": above, "below": below}
    yield "nearest_level", ((values.reshape(3, 40), levels), nearest, traps)

    weight = draw(2, 128) * torch.tensor([[1.0], [5.0]])
    blocks, rows, whole = (
        library.dequantize_4bit(*library.quantize_4bit(weight, blocksize=size, quant_type="nf4"))
        for size in (64, 128, 256)
    )
    yield "round_trip", ((weight, levels, 64), blocks, {"whole": whole, "rows": rows})


def dia6() -> Cases:
    left, right = set("abcdefg"), set("efghi")
    inside = ([letter in each for letter in "abcdefghi"] for each in (left, right))
    share = 1 - scipy.spatial.distance.jaccard(*inside)
    traps = {"distance": 1 - share, "sum": 3 / 12, "dice": 6 / 12, "smaller": 3 / 5}
    yield "jaccard", ((left, right), share, traps), ((set(), set()), 0.0)

    groups, seen = random.Random(6).choices(range(12), k=60), []

    def divided(found: object) -> str:
        if not isinstance(found, list) or [x in (True, False) for x in found] != [True] * 60:
            return "other"
        if len(set(zip(groups, found, strict=True))) > len(set(groups)):
            return "broken"
        if not 15 <= sum(found) < 15 + max(map(groups.count, groups)):
            return "share"
        seen.append(found)
        if len(seen) == 2 and seen[0] != seen[1]:
            return "unstable"
        return "undrawn" * (len(seen) == 5 and seen.count(seen[0]) == 5)

    yield "split_by_group", *(((list(groups), 0.25, seed), divided) for seed in (0, 0, 1, 2, 3))

    pairs, once = [(0, 5), (3, 4), (1, 2), (4, 1), (6, 8), (2, 9)], list(range(10))
    graph = scipy.sparse.coo_array(([1] * 6, tuple(zip(*pairs, strict=True))), (10, 10))
    joined = csgraph.connected_components(graph, directed=False)[1].tolist()
    for one, other in pairs:
        once[other] = once[one]

    def grouped(found: object) -> str:
        if not isinstance(found, list):
            return "other"
        # O primeiro lugar de cada número: igual em duas numerações dos mesmos grupos.
        first, right, wrong = ([x.index(i) for i in x] for x in (found, joined, once))
        return mistake(first, right, {"broken": wrong})

    yield "families", ((10, list(pairs)), grouped)


def dia7() -> Cases:
    one, two, null = (1, "a"), (2, "b"), (None, "c")
    ordered = ([one, two], [two, one], True), False, {"ordered": True}
    unordered = ([one, null], [null, one], False), True, {"unordered": False}
    repeated = ([one, one, two], [one, two, two], False), False, {"repeated": True}
    yield "same_rows", ordered, unordered, repeated

    bank = sqlite3.connect(":memory:")
    bank.executescript("CREATE TABLE t (n INT); INSERT INTO t VALUES (1), (1), (2), (3)")
    pairs = [
        ("SELECT n FROM t WHERE n < 3", "SELECT n FROM t WHERE n <= 2"),
        ("SELECT n FROM t ORDER BY n DESC", "SELECT n FROM t"),
        ("SELECT n FROM t ORDER BY n DESC", "SELECT n FROM t ORDER BY n"),
        ("SELECT DISTINCT n FROM t", "SELECT n FROM t"),
        ("SELECT m FROM t", "SELECT n FROM t"),
        ("SELECT COUNT(*) FROM t", "SELECT COUNT(n) FROM t"),
        ("SELECT n FROM t WHERE n > 5", "SELECT n FROM t WHERE n = 2"),
    ]
    traps = {"text": 0, "ordered": 2 / 7, "unordered": 4 / 7, "count": 3, "skipped": 3 / 6}
    yield "execution_accuracy", ((bank, pairs), 3 / 7, traps)

    cases = []
    for hits, total in ((8, 10), (0, 340), (23, 23)):
        low, high = scipy.stats.binomtest(hits, total).proportion_ci(method="wilson")
        share = hits / total
        half = 1.959964 * math.sqrt(share * (1 - share) / total)
        cases.append(((hits, total), (low, high), {"wald": (share - half, share + half)}))
    yield "wilson", *cases


if __name__ == "__main__":
    sys.exit(run_main(main, ARGS))
