"""Dia 6: a lição inteira num modelo minúsculo, fontes de todo tipo e arquivos estragados."""

import csv
import json
import os
import subprocess
import sys
import zipfile

from comum import conversations, models, results
from comum.conversations import DATA_DIR
from comum.terminal import run_main

import numpy
import pyarrow
import pytest
import torch
from pyarrow import parquet

import exemplo_04_dataset_preparation as lesson
from dia6 import dataset, measures, texts

HEADER = ["message", "reply", "intent", "date"]


@pytest.fixture
def prepare(monkeypatch, tmp_path, tiny_llama):
    """Roda `--only prep` sobre uma fonte; devolve a pasta dos dados."""

    def run(source, *extra):
        output = tmp_path / "dados"
        monkeypatch.setattr(results, "RESULTS_DIR", tmp_path / "resultados")
        command = ["--only", "prep", "--model", tiny_llama, "--output", output, "--input", source]
        args = lesson.arguments([str(part) for part in (*command, *extra)])
        if code := run_main(lesson.main, args):
            raise SystemExit(code)
        return output

    return run


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def accepted(folder, name="chat") -> list[dict]:
    files = [folder / name / f"{part}.jsonl" for part in dataset.FILES.values()]
    return [row for file in files for row in rows_of(file)]


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


def test_the_whole_lesson_in_its_own_process(tiny_llama, tmp_path):
    output, folder = tmp_path / "dados", tmp_path / "resultados"
    command = [sys.executable, lesson.__file__, "--quick", "--model", tiny_llama]
    done = subprocess.run(
        [str(part) for part in (*command, "--output", output)],
        env=os.environ | {"SEMANA06_RESULTADOS": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "[ERRADO]" not in done.stdout and "vazamentos nos arquivos gravados: 0" in done.stdout
    found = results.Day6Training.load(folder / "dia6_treino_quick.json")
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
    results.Day6Data.load(folder / "dia6_dados_quick.json")
    results.Day6Metrics.load(folder / "dia6_metricas_quick.json")


def test_training_needs_prepared_data(tmp_path, capsys):
    args = lesson.arguments(["--only", "train", "--output", str(tmp_path / "nada")])
    assert run_main(lesson.main, args) == 2
    assert "--only prep" in capsys.readouterr().err


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
    assert measures.majority(train, ["a", "b"])[0] == ["troca", "troca"]
    said, *_, weights = measures.bag_of_words(train, ["quero trocar", "o pacote sumiu"])
    assert said == ["troca", "entrega"] and weights > 0


# --- fontes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["csv", "ponto e vírgula", "tsv", "jsonl", "parquet", "cp1252", "mac_roman", "utf-16",
     "utf-16-le", "messages"],
)  # fmt: skip
def test_every_kind_of_source_gives_the_same_data(prepare, tmp_path, kind):
    rows, extra = sample(), ["--seed", "3"]
    path = tmp_path / f"fonte.{kind if kind in ('tsv', 'jsonl', 'parquet') else 'csv'}"
    if kind in ("cp1252", "mac_roman", "utf-16", "utf-16-le"):
        write_csv(path, rows, encoding=kind)
        # As outras se reconhecem sozinhas.
        extra += ["--encoding", kind] if kind == "utf-16-le" else []
    elif kind == "ponto e vírgula":
        write_csv(path, rows, encoding="utf-8-sig", delimiter=";")
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind in ("jsonl", "messages"):
        path = path.with_suffix(".jsonl")
        if kind == "messages":
            rows = [{"messages": [{"role": "user", "content": r["message"]},
                                  {"role": "assistant", "content": r["reply"]}],
                     "intent": r["intent"]} for r in rows]  # fmt: skip
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    else:
        write_csv(path, rows, delimiter="\t" if kind == "tsv" else ",")
    folder = prepare(path, *extra)
    found = {row["messages"][0]["content"] for row in accepted(folder)}
    assert found == {" ".join(row["message"].split()) for row in sample()}


def test_other_column_names_and_no_replies(prepare, tmp_path):
    rows = [{"texto": r["message"], "classe": r["intent"]} for r in sample()]
    path = write_csv(tmp_path / "outra.csv", rows, header=["texto", "classe"])
    folder = prepare(path, "--message-column", "texto", "--reply-column", "none",
                     "--label-column", "classe", "--date-column", "none")  # fmt: skip
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"classification"}
    assert len(accepted(folder, "classification")) == 60


