"""Dia 6, preparo: cada sujeira achada, contra a chave; divisão sem vazamento; os mesmos bytes."""

import csv
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path

from comum import files
from comum.conversations import DATA_DIR, read_conversations
from comum.labels import DIRT, SPLITS
from comum.terminal import UserError
from comum.text import jaccard

import datasets
import numpy
import pandas
import pytest

import exemplo_04_dataset_preparation as lesson
from dia6 import dataset, texts

KEY = Path(__file__).parents[1] / "dados" / "atendimento_bruto_chave.jsonl"
NOT_DIRT = {"decoy"}
PAIRS = {"duplicate_near", "conflict"}  # a chave diz a segunda de um par; qual sai é decisão nossa
read = files.read_jsonl


def numbers_of(folder: Path) -> dict:
    return files.read_json(folder.with_name("resultados") / "dia6_dados.json")


@pytest.fixture(scope="session")
def prepared(prepare):
    """O preparo do arquivo da lição: (pasta, números)."""
    folder = prepare()
    return folder, numbers_of(folder)


@pytest.fixture(scope="session")
def key():
    return read(KEY)


@pytest.fixture(scope="session")
def raw_rows():
    with lesson.RAW.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def rejected(prepared):
    """As rejeitadas, pelo número da linha."""
    return {x["record"]: x for x in read(prepared[0] / "rejeitados.jsonl")}


def kinds_in_key() -> list[str]:
    return sorted({entry["kind"] for entry in read(KEY)} - NOT_DIRT)


@pytest.mark.parametrize("kind", kinds_in_key())
def test_each_kind_of_dirt_is_found(prepared, key, kind):
    folder, _ = prepared
    found = {x["record"] for x in read(folder / "consertos.jsonl") if kind in x["kinds"]}
    planted = {x["row"]: x["twin"] for x in key if x["kind"] == kind}
    if kind in PAIRS:
        hits = sum(bool({row, twin} & found) for row, twin in planted.items())
        false = found - planted.keys() - set(planted.values())
    else:
        hits, false = len(planted.keys() & found), found - planted.keys()
    assert hits / len(planted) >= 0.95, sorted(planted.keys() - found)
    assert (len(found) - len(false)) / len(found) >= 0.95, sorted(false)


def test_twins_are_the_ones_in_the_key(rejected, key):
    for entry in key:
        if entry["kind"] == "duplicate_near":
            pair = sorted((entry["row"], entry["twin"]))
            assert rejected[pair[1]]["twin"] == pair[0]


def test_the_repaired_text_is_the_original(prepared, rejected, key):
    """O conserto devolve o texto que havia antes de estragar, não só um texto sem o defeito."""
    texts = {" ".join(turn["content"].split()) for name in ("treino", "validacao", "teste")
             for row in read(prepared[0] / "chat" / f"{name}.jsonl")
             for turn in row["messages"]}  # fmt: skip
    wholly = {"mojibake", "html", "emoji", "invisible", "boilerplate"}
    spoilt = ("decoy", "duplicate_near", "pii")
    other = {x["row"] for x in key if x["kind"].startswith(spoilt)} | rejected.keys()
    wanted = [x for x in key if x["kind"] in wholly and x["original"] and x["row"] not in other]
    assert len(wanted) > 60
    missed = [x["row"] for x in wanted if " ".join(x["original"].split()) not in texts]
    assert not missed


def test_decoys_stay_and_personal_data_goes(prepared, rejected, key):
    text = "".join(p.read_text("utf-8") for p in sorted((prepared[0] / "chat").glob("*.jsonl")))
    for entry in key:
        if entry["kind"] == "decoy" and entry["row"] not in rejected:
            assert entry["value"] in text
        if entry["kind"].startswith("pii"):
            assert entry["value"] not in text
    assert "@aroeira.example" in text, "o endereço da loja é público"


def test_what_is_written_beside_the_data_has_no_personal_data(prepared, key):
    """Só `rejeitados.jsonl` guarda o que veio; a ficha, o manifesto e o resultado, não."""
    folder, numbers = prepared
    names = ("ficha.md", "manifesto.json", "consertos.jsonl")
    text = "".join((folder / name).read_text("utf-8") for name in names) + json.dumps(numbers)
    assert not [x["value"] for x in key if x["kind"].startswith("pii") and x["value"] in text]


def test_every_kind_is_shown_before_and_after(day6):
    for kind, label in DIRT.items():
        if kind in kinds_in_key():
            assert f"\n{label}:\n" in day6.shown or kind == "date_format", kind


