"""Dia 3: a lição inteira num modelo minúsculo, e as medidas contra contas feitas de outro jeito."""

import json
import math
import re
import subprocess
import sys
import unicodedata

import exemplo_01_fine_tuning_basico as lesson
import medidas
import numpy
import plano_memoria
import pytest
import torch
import utils  # noqa: F401  (antes do torch)
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq

CONVERSATION = [
    {"role": "user", "content": "Qual o prazo de troca?"},
    {"role": "assistant", "content": "São 30 dias corridos, com etiqueta."},
]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Roda a lição com os argumentos dados; devolve o resultado gravado."""

    def run_lesson(model, *extra):
        monkeypatch.setattr(utils, "RESULTS_DIR", tmp_path / "resultados")
        command = ["exemplo_01.py", "--quick", "--model", str(model),
                   "--output", str(tmp_path / "modelo"), *map(str, extra)]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        lesson.main()
        return json.loads((tmp_path / "resultados" / "dia3_full_quick.json").read_text("utf-8"))

    return run_lesson


def test_the_whole_lesson_on_a_tiny_llama(run, tiny_llama, tmp_path, capsys):
    result = run(tiny_llama, "--learning-rate", "1e-2")
    shown = capsys.readouterr().out
    before, after = result["metricas"]["antes"], result["metricas"]["depois"]
    assert after["perplexidade_token"]["valor"] < before["perplexidade_token"]["valor"]
    for scores in (before, after):
        for name, score in scores.items():
            low, high = score["ic95"]
            assert low <= score["valor"] + 1e-9 and score["valor"] <= high + 1e-9, name
    assert "fora da perda" in shown and "respostas iguais depois de recarregar: sim" in shown
    assert (tmp_path / "modelo" / "model.safetensors").is_file()
    assert (tmp_path / "resultados" / "dia3_full_quick.png").stat().st_size > 0
    memory = result["memoria_mib"]
    for part in ("pesos", "gradientes", "otimizador"):
        assert memory["medido"][part] == pytest.approx(memory["previsto"][part], rel=0.02)


def test_the_script_in_its_own_process(lesson_process, tiny_llama, tmp_path):
    done = lesson_process(lesson.__file__, "--quick", "--model", tiny_llama,
                          "--output", tmp_path / "modelo")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "respostas iguais depois de recarregar: sim" in done.stdout
    assert (tmp_path / "resultados" / "dia3_full_quick.json").is_file()
    assert "make experimentos" in done.stdout.splitlines()[-1]
    assert "perda de validação" in done.stdout and "'loss'" not in done.stdout


def test_a_gpt2_without_template_or_pad_takes_the_same_path(run, tiny_gpt2, capsys):
    result = run(tiny_gpt2)
    assert result["metricas"]["depois"]["perplexidade_token"]["n"] == lesson.QUICK["test"]
    assert "preenchimento: '<|endoftext|>'" not in capsys.readouterr().out, "pad não pode ser eos"


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_the_loss_covers_the_answer_and_its_end_only(fixture, request):
    tokenizer = utils.load_tokenizer(str(request.getfixturevalue(fixture)))
    row = medidas.encode(tokenizer, CONVERSATION)
    learned = [t for t in row["labels"] if t != medidas.IGNORED]
    assert learned[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(learned[:-1]) == CONVERSATION[-1]["content"]
    assert len(row["labels"]) == len(row["input_ids"]) == len(row["attention_mask"])


def test_scores_equal_one_conversation_at_a_time(tiny_llama):
    """O lote com preenchimento dá as notas de uma conta simples, sem lote."""
    tokenizer, model = utils.load_tokenizer(str(tiny_llama)), utils.load_model(str(tiny_llama))
    conversations = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", 7)
    found = medidas.answer_scores(model, tokenizer, conversations, batch_size=3)
    nats = tokens = sizes = hits = 0
    for messages in conversations:
        row = medidas.encode(tokenizer, messages)
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"])[1:]
        nats += functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels >= 0).sum())
        hits += int((logits.argmax(-1) == labels).sum())
        sizes += len(messages[-1]["content"].encode())
    assert found["perplexidade_token"]["valor"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found["perplexidade_byte"]["valor"] == pytest.approx(math.exp(nats / sizes), rel=1e-4)
    assert found["acuracia_proximo_token"]["valor"] == pytest.approx(hits / tokens)


def test_greedy_answers_do_not_depend_on_the_batch(tiny_llama):
    tokenizer, model = utils.load_tokenizer(str(tiny_llama)), utils.load_model(str(tiny_llama))
    conversations = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", 5)
    alone = medidas.greedy_answers(model, tokenizer, conversations, 12, batch_size=1)
    assert medidas.greedy_answers(model, tokenizer, conversations, 12, batch_size=5) == alone


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_the_answer_loss_is_the_loss_of_the_library(fixture, request):
    """Pular os logits do prompt não muda a perda nem os gradientes."""
    name = str(request.getfixturevalue(fixture))
    tokenizer = utils.load_tokenizer(name)
    conversations = utils.read_conversations(utils.DATA_DIR / "atendimento_teste.jsonl", 5)
    rows = [medidas.encode(tokenizer, messages) for messages in conversations]
    batch = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)(rows)
    found = []
    for loss_of in (lambda model: model(**batch).loss, lambda m: medidas.answer_loss(m, batch)):
        model = utils.load_model(name).eval()
        loss = loss_of(model)
        loss.backward()
        found.append((loss.item(), model.get_input_embeddings().weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)


def test_bleu_is_the_score_of_the_command_line_of_sacrebleu(tmp_path):
    answers = ["O prazo de troca é de 30 dias corridos.", "O frete sai grátis acima de R$ 199.",
               "Não sei dizer, desculpe."]  # fmt: skip
    references = ["O prazo para troca é de 30 dias corridos, com etiqueta.",
                  "O frete é grátis a partir de R$ 199.",
                  "A garantia cobre defeito de fábrica."]  # fmt: skip
    for name, lines in (("saida", answers), ("referencia", references)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "referencia", "-i", tmp_path / "saida"]
    done = subprocess.run([*command, "-m", "bleu", "-w", "6"], capture_output=True, text=True)
    shown = json.loads(done.stdout)
    found = medidas.bleu(answers, references)
    assert found["valor"] == pytest.approx(shown["score"], abs=1e-5) and shown["score"] > 10
    # A nossa assinatura só acrescenta o bootstrap (bs e seed).
    assert set(shown["signature"].split("|")) <= set(found["assinatura"].split("|"))


def test_batches_of_similar_length_lose_nothing_and_keep_no_order():
    rng = numpy.random.default_rng(0)
    rows = [{"input_ids": [0] * int(n)} for n in rng.integers(5, 200, 100)]
    batches = medidas.SimilarLengths(rows, 4, seed=1)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 25 and first != second
    assert sorted(i for batch in first for i in batch) == list(range(100))
    spread = [max(batch) - min(batch) for batch in
              ([len(rows[i]["input_ids"]) for i in batch] for batch in first)]  # fmt: skip
    assert numpy.mean(spread) < 40, "ao acaso, a diferença média passaria de 100"
    means = [numpy.mean([len(rows[i]["input_ids"]) for i in batch]) for batch in first]
    assert abs(numpy.corrcoef(means, range(25))[0, 1]) < 0.5
    assert list(medidas.SimilarLengths(rows, 4, seed=1)) == first


def test_bootstrap_interval_covers_the_true_mean():
    """Em 200 amostras de média 2, o intervalo de 95% cobre a média perto de 95% das vezes."""
    rng = numpy.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = medidas.ratio(rng.exponential(2, 80), numpy.ones(80), seed=seed)["ic95"]
        covered += low <= 2 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_activation_memory_grows_with_the_batch_as_predicted(tiny_llama):
    model = utils.load_model(str(tiny_llama))
    model.config._attn_implementation = "sdpa"
    for examples, length in ((4, 64), (8, 64), (8, 128)):
        ids = torch.randint(3, 500, (examples, length))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        measured = plano_memoria.measure(model, batch)
        answers = examples * (length - 1)  # o primeiro token ninguém prevê
        predicted = plano_memoria.predict(model.config, "completo float32", ids.numel(), answers)
        assert measured["ativações"] == pytest.approx(predicted["ativações"], rel=0.35)
        assert measured["gradientes"] == pytest.approx(predicted["gradientes"], rel=1e-3)


def test_measuring_memory_leaves_the_model_as_it_was(tiny_llama):
    model = utils.load_model(str(tiny_llama))
    before = {name: p.clone() for name, p in model.named_parameters()}
    ids = torch.randint(3, 500, (2, 16))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    plano_memoria.measure(model, batch)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "line",
    ["não é JSON", "{}", '{"messages": []}', '{"messages": [{"role": "user", "content": "oi"}]}',
     '{"messages": [{"role": "assistant", "content": " "}]}', '{"messages": 3}', "[]"],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "conversas.jsonl"
    good = json.dumps({"messages": CONVERSATION}, ensure_ascii=False)
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(utils.UserError, match="linha 2"):
        utils.read_conversations(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--modelo", "x"], "argumento desconhecido"),
        (["--epochs", "muitas"], "--epochs: "),
        (["--model", "pasta/que/nao/existe"], "não consegui carregar o modelo"),
        (["--data", "pasta/que/nao/existe"], "não existe"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tiny_llama, arguments, sentence):
    if "--model" not in arguments:
        arguments = ["--model", str(tiny_llama), *arguments]
    monkeypatch.setattr(sys, "argv", ["exemplo_01.py", "--quick", *arguments])
    with pytest.raises(SystemExit) as caught:
        utils.run_main(lesson.main)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in error and "Traceback" not in error


def test_reserved_messages_have_no_near_twin_in_training():
    """Nenhuma mensagem reservada divide metade das palavras com uma do treino."""
    words = {
        name: [set(words_of(m[0]["content"])) for m in utils.read_conversations(
            utils.DATA_DIR / f"atendimento_{name}.jsonl")]
        for name in ("treino", "validacao", "teste")
    }  # fmt: skip
    assert [len(part) for part in words.values()] == [410, 50, 90]
    for name, others in (("validacao", ["treino"]), ("teste", ["treino", "validacao"])):
        for message in words[name]:
            for other in (o for part in others for o in words[part]):
                assert len(message & other) < 0.5 * len(message | other), (message, other)


def words_of(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain)
