"""Dia 3: a lição inteira num modelo minúsculo, e as medidas contra contas feitas de outro jeito."""

import json
import math

from comum import conversations, memory_plan, tracking
from comum.conversations import DATA_DIR, read_conversations
from comum.memory import measure_step
from comum.models import load_model, load_tokenizer
from comum.paths import DEFAULT_MODEL
from comum.results import Day3
from comum.scoring import answer_scores
from comum.terminal import UserError
from comum.text import jaccard, words
from comum.training import IGNORED, answer_loss

import pytest
import torch
from torch.nn import functional

import exemplo_01_fine_tuning_basico as lesson

CONVERSATION = [
    {"role": "user", "content": "Qual o prazo de troca?"},
    {"role": "assistant", "content": "São 30 dias corridos, com etiqueta."},
]


@pytest.fixture
def run(results, tmp_path):
    """Roda a lição com os argumentos dados; devolve o resultado gravado."""

    def run_lesson(model, *extra, name="dia3_full_quick") -> Day3:
        command = ["--quick", "--model", str(model), "--output", str(tmp_path / "modelo"), *extra]
        lesson.main(lesson.arguments(command))
        return Day3.load(results / f"{name}.json")

    return run_lesson


@pytest.fixture
def tiny(tiny_llama):
    """O modelo minúsculo, o tokenizador e 24 conversas em tokens."""
    tokenizer, model = load_tokenizer(str(tiny_llama)), load_model(str(tiny_llama))
    texts = read_conversations(DATA_DIR / "atendimento_treino.jsonl", 24)
    return model, tokenizer, [lesson.mask(tokenizer, messages) for messages in texts]


def training(*extra):
    """As opções de um treino chamado direto."""
    return lesson.arguments(["--batch-size", "4", "--learning-rate", "1e-2", *extra])


def test_the_whole_lesson_on_a_tiny_llama(run, results, tiny_llama, tmp_path, capsys):
    result = run(tiny_llama, "--learning-rate", "1e-2")
    shown = capsys.readouterr().out
    assert result.after["perplexity_token"].value < result.before["perplexity_token"].value
    assert list(result.after) == list(lesson.SCORES)
    for scores in (result.before, result.after):
        for name, score in scores.items():
            assert score.ci95[0] <= score.value + 1e-9 and score.value <= score.ci95[1] + 1e-9, name
    for piece in ("fora da perda: ", "respostas iguais depois de recarregar: sim", "make experi"):
        assert piece in shown
    assert shown.count("  antes:  ") == shown.count("  depois: ") == len(conversations.PROMPTS)
    assert "perda de validação" in shown and "conferir.py dia3" in shown
    assert (tmp_path / "modelo" / "model.safetensors").is_file()
    assert (results / "dia3_full_quick.png").stat().st_size > 0
    for part in ("weights", "gradients", "optimizer"):
        predicted = getattr(result.memory_predicted, part)
        assert getattr(result.memory_measured, part) == pytest.approx(predicted, rel=0.02)


def test_a_gpt2_without_template_or_pad_takes_the_same_path_and_keeps_apart(run, tiny_gpt2, capsys):
    result = run(tiny_gpt2, "--name", "outra", name="dia3_full_quick_outra")
    assert result.after["perplexity_token"].n == lesson.QUICK["test"]
    assert "preenchimento: '<|endoftext|>'" not in capsys.readouterr().out, "pad não pode ser eos"


def test_each_name_has_its_folder():
    folders = [lesson.arguments(a).output.name for a in ([], ["--quick"], ["--name", "lr_alto"])]
    assert folders == ["dia3", "dia3-curto", "dia3-lr_alto"]


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_the_loss_covers_the_answer_and_its_end_only(fixture, request):
    tokenizer = load_tokenizer(str(request.getfixturevalue(fixture)))
    row = lesson.mask(tokenizer, CONVERSATION)
    learned = [token for token in row["labels"] if token != IGNORED]
    assert learned[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(learned[:-1]) == CONVERSATION[-1]["content"]
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])


def test_an_answer_of_one_word_is_shown_too(tiny, capsys):
    """Só há dois tokens na perda, e a lista não passa do fim nem se repete."""
    model, tokenizer, _ = tiny
    short = [CONVERSATION[0], {"role": "assistant", "content": "a"}]
    lesson.show_example(tokenizer, model, lesson.mask(tokenizer, short))
    assert capsys.readouterr().out.count("  token ") == 5


def test_a_text_too_short_to_measure_is_said(tiny):
    with pytest.raises(UserError, match="é curto para medir"):
        lesson.text_perplexity(*tiny[:2], "Era uma vez.")


def test_a_mask_unlike_the_shared_one_stops_the_lesson(tiny_llama, monkeypatch):
    """Uma conferência que não pode falhar não confere nada."""
    monkeypatch.setattr(lesson, "IGNORED", 0)
    with pytest.raises(UserError, match="a máscara escrita à mão difere"):
        lesson.mask(load_tokenizer(str(tiny_llama)), CONVERSATION)


def test_scores_equal_one_conversation_at_a_time(tiny):
    """O lote com preenchimento dá as notas de uma conta simples, sem lote."""
    model, tokenizer, _ = tiny
    texts = read_conversations(DATA_DIR / "atendimento_teste.jsonl", 7)
    rows, answers = [lesson.mask(tokenizer, m) for m in texts], [m[-1]["content"] for m in texts]
    found = answer_scores(model, tokenizer, rows, answers, batch_size=3)
    nats = tokens = hits = 0
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"])[1:]
        nats += functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels != IGNORED).sum())
        hits += int((logits.argmax(-1) == labels).sum())
    sizes = sum(len(answer.encode()) for answer in answers)
    assert found["perplexity_token"].value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found["perplexity_byte"].value == pytest.approx(math.exp(nats / sizes), rel=1e-4)
    assert found["next_token_accuracy"].value == pytest.approx(hits / tokens)