def test_one_format_without_labels(prepare, tmp_path):
    path = write_csv(tmp_path / "sem.csv", sample())
    folder = prepare(path, "--label-column", "none", "--format", "generation")
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"generation"}


def test_extra_footers_come_from_a_file(prepare, tmp_path):
    rows = sample()
    for row in rows[:5]:
        row["reply"] += "\nVisite nossas lojas físicas!"
    patterns = tmp_path / "rodapes.txt"
    patterns.write_text("Visite nossas lojas.*\n", encoding="utf-8")
    folder = prepare(write_csv(tmp_path / "r.csv", rows), "--boilerplate", patterns)
    assert "Visite" not in (folder / "chat" / "treino.jsonl").read_text("utf-8")
    assert sum("boilerplate" in r["kinds"] for r in rows_of(folder / "consertos.jsonl")) == 5


def test_a_second_run_replaces_the_first_and_nothing_else(prepare, tmp_path):
    path = write_csv(tmp_path / "f.csv", sample())
    folder = prepare(path)
    (folder / "chat" / "treino.jsonl").unlink()
    assert (prepare(path) / "chat" / "treino.jsonl").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"f.csv", "dados", "resultados"}


def test_a_folder_of_someone_else_is_left_alone(prepare, tmp_path, capsys):
    mine = tmp_path / "dados"
    mine.mkdir()
    (mine / "tese.txt").write_text("dois anos de trabalho", encoding="utf-8")
    with pytest.raises(SystemExit):
        prepare(write_csv(tmp_path / "f.csv", sample()))
    assert "não foi feita por este programa" in capsys.readouterr().err
    assert [p.name for p in mine.iterdir()] == ["tese.txt"]


# --- arquivos estragados --------------------------------------------------------------------------


def broken(kind: str, folder):
    """Escreve um arquivo estragado de um jeito; devolve o caminho."""
    path = folder / "ruim.csv"
    good = write_csv(folder / "bom.csv", sample()).read_bytes()
    if kind == "vazio":
        path.write_bytes(b"")
    elif kind == "só o cabeçalho":
        path.write_bytes(good.splitlines(keepends=True)[0])
    elif kind == "aspas abertas":
        path.write_bytes(good + b'"sem fim,resposta,troca,2025-01-01\n')
    elif kind == "coluna repetida":
        path.write_bytes(good.replace(b"date", b"message", 1))
    elif kind == "sem a coluna":
        path.write_bytes(good.replace(b"reply", b"resposta", 1))
    elif kind == "utf-16 sem marca":
        path.write_bytes(good.decode().encode("utf-16-le"))
    elif kind == "duas codificações":
        path.write_bytes(good + "não,sei,troca,2025-01-01\n".encode("cp1252"))
    elif kind == "planilha":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("xl/workbook.xml", "<x/>")
    elif kind == "binário":
        path.write_bytes(b"message,reply\0\0\x01\n" + good)
    elif kind == "json com nome de csv":
        path.write_text(json.dumps(sample()), encoding="utf-8")
    elif kind == "extensão":
        path = folder / "ruim.doc"
        path.write_bytes(good)
    elif kind == "parquet cortado":
        path = folder / "ruim.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(sample()), path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "parquet falso":
        path = folder / "ruim.parquet"
        path.write_bytes(good)
    elif kind == "lista num jsonl":
        path = folder / "ruim.jsonl"
        path.write_text(json.dumps(sample(), indent=1), encoding="utf-8")
    elif kind == "pasta":
        path = folder / "ruim"
        path.mkdir()
    elif kind == "não existe":
        path = folder / "nada.csv"
    return path


