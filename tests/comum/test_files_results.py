"""Arquivos gravados inteiros e resultados com forma declarada."""

import json
import re
import stat
import sys

from comum import files, results
from comum.labels import MEMORY, SCORES
from comum.paths import REFERENCE_DIR, RESULTS_DIR
from comum.terminal import UserError

import pytest

from measured_pages import FILES


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "pasta" / "notas.txt"
    files.write_text(path, "antigo")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "novo \ud800")
    assert path.read_text("utf-8") == "antigo" and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="sem permissões POSIX")
def test_a_rewritten_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "notas.txt"
    files.write_text(path, "a")
    path.chmod(0o600)
    files.write_text(path, "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_jsonl_keeps_separators_that_are_not_newlines(tmp_path):
    rows = [{"texto": "a\u2028b\x85c\r\nd ç"}, {"texto": "fim"}]
    path = tmp_path / "linhas.jsonl"
    files.write_jsonl(path, rows)
    assert files.read_jsonl(path) == rows and len(files.lines(path)) == 2
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n")  # BOM e linha em branco
    assert files.read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [(b'{"a": 1}\n{"a"', "linha 2"), (b'{"a": 1}\n[1]\n', "linha 2"), (b"\xff", "linhas.jsonl")],
)
def test_a_bad_jsonl_line_is_named(tmp_path, content, words):
    path = tmp_path / "linhas.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        files.read_jsonl(path)


def test_a_missing_or_cut_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="x.json"):
        files.read_json(path)
    path.write_text('{"a"', "utf-8")
    with pytest.raises(UserError, match="x.json"):
        files.read_json(path)


def test_a_result_is_saved_with_its_origin_and_read_back():
    check = results.MetricCheck(ours=4, library=4)
    path = results.Day6Metrics(checks={"perplexidade": check}).save("dia6_metricas", "python x.py")
    assert path == RESULTS_DIR / "dia6_metricas.json"
    found = results.Day6Metrics.load(path)
    assert found.checks == {"perplexidade": check} and found.command == "python x.py"
    assert found.machine and found.when and found.versions["torch"][0].isdigit()


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(results, "LIBRARIES", ("torch", "biblioteca_que_falta"))
    assert list(results.library_versions()) == ["torch"]


@pytest.mark.parametrize(
    "content",
    [{"conferencias": {}}, {"checks": {"x": {"ours": 1}}}, {"checks": {}, "a mais": 1}, []],
)
def test_a_result_of_another_shape_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "dia6_metricas.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match="dia6_metricas.json não tem a forma esperada"):
        results.Day6Metrics.load(path)


SHAPES = {name: shape for shape, *names in FILES.values() for name in names}
REFERENCES = sorted(path.stem for path in REFERENCE_DIR.glob("*.json"))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_has_the_declared_shapes(name):
    path = REFERENCE_DIR / f"{name}.json"
    found = SHAPES[name].load(path)
    assert found.command and found.commit and found.machine
    own = re.findall(r'["\s=](?:/\w+/|[A-Z]:\\)[^"\s]*', path.read_text("utf-8"))
    assert own == [], "caminho de uma máquina"


def test_every_part_has_a_reference():
    missing = [part for part, (_, *names) in FILES.items() if not set(names) & set(REFERENCES)]
    assert missing in ([], ["gpu"]), "a única que pede uma GPU"


def test_labels_name_what_the_results_hold():
    day3 = results.Day3.load(REFERENCE_DIR / "dia3_full.json")
    assert day3.before.keys() == day3.after.keys() <= SCORES.keys()
    assert MEMORY.keys() == results.MemoryParts.model_fields.keys()
    parts = results.MemoryParts(weights=1, gradients=2, optimizer=3, activations=4)
    assert parts.total == 10