def test_no_row_is_lost(prepared, rejected, raw_rows):
    _, numbers = prepared
    out = {record for record, x in rejected.items() if x["excluded_from"] == "all"}
    kept = sum(numbers["formats"]["chat"].values())
    assert len(out) + kept == len(raw_rows) == numbers["read"]
    for entry in rejected.values():
        assert entry["reason"] in DIRT and entry["explanation"]
        assert entry["original"] == raw_rows[entry["record"]]
    only_class = len(rejected) - len(out)
    assert sum(numbers["formats"]["classification"].values()) == kept - only_class


def test_formats_say_the_same_thing(prepared):
    folder, _ = prepared
    for part, name in dataset.FILES.items():
        chat = read(folder / "chat" / f"{name}.jsonl")
        generation = read(folder / "generation" / f"{name}.jsonl")
        for one, other in zip(chat, generation, strict=True):
            message, reply = (turn["content"] for turn in one["messages"])
            assert other["prompt"] == dataset.PROMPT.format(message)
            assert other["completion"] == f" {reply}"
        said = (dataset.messages(folder / format, part) for format in ("chat", "generation"))
        assert [*next(said)] == [*next(said)]
    labels = {row["label"] for row in read(folder / "classification" / "treino.jsonl")}
    assert len(labels) == 10


def test_arrow_and_jsonl_are_the_same(prepared):
    folder, numbers = prepared
    for name, counts in numbers["formats"].items():
        loaded = datasets.load_from_disk(folder / name / "arrow")
        assert {split: len(part) for split, part in loaded.items()} == counts
        for split, file in dataset.FILES.items():
            assert loaded[split].to_list() == read(folder / name / f"{file}.jsonl")


def test_splits_are_stratified(prepared):
    labels = prepared[1]["labels"]
    for label, count in labels["test"].items():
        total = sum(labels[split][label] for split in SPLITS)
        assert abs(count - 0.15 * total) <= 1.5, label
        assert abs(labels["validation"][label] - 0.1 * total) <= 1.5, label


def test_the_same_input_gives_the_same_bytes(prepared, day6):
    """Noutro processo, com a ordem dos conjuntos do Python embaralhada de outro jeito."""
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (prepared[0], day6.data)
    )
    assert first.keys() == second.keys() and len(first) > 20
    assert [str(path) for path in first if first[path] != second[path]] == []


def test_the_manifest_tells_every_file_and_parameter(prepared):
    folder, _ = prepared
    manifest = json.loads((folder / "manifesto.json").read_text("utf-8"))
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == written - {"manifesto.json"}
    assert manifest["files"]["ficha.md"] == files.sha256(folder / "ficha.md")
    assert manifest["input"]["sha256"] == files.sha256(lesson.RAW)
    wanted = {"seed", "near", "related", "test", "validation", "max_words", "message_column"}
    assert wanted <= manifest["parameters"].keys()
    assert (folder / "figuras.png").stat().st_size > 10_000


# --- vazamento e divisão --------------------------------------------------------------------------


def test_the_leakage_check_can_fail(prepared, tmp_path):
    """Posta uma mensagem do teste no treino, mexida, a conferência tem de reclamar dela."""
    folder = shutil.copytree(prepared[0] / "chat", tmp_path / "chat")
    lesson.check_leaks(folder)
    said = [row["messages"] for row in read(folder / "teste.jsonl")]
    hidden = max(said, key=lambda messages: len(messages[0]["content"]))
    hidden[0]["content"] = "OI, " + hidden[0]["content"].upper() + " OBG"
    with (folder / "treino.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": hidden}, ensure_ascii=False) + "\n")
    with pytest.raises(UserError, match="vazamento: 1 mensagens de teste estão em treino"):
        lesson.check_leaks(folder)


def test_no_message_of_the_official_test_is_left(prepared):
    official = [lesson.word_ngrams(texts.normal(m[0]["content"]))
                for m in read_conversations(lesson.OFFICIAL)]  # fmt: skip
    for row in read(prepared[0] / "chat" / "treino.jsonl"):
        grams = lesson.word_ngrams(texts.normal(row["messages"][0]["content"]))
        assert all(len(grams & other) < 0.6 * len(other) for other in official)


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def made_up(count: int) -> list[dict]:
    """Linhas limpas e diferentes entre si."""
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijlmnopqrstuvxz", k=7)) for _ in range(900)]
    return [
        {"message": f"Quero {' '.join(rng.sample(words, 9))}.",
         "reply": f"Claro, {' '.join(rng.sample(words, 6))}.",
         "intent": ("troca", "frete")[number % 2], "cliente": f"c{number // 4}"}
        for number in range(count)
    ]  # fmt: skip


def test_one_conversation_stays_on_one_side(prepare, tmp_path):
    source = write_csv(tmp_path / "conversas.csv", made_up(200))
    folder = prepare("--input", source, "--group-column", "cliente")
    owner = {row["message"]: row["cliente"] for row in made_up(200)}
    sides = defaultdict(set)
    for split in dataset.FILES.values():
        for row in read(folder / "chat" / f"{split}.jsonl"):
            sides[owner[row["messages"][0]["content"]]].add(split)
    assert len(sides) == 50 and all(len(found) == 1 for found in sides.values())
    assert numbers_of(folder)["formats"]["chat"]["test"] in range(24, 33)


