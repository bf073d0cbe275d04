"""Dia 6: a lição inteira num modelo minúsculo, fontes de todo tipo e arquivos estragados."""

import csv
import json
import re
from types import SimpleNamespace

from comum import conversations, models, results
from comum.conversations import DATA_DIR
from comum.files import read_jsonl as rows_of
from comum.terminal import UserError

import numpy
import pyarrow
import pytest
import torch
from pyarrow import parquet

import exemplo_04_dataset_preparation as lesson
from dia6 import dataset, measures, texts

HEADER = ["message", "reply", "intent", "date"]


def accepted(folder, name="chat") -> list[dict]:
    parts = [folder / name / f"{part}.jsonl" for part in dataset.FILES.values()]
    return [row for part in parts for row in rows_of(part)]


def sample(count: int = 60) -> list[dict]:
    """Conversas limpas do treino, sem emojis, como linhas de uma tabela."""
    rows = []
    for x in rows_of(DATA_DIR / "atendimento_treino.jsonl"):
        message, reply = (turn["content"] for turn in x["messages"])
        if not texts.EMOJI.search(message):
            rows.append({"message": message, "reply": reply, "intent": x["intent"],
                         "date": "2025-03-01"})  # fmt: skip
    return rows[:count]


def write_csv(path, rows, encoding="utf-8", delimiter=",", header=None):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header or HEADER)
        writer.writerows(row.values() for row in rows)
    return path


# --- a lição --------------------------------------------------------------------------------------


def test_the_whole_lesson(day6):
    assert "[ERRADO]" not in day6.shown
    assert day6.shown.count("[certo]") == len(measures.checks())
    assert "vazamentos nos arquivos gravados: 0" in day6.shown
    found = results.Day6Training.load(day6.results / "dia6_treino_quick.json")
    for name in ("chat", "generation"):
        for scores in (found.texts[name].before, found.texts[name].after):
            for key, score in scores.items():
                low, high = score.ci95
                # O intervalo do sacreBLEU é média e desvio das sorteadas: pode não conter o valor.
                assert low - 1e-9 <= score.value <= high + 1e-9 or key == "bleu", key
    classifiers = found.classification.classifiers
    assert len(classifiers) == 6
    for entry in classifiers.values():
        assert 0 <= entry.accuracy.value <= 1 and 0 <= entry.p_against_tfidf <= 1
    assert classifiers["tfidf"].p_against_tfidf == 1
    results.Day6Data.load(day6.results / "dia6_dados_quick.json")
    assert results.Day6Metrics.load(day6.results / "dia6_metricas_quick.json").checks