def test_training_learns_and_the_same_seed_repeats_it(tiny_llama, tiny):
    _, tokenizer, rows = tiny
    curves = []
    for _ in range(2):
        model = load_model(str(tiny_llama))
        curves.append(lesson.fine_tune(model, tokenizer, rows, rows[:4], training())[0])
    losses = [point.eval_loss for point in curves[0] if point.eval_loss]
    assert curves[0] == curves[1] and losses[-1] < math.log(600)


@pytest.mark.parametrize("epochs", ["0.1", "0.5"])
def test_a_training_of_few_steps_teaches_and_has_a_curve(tiny, epochs):
    """Com 1 passo, o da subida do learning_rate, que parte do zero, o modelo ficava como estava."""
    model, tokenizer, rows = tiny
    before = model.get_input_embeddings().weight.clone()
    curve, _ = lesson.fine_tune(model, tokenizer, rows, rows[:4], training("--epochs", epochs))
    assert not torch.equal(before, model.get_input_embeddings().weight)
    assert [point.step for point in curve if point.loss] == [math.ceil(6 * float(epochs))]


def test_ctrl_c_stops_the_training_and_keeps_what_was_learnt(tiny, monkeypatch, capsys):
    model, tokenizer, rows = tiny
    before = model.get_input_embeddings().weight.clone()
    calls = iter(range(100))

    def loss(*args, **options):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return answer_loss(*args, **options)

    monkeypatch.setattr(lesson, "answer_loss", loss)
    lesson.fine_tune(model, tokenizer, rows, rows[:4], training())
    assert "Treino encerrado no passo 4; sigo com o aprendido." in capsys.readouterr().out
    assert not torch.equal(before, model.get_input_embeddings().weight)


def test_training_stops_when_validation_worsens_and_returns_to_the_best(tiny, monkeypatch, capsys):
    model, tokenizer, rows = tiny
    losses, seen = iter([3.0, 2.0, 2.5, 2.4, 1.0]), []

    def validation_loss(model, *args):
        seen.append(model.get_input_embeddings().weight.clone())
        return next(losses)

    monkeypatch.setattr(lesson, "validation_loss", validation_loss)
    monkeypatch.setattr(lesson, "EVAL_EVERY", 1)
    curve, _ = lesson.fine_tune(model, tokenizer, rows, rows[:4], training("--epochs", "3"))
    assert [point.eval_loss for point in curve] == [3.0, 2.0, 2.5, 2.4]
    assert torch.equal(model.get_input_embeddings().weight, seen[1])
    assert "2 avaliações sem melhora" in capsys.readouterr().out


def test_every_pass_is_another_shuffle_of_all():
    stream = lesson.endless_batches([{"input_ids": [0] * (5 + 7 * n % 90)} for n in range(100)], 4)
    first, second = ([next(stream) for _ in range(25)] for _ in range(2))
    assert first != second and sorted(sum(first, [])) == sorted(sum(second, [])) == [*range(100)]


def test_activation_memory_grows_with_the_batch_as_predicted(tiny):
    model = tiny[0]
    for examples, length in ((4, 64), (8, 64), (8, 128)):
        ids = torch.randint(3, 500, (examples, length))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        measured = measure_step(model, batch, answer_loss)
        answers = examples * (length - 1)  # o primeiro token ninguém prevê
        predicted = memory_plan.predict(model.config, "full float32", ids.numel(), answers)
        assert measured.activations == pytest.approx(predicted.activations, rel=0.35)
        assert measured.gradients == pytest.approx(predicted.gradients, rel=1e-3)


def test_measuring_memory_leaves_the_model_as_it_was(tiny):
    model, tokenizer, rows = tiny
    before = {name: p.clone() for name, p in model.named_parameters()}
    measure_step(model, lesson.batch_of(rows[:2], tokenizer, model), answer_loss)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.model
def test_the_memory_of_the_default_model_is_predicted_within_a_tenth():
    tokenizer, model = load_tokenizer(str(DEFAULT_MODEL)), load_model(str(DEFAULT_MODEL))
    texts = read_conversations(DATA_DIR / "atendimento_treino.jsonl", 2)
    batch = lesson.batch_of([lesson.mask(tokenizer, m) for m in texts], tokenizer, model)
    predicted, measured = lesson.check_memory(model, batch)
    for part, value in predicted:
        assert getattr(measured, part) == pytest.approx(value, rel=0.1), part


@pytest.mark.parametrize(
    "line",
    [
        "não é JSON",
        "{}",
        '{"messages": [{"role": "user", "content": "oi"}]}',
        '{"messages": [{"role": "assistant", "content": " "}]}',
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "conversas.jsonl"
    good = json.dumps({"messages": CONVERSATION}, ensure_ascii=False)
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="linha 2"):
        read_conversations(path)


def test_a_missing_tracking_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for kind in tracking.TRACKERS[1:]:
        with pytest.raises(UserError, match=f"pip install {kind}"):
            tracking.tracker(kind, "treino")


def test_reserved_messages_have_no_near_twin_in_training():
    """Nenhuma mensagem reservada divide metade das palavras com uma do treino."""
    found = {}
    for name in ("treino", "validacao", "teste"):
        texts = read_conversations(DATA_DIR / f"atendimento_{name}.jsonl")
        found[name] = [set(words(messages[0]["content"])) for messages in texts]
    assert [len(part) for part in found.values()] == [410, 50, 90]
    for name, others in (("validacao", ["treino"]), ("teste", ["treino", "validacao"])):
        for message in found[name]:
            for other in (o for part in others for o in found[part]):
                assert jaccard(message, other) < 0.5, (message, other)