REFUSED = {
    "vazio": "está vazio",
    "só o cabeçalho": "só tem o cabeçalho",
    "aspas abertas": "linha 62: as aspas não fecham",
    "coluna repetida": "repete a coluna message",
    "sem a coluna": "reply (--reply-column). As que há: message, resposta, intent, date",
    "utf-16 sem marca": "--encoding utf-16",
    "duas codificações": "--encoding cp1252",
    "planilha": "é um binário (planilha, zip?)",
    "binário": "bytes NUL",
    "json com nome de csv": "é JSON. Mude a extensão",
    "extensão": "só .csv, .tsv, .jsonl ou .parquet",
    "parquet cortado": "não é um Parquet inteiro",
    "parquet falso": "não é um Parquet inteiro",
    "lista num jsonl": "nenhuma linha",
    "pasta": "é uma pasta",
    "não existe": "não existe",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_broken_file_is_refused_in_one_sentence(prepare, tmp_path, capsys, kind):
    with pytest.raises(SystemExit) as caught:
        prepare(broken(kind, tmp_path))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and REFUSED[kind] in error, error
    assert error.count("Erro: ") == 1 and "Traceback" not in error
    assert not (tmp_path / "dados").exists()


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("ruim.csv", "só um campo", "1 campos em vez de 4"),
        ("ruim.csv", "a,b,c,d,e", "5 campos em vez de 4"),
        ("ruim.csv", "", "linha em branco"),
        ("ruim.csv", "oi\0,resposta,troca,2025-01-01", "bytes NUL"),
        ("ruim.jsonl", '{"message": "oi", ', "JSON inválido"),
        ("ruim.jsonl", '["oi", "olá"]', "não é um objeto JSON"),
        ("ruim.jsonl", '{"message": ["oi"], "reply": "a"}', "não é texto, é list"),
        ("ruim.jsonl", "[" * 100_000, "JSON inválido"),
        ("ruim.jsonl", "", "linha em branco"),
        ("ruim.jsonl", '{"message": "sem resposta"}', "vazia"),
        (
            "ruim.jsonl",
            '{"message": "meio \\ud83d par", "reply": "Claro que sim."}',
            "meio caractere",
        ),
        ("ruim.jsonl", '{"message": "oi", "reply": "a", "message": "b"}', "chave message aparece"),
    ],
)
def test_a_broken_line_is_reported_and_the_others_are_kept(prepare, tmp_path, name, line, reason):
    path = tmp_path / name
    rows = sample()
    if name.endswith("csv"):
        lines = write_csv(path, rows).read_text("utf-8").splitlines()
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    at = 21
    lines.insert(at - 1, line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = prepare(path)
    (entry,) = rows_of(folder / "rejeitados.jsonl")
    assert entry["line"] == at and reason in (entry["detail"] or "") + entry["explanation"]
    assert len(accepted(folder)) == len(rows)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--validation", "0.6", "--test", "0.5"], "juntas"),
        (["--near", "0.2"], "--related não pode ser maior"),
        (["--format", "sql"], "valor inválido"),
        (["--reply-column", "none", "--format", "chat"], "é preciso a coluna reply"),
        (["--boilerplate", "nao-existe.txt"], "rodapés"),
        (["--encoding", "klingon"], "codificação 'klingon'"),
    ],
)
def test_bad_options_are_one_sentence(prepare, tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        prepare(write_csv(tmp_path / "f.csv", sample(20)), *arguments)
    assert caught.value.code == 2 and sentence in capsys.readouterr().err


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
    folder = prepare(write_jsonl(tmp_path / "conversas.jsonl", rows), "--label-column", "none")
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
    rows = sample()
    for number, row in enumerate(rows):
        row["intent"] = (float("nan"), None, "NULL", "None")[number % 4] if number < 20 else "troca"
    folder = prepare(write_jsonl(tmp_path / "rotulos.jsonl", rows))
    assert {row["label"] for row in accepted(folder, "classification")} == {"troca"}
    unknown = [x for x in rows_of(folder / "rejeitados.jsonl") if x["reason"] == "label_unknown"]
    assert len(unknown) == 20 and {x["excluded_from"] for x in unknown} == {"classification"}
    assert len(accepted(folder)) == 60


def test_empty_columns_without_a_name_are_ignored(prepare, tmp_path):
    rows = [row | {"a": "", "b": ""} for row in sample()]
    path = write_csv(tmp_path / "vazias.csv", rows, header=[*HEADER, "", ""])
    assert len(accepted(prepare(path))) == 60


def test_a_name_that_is_neither_a_file_nor_on_the_hub(prepare, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit):
        prepare("nao/existe")
    assert "nem um conjunto com esse nome no hub" in capsys.readouterr().err