def test_likelihoods_are_the_sum_of_the_label_tokens(tiny_llama):
    """Contra a conta direta, texto a texto, sem lotes nem preenchimento."""
    tokenizer = models.load_tokenizer(str(tiny_llama))
    model = models.load_model(str(tiny_llama))
    said, labels = ["quero trocar", "cadê meu pedido, que era para ontem?"], ["troca", "entrega"]
    found = measures.likelihoods(model, tokenizer, said, labels)
    for i, text in enumerate(said):
        prompt = tokenizer(measures.PROMPT.format(text)).input_ids
        for j, label in enumerate(labels):
            answer = tokenizer(f" {label}", add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            wanted = sum(logits[p, t].item() for p, t in zip(places, answer, strict=True))
            assert found[i, j] == pytest.approx(wanted, rel=1e-4)
    table = numpy.array([[0.0, 1.0], [2.0, 1.0]])
    assert measures.best(table, labels) == ["entrega", "troca"]


def test_the_plain_format_is_only_another_template(tiny_llama, tmp_path):
    plain = models.load_tokenizer(str(tiny_llama))
    plain.chat_template = lesson.PLAIN
    row = {"prompt": "Mensagem do cliente: oi\nResposta da loja:", "completion": " olá"}
    (tmp_path / "treino.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (messages,) = dataset.conversations(tmp_path, "train", 1)
    encoded = conversations.encode(plain, messages)
    assert plain.decode(encoded["input_ids"]) == row["prompt"] + " olá" + plain.eos_token


def test_cheap_classifiers():
    train = [{"text": f"trocar {x}", "label": "troca"} for x in ("blusa", "calça", "meia")]
    train += [{"text": f"cadê o pacote {x}", "label": "entrega"} for x in ("um", "dois")]
    said, *_, weights = measures.cheap(measures.bag_of_words(), train, ["trocar", "o pacote"])
    assert said == ["troca", "entrega"] and weights > 0


def test_a_single_label_leaves_nothing_to_classify(tmp_path):
    for part in dataset.FILES.values():
        write_jsonl(tmp_path / f"{part}.jsonl", [{"text": "quero trocar", "label": "troca"}] * 3)
    with pytest.raises(UserError, match="só tem o rótulo troca"):
        measures.classify(tmp_path, SimpleNamespace(labelled=None), None, None)


def test_a_mark_of_the_template_typed_by_a_customer_is_only_text(tiny_llama):
    tokenizer = models.load_tokenizer(str(tiny_llama))
    row = measures.encode(tokenizer, "oi <|im_end|> tchau", "troca", True)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1
    assert "<|im_end|>" in tokenizer.decode(row["input_ids"][:-1])


# --- fontes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "messages", "sharegpt"])
def test_every_kind_of_source_gives_the_same_data(prepare, tmp_path, kind):
    """As codificações, os separadores e as listas estão em tests/comum/test_tabular.py."""
    rows, path = sample(), tmp_path / "fonte.json"
    names = ("role", "content", "user", "assistant")
    names = ("from", "value", "human", "gpt") if kind == "sharegpt" else names
    if kind == "csv":
        path = write_csv(path.with_suffix(".csv"), rows, "cp1252", ";")
    elif kind == "parquet":
        path = path.with_suffix(".parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        role, content, asks, answers = names
        turns = "conversations" if kind == "sharegpt" else "messages"
        rows = [{turns: [{role: asks, content: r["message"]},
                         {role: answers, content: r["reply"]}],
                 "intent": r["intent"]} for r in rows]  # fmt: skip
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    folder = prepare("--input", path, "--seed", "3")
    found = {row["messages"][0]["content"] for row in accepted(folder)}
    assert found == {" ".join(row["message"].split()) for row in sample()}


def test_other_column_names_and_no_replies(prepare, tmp_path):
    rows = [{"texto": r["message"], "classe": r["intent"]} for r in sample()]
    path = write_csv(tmp_path / "outra.csv", rows, header=["texto", "classe"])
    options = "--message-column texto --reply-column none --label-column classe --date-column none"
    folder = prepare("--input", path, *options.split())
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"classification"}
    assert len(accepted(folder, "classification")) == 60


def test_one_format_without_labels(prepare, tmp_path):
    path = write_csv(tmp_path / "sem.csv", sample())
    folder = prepare("--input", path, "--label-column", "none", "--format", "generation")
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"generation"}


def test_extra_footers_come_from_a_file(prepare, tmp_path):
    rows = sample()
    for row in rows[:5]:
        row["reply"] += "\nVisite nossas lojas físicas!"
    patterns = tmp_path / "rodapes.txt"
    patterns.write_text("Visite nossas lojas.*\n", encoding="utf-8")
    source = write_csv(tmp_path / "r.csv", rows)
    folder = prepare("--input", source, "--boilerplate", patterns)
    assert "Visite" not in (folder / "chat" / "treino.jsonl").read_text("utf-8")
    assert sum("boilerplate" in r["kinds"] for r in rows_of(folder / "consertos.jsonl")) == 5


def test_a_second_run_replaces_the_first_and_nothing_else(prepare, tmp_path):
    options = "--input", write_csv(tmp_path / "f.csv", sample()), "--output", tmp_path / "dados"
    folder = prepare(*options)
    (folder / "chat" / "treino.jsonl").unlink()
    assert (prepare(*options) / "chat" / "treino.jsonl").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"f.csv", "dados", "resultados"}


def test_a_folder_of_someone_else_is_left_alone(prepare, tmp_path):
    (tmp_path / "tese.txt").write_text("dois anos de trabalho", encoding="utf-8")
    with pytest.raises(UserError, match="não foi feita por este programa"):
        prepare("--output", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tese.txt"]


# --- arquivos estragados --------------------------------------------------------------------------


def broken(kind: str, folder) -> tuple:
    """Um arquivo estragado de um jeito, e o que se diz dele."""
    good = write_csv(folder / "bom.csv", sample()).read_bytes()
    whole = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(sample()), whole)
    columns = "reply (--reply-column). As que há: message, resposta, intent, date"
    cut = "não é um Parquet inteiro"
    name, content, said = {
        "só o cabeçalho": ("ruim.csv", good.partition(b"\n")[0], "só tem o cabeçalho"),
        "sem a coluna": ("ruim.csv", good.replace(b"reply", b"resposta", 1), columns),
        "parquet cortado": ("ruim.parquet", whole.getvalue().to_pybytes()[:-500], cut),
        "parquet falso": ("ruim.parquet", good, cut),
    }[kind]
    (folder / name).write_bytes(content)
    return folder / name, said


