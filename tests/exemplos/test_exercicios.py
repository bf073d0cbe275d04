"""Os exercícios: as soluções passam, e cada engano comum ouve o que lhe falta."""

import inspect
import math
import runpy
import shutil
import sys
from pathlib import Path

from comum.conversations import DATA_DIR

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

import conferir
import receita

FOLDER = conferir.HERE


def scale_of(weight):
    return weight.abs().amax(1, keepdim=True) / 127


# (função, resposta errada, o que a dica tem de dizer)
MISTAKES = [
    ("answer_labels", lambda p, a: p + a, "o prompt entrou na perda"),
    ("answer_labels", lambda p, a: [-100] * (len(p) - 1) + a + [-100], "andam uma casa"),
    (
        "next_token_loss",
        lambda p, y: -sum(math.log(r[t]) for r, t in zip(p, y, strict=True) if t >= 0) / 5,
        "compara com o próprio t",
    ),
    ("surprise", lambda z, t: -math.log(math.exp(z[t]) / sum(map(math.exp, z))), "OverflowError"),
    ("lora_parameters", lambda i, o, r: r * i * o, "as contagens se somam"),
    ("lora_forward", lambda x, w, a, b, al: x @ w.T + x @ a.T @ b.T, "faltou a escala"),
    ("lora_forward", lambda x, w, a, b, al: x @ w.T + al * x @ a.T @ b.T, "só α"),
    ("lora_gradients", lambda x, a, b, al, g: ((g @ b).T @ x, g.T @ (x @ a.T)), "α/r"),
    ("perplexity", cross_entropy, "falta exp"),
    ("train_step", lambda m, x, y, o: cross_entropy(m(x), y).item(), "não saíram do lugar"),
    (
        "train_step",
        lambda m, x, y, o: [v := cross_entropy(m(x), y), v.backward(), o.step()][0].item(),
        "zero_grad",
    ),
    (
        "adamw_step",
        lambda w, g, m, v, s, lr, d: (
            w - lr * d * w - lr * (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g**2).sqrt(),
            0.9 * m + 0.1 * g,
            0.999 * v + 0.001 * g**2,
        ),
        "faltou corrigir",
    ),
    ("merge", lambda w, a, b, al: w + b @ a, "faltou a escala"),
    ("merge", lambda w, a, b, al: w + a @ b, "RuntimeError"),
    (
        "trainable",
        lambda sizes, t, r: r * sum(sum(s) for n, s in sizes.items() if n.endswith(tuple(t))),
        "faq_proj não é q_proj",
    ),
    ("extract_lora", lambda d, r: (torch.zeros(6, 2), torch.zeros(2, 9)), "nesta ordem"),
    ("merge", lambda w, a, b, al: None, "e o return?"),
    ("absmax_int8", lambda w: ((w / scale_of(w)).char(), scale_of(w)), "sem arredondar"),
    ("absmax_int8", lambda w: ((w / scale_of(w)).round(), scale_of(w)), "torch.int8"),
    ("nearest_level", lambda v, levels: torch.searchsorted(levels, v), "nível de cima"),
    (
        "nearest_level",
        lambda v, levels: torch.searchsorted(levels, v, right=True) - 1,
        "nível de baixo",
    ),
    ("nearest_level", print, "e o return?"),
    (
        "extract_lora",
        lambda d, r: (torch.zeros(2, 9, dtype=torch.float64), torch.zeros(6, 2)),
        "torch.linalg.svd",
    ),
    (
        "round_trip",
        lambda w, levels, b: (
            levels[(w[..., None] / w.abs().max() - levels).abs().argmin(-1)] * w.abs().max()
        ),
        "uma só para tudo",
    ),
    ("jaccard", lambda x, y: len(x & y) / (len(x) + len(y)), "conta uma vez só"),
    ("jaccard", lambda x, y: len(x & y) / len(x | y), "ZeroDivisionError"),
    ("split_by_group", lambda g, s, seed: [i < 15 for i in range(60)], "dos dois lados"),
    ("split_by_group", lambda g, s, seed: [[x < 4] for x in g], "uma lista de True e False"),
    ("split_by_group", lambda g, s, seed: [x < 1 for x in g], "menos que `share`"),
    ("split_by_group", lambda g, s, seed: [x < 4 for x in g], "falta o sorteio"),
    ("families", lambda n, pairs: list(range(n)), "grupo de cada texto"),
    ("same_rows", lambda x, y, o: x == y, "a ordem não conta"),
    ("same_rows", lambda x, y, ordered: x == y if ordered else set(x) == set(y), "repetidas"),
    (
        "execution_accuracy",
        lambda bank, pairs: sum(bank.execute(a) == bank.execute(b) for a, b in pairs) / 7,
        "OperationalError",
    ),
    (
        "wilson",
        lambda h, n: tuple(h / n + z * math.sqrt(h / n * (1 - h / n) / n) for z in (-1.96, 1.96)),
        "encolhe a zero",
    ),
    ("wilson", lambda h, n: sys.exit(0), "SystemExit"),
]