def test_relatives_stay_on_one_side(prepare, tmp_path, monkeypatch):
    """Parecidas demais para o acaso, diferentes demais para serem o mesmo pedido: ficam juntas."""
    rows = made_up(60)
    for row in rows[:20]:
        words = row["message"].split()
        extra = " ".join(word[::-1] for word in words[:5])
        rows.append(row | {"message": " ".join(words[:8]) + f" e ainda {extra}."})
    options = "--input", write_csv(tmp_path / "parentes.csv", rows), "--test", "0.3"
    numbers = numbers_of(prepare(*options))
    assert numbers["accepted"] == 80, numbers["rejected"]
    # Sem a conferência, os parentes que o Jaccard não viu se separam, e o que se gravou não passa.
    monkeypatch.setattr(lesson, "near_pairs", lambda pool, least: [])
    assert numbers_of(prepare(*options))["accepted"] == 80
    blind, real = [True], lesson.leaks
    monkeypatch.setattr(lesson, "leaks", lambda *said: [] if blind and blind.pop() else real(*said))
    with pytest.raises(UserError, match="vazamento"):
        prepare(*options)


def drawn(groups, *options) -> list[int]:
    """A parte de cada linha, todas do mesmo rótulo."""
    count = len(groups)
    facts = pandas.DataFrame({"draw": [*range(count)], "place": [0] * count})
    args = lesson.arguments([*options, "--validation", "0.1"])
    return dataset.draw(facts, numpy.array(groups), args).tolist()


def test_held_out_parts_have_a_ceiling():
    parts = drawn([*range(1000)], "--test", "0.2", "--max-held-out", "50")
    assert parts.count(2) == parts.count(1) == 50


def test_a_group_too_big_for_the_test_goes_to_training():
    parts = drawn([0] * 60 + [*range(1, 41)], "--test", "0.1")
    assert set(parts[:60]) == {0} and parts.count(2) == 10


# --- quase iguais ---------------------------------------------------------------------------------


def test_candidates_find_what_comparing_all_finds():
    rows = read_conversations(DATA_DIR / "atendimento_treino.jsonl", 150)
    said = [texts.normal(m[0]["content"]) for m in rows]
    said += [text.replace("para", "pra").replace("e", "i", 2) for text in said[:30]]
    found = dataset.minhash_pairs(datasets.Dataset.from_dict({"normal": said}), 0.58)
    found = {(a, b): likeness for a, b, likeness in found}
    assert all(a < b for a, b in found)
    grams = [texts.shingles(text) for text in said]
    every = {(a, b): jaccard(grams[a], grams[b]) for b in range(len(said)) for a in range(b)}
    similar = {pair: likeness for pair, likeness in every.items() if likeness >= 0.58}
    assert len(similar) >= 25 and found.items() <= similar.items()
    assert len(found) / len(similar) >= 0.95


def test_minhash_serves_a_bigger_file_with_the_same_result(prepare, prepared, monkeypatch):
    monkeypatch.setattr(lesson, "ALL_PAIRS", 0)
    assert numbers_of(prepare())["rejected"] == prepared[1]["rejected"]


@pytest.mark.parametrize(
    ("left", "right"),
    [("vcs entregam domingo??", "Oi, vocês entregam domingo?"),
     ("NÃO CHEGOU!!!", "nao chegou"), ("qto custa pra embrulhar", "quanto custa para embrulhar?")],
)  # fmt: skip
def test_the_normal_form_forgets_what_does_not_matter(left, right):
    assert texts.normal(left) == texts.normal(right)
    assert texts.normal("oi") == "oi", "uma saudação sozinha não some"


def test_messages_in_another_alphabet_do_not_break_it():
    said = [texts.normal(x) for x in ("где мой заказ", "где мой заказ!", "👍", "")]
    found = dataset.minhash_pairs(datasets.Dataset.from_dict({"normal": said}), 0.5)
    assert (0, 1) in {(a, b) for a, b, _ in found}


# --- consertos ------------------------------------------------------------------------------------


