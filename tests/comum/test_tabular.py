"""O leitor das duas metades: toda linha sai, inteira ou com o motivo; o arquivo ruim diz qual."""

import io
import json
import zipfile
from unicodedata import normalize

from comum.conversations import read_conversations, turns_of
from comum.tabular import read_table, unwritable
from comum.terminal import UserError

import pytest

ROWS = [
    {"pergunta": "não chegou, e agora?", "preço": "12,50"},
    {"pergunta": 'diz "ação"\ne é só', "preço": "3"},
    {"pergunta": "às 10h", "preço": ""},
]


def csv_text(delimiter=",", end="\n"):
    cells = [list(ROWS[0]), *(row.values() for row in ROWS)]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in line] for line in cells]
    return "".join(delimiter.join(line) + end for line in quoted)


def jsonl_text():
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


SOURCES = {
    "csv": ("a.csv", csv_text().encode()),
    "ponto e vírgula": ("a.csv", csv_text(";", "\r\n").encode("utf-8-sig")),
    "excel": ("a.csv", ("sep=;\r\n" + csv_text(";", "\r\n")).encode("cp1252")),
    "linhas em branco antes": ("a.csv", ("\n\n" + csv_text()).encode()),
    "tsv": ("a.tsv", csv_text("\t").encode()),
    "colunas vazias": ("a.csv", csv_text(end=",,\n").encode()),
    "cp1252": ("a.csv", csv_text(end="\r\n").encode("cp1252")),
    "mac_roman": ("a.csv", csv_text().encode("mac_roman")),
    "cp850": ("a.csv", csv_text().encode("cp850")),
    "utf-16": ("a.csv", csv_text().encode("utf-16")),
    "cabeçalho em nfd": ("a.csv", normalize("NFD", csv_text()).encode()),
    "jsonl": ("a.jsonl", jsonl_text().encode()),
    "jsonl em cp1252": ("a.jsonl", jsonl_text().encode("cp1252")),
    "chaves em nfd": ("a.jsonl", normalize("NFD", jsonl_text()).encode()),
    "crlf e bom": ("a.ndjson", jsonl_text().replace("\n", "\r\n").encode("utf-8-sig")),
    "lista": ("a.json", json.dumps(ROWS).encode()),
    "lista num jsonl": ("a.jsonl", json.dumps(ROWS, indent=1).encode()),
    "objetos de várias linhas": (
        "a.json",
        "\n".join(json.dumps(r, indent=2) for r in ROWS).encode(),
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    name, content = SOURCES[kind]
    (tmp_path / name).write_bytes(content)
    found = list(read_table(tmp_path / name))
    assert not any(record.problem for record in found)
    same = [{k: normalize("NFC", v) for k, v in record.values.items()} for record in found]
    assert same == ROWS
    assert [list(record.values) for record in found] == [list(ROWS[0])] * 3


def test_the_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    assert [record.line for record in read_table(path)] == [2, 6, 10]
    path = tmp_path / "a.csv"
    path.write_text(csv_text(), encoding="utf-8")
    assert [record.line for record in read_table(path)] == [2, 3, 5]


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("a.csv", "só um campo", "1 campos em vez de 2"),
        ("a.csv", "a,b,c", "3 campos em vez de 2"),
        ("a.csv", '"aspas" demais,b', "aspas sem par"),
        ("a.csv", "x" * 200_000 + ",b", "não é CSV"),
        ("a.jsonl", '{"pergunta": "oi", ', "não é JSON"),
        ("a.jsonl", '["oi", "olá"]', "não é um objeto JSON"),
        ("a.jsonl", "null", "não é um objeto JSON"),
        ("a.jsonl", "[" * 100_000, "não é JSON"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "não é JSON"),
        ("a.jsonl", '{"a": 1, "b": 2, "a": 3}', "a chave a aparece duas vezes"),
        ("a.jsonl", '{"a": [{"x": 1, "x": 2}]}', "a chave x aparece duas vezes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_line_says_why_and_the_others_are_kept(tmp_path, name, line, reason, first):
    """Mesmo que seja a primeira."""
    text = csv_text() if name == "a.csv" else jsonl_text()
    head, rest = text.split("\n", 1) if name == "a.csv" else ("", text)
    lines = [head, *([line, rest] if first else [rest + line])]
    (tmp_path / name).write_text("\n".join(filter(None, lines)) + "\n", encoding="utf-8")
    found = list(read_table(tmp_path / name))
    (bad,) = [record for record in found if record.problem]
    assert reason in bad.problem and len(found) == 4
    assert [record.values for record in found if not record.problem] == ROWS


def test_a_line_in_another_encoding_is_marked_and_the_file_is_not_mistaken(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl_text().encode() + '{"pergunta": "é"}\n'.encode("latin-1"))
    *good, odd = read_table(path)
    assert [record.values for record in good] == ROWS and odd.values == {"pergunta": "\ufffd"}


def test_only_a_newline_ends_a_line_of_jsonl(tmp_path):
    path, odd = tmp_path / "a.jsonl", "a\u2028b\x85c\x0bd\x1ce\rf"
    path.write_bytes(
        b"".join(json.dumps({"x": odd}, ensure_ascii=e).encode() + b"\r\n" for e in (True, False))
        .replace(b", ", b",\r")
    )  # fmt: skip
    assert [record.values for record in read_table(path)] == [{"x": odd}] * 2


def spreadsheet() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    return content.getvalue()


GOOD = csv_text().encode()
REFUSED = {
    "vazio": (b" \n", "está vazio"),
    "só a marca": (b"\xef\xbb\xbf", "está vazio"),
    "coluna repetida": (GOOD.replace("preço".encode(), b"pergunta", 1), "repete a coluna pergunta"),
    "utf-16 sem marca": (GOOD.decode().encode("utf-16-le"), "bytes NUL"),
    "binário": (b"message,reply\0\0\x01\n" + GOOD, "bytes NUL"),
    "json com nome de csv": (json.dumps(ROWS).encode(), "Mude a extensão"),
    "título enorme": (b"x" * 200_000, "não é CSV"),
    "planilha": (spreadsheet(), "é um binário"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_does_not_serve_is_refused_in_one_sentence(tmp_path, content, words):
    (tmp_path / "ruim.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(read_table(tmp_path / "ruim.csv"))


@pytest.mark.parametrize(
    ("name", "encoding", "words"),
    [
        ("pasta.csv", "auto", "é uma pasta"),
        ("nada.csv", "auto", "não existe"),
        ("a.doc", "auto", "formato desconhecido"),
        ("a.csv", "klingon", "codificação 'klingon'"),
    ],
)
def test_what_is_asked_wrong_is_refused_too(tmp_path, name, encoding, words):
    (tmp_path / "pasta.csv").mkdir()
    for extension in ("csv", "doc"):
        (tmp_path / f"a.{extension}").write_bytes(GOOD)
    with pytest.raises(UserError, match=words):
        list(read_table(tmp_path / name, encoding))


def test_a_cut_list_is_not_half_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1)[:-20], encoding="utf-8")
    assert all(record.problem for record in read_table(path))


def test_what_cannot_be_kept_as_text():
    assert "meio caractere" in unwritable("a\ud83db") and "NUL" in unwritable("a\0")
    assert unwritable("👍 ação\u2028") is None


# --- conversas ------------------------------------------------------------------------------------

TURNS = [("user", "oi\ntudo?"), ("assistant", "tudo"), ("user", "e aí?"), ("assistant", "bem")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": role, "content": text} for role, text in TURNS]},
        {"conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[role], "value": text}
            for role, text in TURNS]},
        {"messages": [{"role": "user", "content": "oi"}, {"role": "user", "content": "tudo?"},
                      *({"role": role, "content": text} for role, text in TURNS[1:])]},
    ],
)  # fmt: skip
def test_chat_and_sharegpt_are_the_same_conversation(tmp_path, row):
    wanted = [{"role": role, "content": text} for role, text in TURNS]
    assert turns_of(row) == wanted
    (tmp_path / "a.json").write_text(json.dumps([row], indent=1), encoding="utf-8")
    assert read_conversations(tmp_path / "a.json") == [wanted]


@pytest.mark.parametrize(
    "row",
    [{}, {"messages": []}, {"messages": 3}, {"messages": ["oi"]},
     {"messages": [{"role": "tool", "content": "x"}]},
     {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
     {"conversations": [{"from": ["human"], "value": "x"}]}],
)  # fmt: skip
def test_what_is_not_a_conversation_says_so(row):
    with pytest.raises(ValueError, match="falas|fala de"):
        turns_of(row)