@pytest.mark.parametrize("day", conferir.STUBS)
def test_solutions_pass_and_stubs_wait_to_be_written(day, capsys):
    stub = FOLDER / conferir.STUBS[day]
    assert conferir.check_day(day, FOLDER / "solucoes" / f"{day}.py") == 3
    assert conferir.UNWRITTEN not in capsys.readouterr().out
    assert conferir.check_day(day, stub) == 0
    said = capsys.readouterr().out
    assert said.count(conferir.UNWRITTEN) == 3
    assert [level in said for level in ("fácil", "médio", "desafio")] == [True] * 3


@pytest.mark.parametrize(
    ("name", "answer", "hint"), MISTAKES, ids=[f"{m[0]}-{m[2]}" for m in MISTAKES]
)
def test_a_common_mistake_hears_what_is_wrong(name, answer, hint):
    day = f"dia{1 + list(conferir.HINTS).index(name) // 3}"
    cases = next(cases for found, *cases in getattr(conferir, day)() if found == name)
    mark, said = conferir.verdict(answer, conferir.HINTS[name], cases, Path(__file__))
    assert mark == conferir.WRONG
    assert hint in said


def test_every_hint_belongs_to_an_exercise():
    names = [name for day in conferir.STUBS for name, *_ in getattr(conferir, day)()]
    assert names == list(conferir.HINTS)
    source = inspect.getsource(conferir)
    for hints in conferir.HINTS.values():
        assert [key for key in hints if f'"{key}"' not in source] == []


def test_an_error_is_told_in_a_sentence_with_its_line(tmp_path, capsys):
    broken = tmp_path / "dia1_mascara.py"
    broken.write_text("def answer_labels(prompt, answer)\n    return 1\n", encoding="utf-8")
    assert conferir.check_day("dia1", broken) == 0
    assert "o arquivo não roda: SyntaxError na linha 1" in capsys.readouterr().out
    broken.write_text("def answer_labels(prompt, answer):\n\n    return prompt[9]\n", "utf-8")
    conferir.check_day("dia1", broken)
    said = capsys.readouterr().out
    assert "parou com IndexError na linha 3" in said
    assert said.count("não achei esta função") == 2


def test_checking_writes_nothing_and_exits_with_zero_only_when_all_is_right(
    tmp_path, monkeypatch, capsys
):
    """Como quem o digita; neste processo, que já tem o torch carregado."""
    folder = shutil.copytree(FOLDER, tmp_path / "exercicios")

    def run(day: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["conferir.py", day])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(folder / "conferir.py"), run_name="__main__")
        return done.value.code, *capsys.readouterr()

    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = written()
    assert run("dia6")[0] == 1 and written() == before
    shutil.copy(FOLDER / "solucoes" / "dia6.py", folder / "dia6_dividir.py")
    code, said, error = run("dia6")
    assert (code, error) == (0, "") and "3 de 3 certos" in said
    code, _, error = run("dia9")
    assert code == 2 and "escolha entre" in error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recipe_runs_with_and_without_bf16(tiny_llama, tmp_path, monkeypatch, capsys, dtype):
    """Num processador com bf16 e sem GPU ela parava ao montar o SFTConfig."""
    monkeypatch.setattr(receita, "DEFAULT_MODEL", tiny_llama)
    monkeypatch.setattr(receita, "OUTPUT", tmp_path / "receita")
    monkeypatch.setattr("comum.models.compute_dtype", lambda: dtype)
    receita.main()
    assert "  depois: " in capsys.readouterr().out
    assert (tmp_path / "receita" / "model.safetensors").is_file()


@pytest.mark.model
def test_the_command_line_recipe_masks_as_the_lessons_do():
    """O template de treino escreve o mesmo texto, e marca como resposta o que `encode` marca."""
    from comum.conversations import encode, read_conversations
    from comum.models import load_tokenizer
    from comum.paths import DEFAULT_MODEL

    recipe = yaml.safe_load((FOLDER / "receita.yaml").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(str(DEFAULT_MODEL))
    template = (FOLDER.parents[1] / recipe["chat_template_path"]).read_text(encoding="utf-8")
    for messages in read_conversations(DATA_DIR / "atendimento_treino.jsonl", 20):
        row = encode(tokenizer, messages)
        found = tokenizer.apply_chat_template(
            messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        size = len(row["input_ids"])
        assert found["input_ids"][:size] == row["input_ids"]
        assert [bool(x) for x in found["assistant_masks"][:size]] == [x >= 0 for x in row["labels"]]