def repair(text: str, **options):
    return texts.repair(text, texts.boilerplate(), **options)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("não chegou\rmeu.\x0bEspero\x0cdesde\x85ontem", "não chegou meu. Espero desde ontem"),
        ("so ascii\rcola\x0bpalavras", "so ascii cola palavras"),
        ("quebrou\x07\x1b[31m hoje", "quebrou hoje"),
        ("linha\r\nseguinte", "linha\nseguinte"),
        ("um\u2028dois", "um dois"),
    ],
)
def test_old_line_breaks_become_a_space_and_control_characters_go(before, after):
    assert repair(before)[0] == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nÃ£o, entÃƒÂ£o", "não, então"),
        ("Ã\xa0s vezes, Ã‰ isso", "às vezes, É isso"),
        ("Ã¡gua e água", "água e água"),
        ("ðŸ™\x8f obrigada", "🙏 obrigada"),
        ("IRMÃ” disse", "IRMÃ” disse"),
        ("AMANHÃ… CORAÇÃO", "AMANHÃ… CORAÇÃO"),
        ("â€œaspasâ€\x9d e R$ 10", "“aspas” e R$ 10"),
    ],
)
def test_encoding_is_repaired_and_right_text_is_left_alone(before, after):
    assert texts.fix_encoding(before) == after


def test_right_portuguese_is_never_touched():
    for name in ("treino", "validacao", "teste"):
        for messages in read_conversations(DATA_DIR / f"atendimento_{name}.jsonl"):
            for turn in messages:
                text = turn["content"]
                assert texts.fix_encoding(text) == text
                assert texts.strip_html(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>Oi</p><p>tudo?</p>", "Oi\ntudo?"),
        ("Minha conta > Privacidade", "Minha conta > Privacidade"),
        ("se x <b e y> 3", "se x <b e y> 3"),
        ("N&amp;atilde;o", "Não"),
        ("AT&T, Tom & Jerry", "AT&T, Tom & Jerry"),
        ("<script>alert('x')</script>oi", "oi"),
        ('<a href="https://x.example">aqui</a>', "aqui"),
        ("tchau<|im_end|>\n<|im_start|>system", "tchau\nsystem"),
    ],
)
def test_html(before, after):
    assert texts.tidy(texts.strip_html(before)) == after


def test_a_joiner_is_kept_inside_an_emoji_and_dropped_outside():
    family = "👨‍👩‍👦"
    assert texts.strip_invisible(f"re‍duzir {family}") == f"reduzir {family}"
    assert repair(f"a{family}🤦🏽‍♀️❤️‍🔥🇧🇷b1️⃣")[0] == "ab"
    assert repair("© 2025 ™ → ½ 3") == ("© 2025 ™ → ½ 3", [])
    kept, kinds = repair("valeu 👍🏽", keep_emoji=True)
    assert kept == "valeu 👍🏽" and kinds == ["emoji"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("cpf 529.982.247-25", ["cpf"]),
        ("cpf 529.982.247-26", []),
        ("111.111.111-11", []),
        ("protocolo 52998224725", []),
        ("cnpj 11.222.333/0001-81", ["cnpj"]),
        ("11.222.333/0001-80", []),
        ("cnpj 12.ABC.345/01DE-35", ["cnpj"]),
        ("cartão 4111 1111 1111 1111", ["card"]),
        ("cartão 4111 1111 1111 1112", []),
        ("rastreio 4111111111111111", []),
        ("me liga: (11) 91234-5678", ["phone"]),
        ("no +55 48 90234 5567", ["phone"]),
        ("(20) 91234-5678", []),
        ("cep 30140-071", ["cep"]),
        ("R$ 1.249,90 em 16/07/2024 21:47", []),
        ("fulano@provedor.example e loja@aroeira.example", ["email"]),
    ],
)
def test_personal_data_and_what_only_looks_like_it(text, kinds):
    masked, found = texts.mask(text, ("aroeira.example",))
    assert [kind for kind, _ in found] == kinds
    assert (masked == text) == (not kinds)


@pytest.mark.parametrize(
    ("text", "iso"),
    [("31/12/2024", "2024-12-31"), ("31/12/24", "2024-12-31"), ("2024-12-31", "2024-12-31"),
     ("2024-12-31T10:00:00-03:00", "2024-12-31"), ("01/02/2024", "2024-02-01"),
     ("31/02/2024", None), ("ontem", None), ("", None)],
)  # fmt: skip
def test_dates_are_read_the_brazilian_way(text, iso):
    found = texts.read_date(text)
    assert (found and found.isoformat()) == iso


@pytest.mark.parametrize(
    ("label", "meant"),
    [("TROCA ", "troca"), ("Reclamação", "reclamacao"), ("pagto", "pagamento"),
     ("entregra", "entrega"), ("produtos", "produto"), ("outros", None), ("", None), ("12", None),
     ("tr", None)],
)  # fmt: skip
def test_labels_are_understood_or_left_unknown(label, meant):
    known = ["troca", "reclamacao", "pagamento", "entrega", "produto"]
    assert texts.match_label(label, known) == meant


def test_a_short_message_counts_as_the_expected_language():
    assert texts.language("ok thanks") == "pt"
    assert texts.language("where is my order? it is not here and you can see") == "en"
    assert texts.language("dónde está mi pedido, no ha llegado y quiero saber cuándo") == "es"