@pytest.mark.parametrize(
    "kind", ["só o cabeçalho", "sem a coluna", "parquet cortado", "parquet falso"]
)
def test_a_broken_file_is_refused_in_one_sentence(prepare, tmp_path, kind):
    path, said = broken(kind, tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        prepare("--input", path, "--output", tmp_path / "dados")
    assert {p.name for p in tmp_path.iterdir()} == {"bom.csv", path.name}


def test_when_no_row_serves_each_is_still_kept_with_its_reason(prepare, tmp_path):
    """A pasta não chega a existir; as recusadas ficam ao lado de onde ela estaria."""
    empty = {"message": "oi", "reply": "", "intent": "troca"}
    path = write_jsonl(tmp_path / "ruim.jsonl", [empty] * 2)
    path.write_text(path.read_text() + '{"message": "meio \\ud83d par", "reply": "a"}\n{"mess')
    with pytest.raises(UserError, match="nenhuma linha foi aceita.*dados_rejeitados.jsonl"):
        prepare("--input", path, "--output", tmp_path / "dados")
    found = rows_of(tmp_path / "dados_rejeitados.jsonl")
    assert [(x["line"], x["reason"]) for x in found] == [
        *((1, "empty"), (2, "empty"), (3, "unreadable"), (4, "unreadable"))
    ]
    assert found[0]["original"] == empty
    assert "meio caractere" in found[2]["detail"] and "não é JSON" in found[3]["detail"]
    assert not (tmp_path / "dados").exists()


BAD_LINES = {
    '{"message": "oi", ': "não é JSON",
    '{"message": ["oi"], "reply": "a"}': "não é texto, é list",
    '{"message": "oi\\u0000", "reply": "a"}': "bytes NUL",
    '{"message": "sem resposta"}': "vazia",
    '{"message": "meio \\ud83d par", "reply": "Claro que sim."}': "meio caractere",
    '{"messages": [{"role": "tool", "content": "x"}]}': "não é texto de system",
    '{"message": "letra \ufffd perdida", "reply": "Claro que sim."}': "letras perdidas",
}


def test_broken_lines_are_reported_and_the_others_are_kept(prepare, tmp_path):
    lines = [json.dumps(row, ensure_ascii=False) for row in sample()]
    lines[20:20] = BAD_LINES
    path = tmp_path / "ruim.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = prepare("--input", path)
    entries = rows_of(folder / "rejeitados.jsonl")
    assert [entry["line"] for entry in entries] == [*range(21, 21 + len(BAD_LINES))]
    for entry, reason in zip(entries, BAD_LINES.values(), strict=True):
        assert reason in (entry["detail"] or "") + entry["explanation"]
    assert len(accepted(folder)) == len(sample())


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--boilerplate", "nao-existe.txt", "rodapés"),
        ("--encoding", "klingon", "'klingon'"),
        ("--group-column", "converssa", r"não há a coluna converssa \(--group-column\)"),
    ],
)
def test_a_bad_value_stops_the_preparation(prepare, tmp_path, option, value, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare("--input", write_csv(tmp_path / "f.csv", sample(20)), option, value)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turns(*said) -> dict:
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": roles[text[0]], "content": text[2:]} for text in said]}


def test_a_conversation_gives_a_pair_a_turn_on_one_side(prepare, tmp_path):
    rows = [turns(f"u:{x['message']}", f"a:{x['reply']}", f"u:E sobre {x['reply'][::-1]}?",
                  f"a:Sobre isso, {x['message'][::-1]}.") for x in sample(40)]  # fmt: skip
    rows[3] = turns("s:seja gentil", "u:Oi", f"u:{sample()[3]['message']}", "a:Claro.")
    rows[4] = turns("u:Quando chega o meu pedido de ontem?")
    path = write_jsonl(tmp_path / "conversas.jsonl", rows)
    folder = prepare("--input", path, "--label-column", "none")
    side_of, pairs = {}, {}
    for part in dataset.FILES.values():
        for row in rows_of(folder / "chat" / f"{part}.jsonl"):
            message, reply = (turn["content"] for turn in row["messages"])
            side_of[message], pairs[message] = part, reply
    assert pairs[f"Oi\n{sample()[3]['message']}"] == "Claro."
    (lost,) = [x for x in rows_of(folder / "rejeitados.jsonl") if x["line"] == 5]
    assert lost["reason"] == "empty"
    for x in sample(40):
        second = " ".join(f"E sobre {x['reply'][::-1]}?".split())
        if x["message"] in pairs and second in pairs:
            assert pairs[x["message"]] == " ".join(x["reply"].split())
            assert side_of[x["message"]] == side_of[second]
    assert len(pairs) > 60


def test_a_label_that_says_nothing_is_missing(prepare, tmp_path):
    rows, nothing = sample(), (float("nan"), "NaN", None, "NULL", "#N/A")
    for number, row in enumerate(rows):
        row["intent"] = nothing[number % 5] if number < 20 else "troca"
    folder = prepare("--input", write_jsonl(tmp_path / "rotulos.jsonl", rows))
    assert {row["label"] for row in accepted(folder, "classification")} == {"troca"}
    unknown = [x for x in rows_of(folder / "rejeitados.jsonl") if x["reason"] == "label_unknown"]
    assert len(unknown) == 20 and {x["excluded_from"] for x in unknown} == {"classification"}
    assert len(accepted(folder)) == 60


def test_an_empty_part_is_said_aloud(prepare, tmp_path, capsys):
    rows = [row | {"message": f"Quero saber do pedido {n} que fiz ontem na loja de vocês."}
            for n, row in enumerate(sample(12))]  # fmt: skip
    prepare("--input", write_csv(tmp_path / "iguais.csv", rows), "--near", "0.99")
    assert "Atenção: validação e teste sem nenhuma linha" in capsys.readouterr().out


def test_a_name_that_is_neither_a_file_nor_on_the_hub(prepare, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nem um conjunto com esse nome no hub"):
        prepare("--input", "nao/existe")
