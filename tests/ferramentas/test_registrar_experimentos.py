"""O caderno de quem estuda: blocos preenchidos, o resto intacto, cadernos estragados recusados."""

import json
import random
import re
import shutil
import stat
import sys

from comum.labels import MEMORY, SCORES
from comum.paths import REFERENCE_DIR, WEEK_DIR
from comum.terminal import run_main

import pytest

import registrar_experimentos as recorder

BOOK = """# Meu caderno

Antes de tudo: ação, coração, 🦜 e um traço – assim.

<!-- medidas: dia3 -->
<!-- /medidas: dia3 -->

Minhas notas do dia 3:   \n
- [x] medi | e olhei <b>tudo</b>
- [ ] falta   \t

<!-- medidas: dia4 -->
<!-- /medidas: dia4 -->

| minha | tabela |
|---|---|
| 1 | 2 |

<!-- um comentário meu -->

<!-- medidas: dia5 -->
<!-- /medidas: dia5 -->

Fim.
"""
MARKED = re.compile(
    r"(<!-- medidas: \w+)( soma: [0-9a-f]{8})? -->.*?(<!-- /medidas: \w+ -->)", re.S
)


def measured(value, low, high):
    return {"value": value, "ci95": [low, high], "n": 90}


def day3(after=6.5574, **more):
    before = {key: measured(10.0, 9.0, 11.0) for key in list(SCORES)[:6]}
    return {
        "when": "2026-11-25T07:34:59+00:00",
        "command": "python exemplo_01_fine_tuning_basico.py",
        "commit": "1716689",
        "machine": {"system": "Linux", "processor": "Um CPU", "threads": 2},
        "versions": {"torch": "2.13.0"},
        "model": "x",
        "seed": 6,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "parameters": 134_515_008,
        "train_minutes": 2.7,
        "before": before,
        "after": before | {"perplexity_token": measured(after, 6.1, 7.1)},
        "memory_tokens": 1552,
        "memory_predicted": dict.fromkeys(MEMORY, 100),
        "memory_measured": dict.fromkeys(MEMORY, 100),
        "curve": [{"step": 5, "loss": 3.5}, {"step": 52, "eval_loss": 1.976}],
    } | more


@pytest.fixture
def desk(tmp_path):
    """Uma mesa: o caderno, resultados do dia 3 e nenhuma referência."""

    class Desk:
        book = tmp_path / "experimentos.md"
        results = tmp_path / "resultados"
        reference = tmp_path / "referencia"

        def write(self, content: str | bytes) -> bytes:
            data = content if isinstance(content, bytes) else content.encode()
            self.book.write_bytes(data)
            return data

        def result(self, name: str, data: dict, folder=None) -> None:
            text = json.dumps(data, ensure_ascii=False)
            ((folder or self.results) / f"{name}.json").write_text(text, "utf-8")

        def files(self) -> dict:
            """Cada arquivo da mesa, com a data e o conteúdo."""
            paths = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
            return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

        def page(self, folder) -> str:
            return (folder / "README.md").read_text("utf-8")

        def run(self, *options: str, book=None) -> int:
            places = {"book": book or self.book, "results": self.results}
            places["reference"] = self.reference
            flags = [part for name, path in places.items() for part in (f"--{name}", str(path))]
            return run_main(recorder.main, [*flags, *options])

        def outside(self, text: str) -> str:
            """O que não é nosso: tudo fora dos blocos, com as marcas sem a soma."""
            return MARKED.sub(r"\1 -->\3", text)

    desk = Desk()
    desk.results.mkdir()
    desk.reference.mkdir()
    desk.result("dia3_full", day3())
    desk.write(BOOK)
    return desk


# --- o que faz ------------------------------------------------------------------------------------


def test_fills_the_block_and_says_which_command_is_missing(desk, capsys):
    assert desk.run() == 0
    text = desk.book.read_text("utf-8")
    assert "| Perplexity | 10,00 [9,00; 11,00] | 6,56 [6,10; 7,10] | −34,4% |" in text
    assert "Medido em 25/11/2026: [todos os números](resultados/README.md#dia-3)" in text
    assert "ainda não medido: `make dia4`" in text and "| Rank |  |  |  |  |" in text
    assert "mudou: dia3, dia4, dia5" in capsys.readouterr().out


def test_a_second_run_changes_nothing_and_writes_nothing(desk, capsys):
    desk.run()
    before = desk.files()
    capsys.readouterr()
    assert desk.run() == 0 and desk.files() == before
    assert "tudo em dia" in capsys.readouterr().out


def test_a_new_result_replaces_only_its_block(desk, capsys):
    desk.run()
    before = desk.book.read_text("utf-8")
    desk.result("dia3_full", day3(after=5.0))
    capsys.readouterr()
    desk.run()
    after = desk.book.read_text("utf-8")
    changed = [b for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 2 and "5,00" in changed[1]  # a marca, com a soma, e a linha da tabela
    assert "mudou: dia3, resultados/README.md\n" in capsys.readouterr().out


def test_every_backup_is_what_there_was(desk):
    first = desk.book.read_bytes()
    desk.run()
    second = desk.book.read_bytes()
    desk.result("dia3_full", day3(after=5.0))
    desk.run()
    backups = [desk.book.with_name(f"experimentos.md.bak{n}") for n in ("", 1)]
    assert [path.read_bytes() for path in backups] == [first, second]
    assert {path.name for path in desk.book.parent.glob("*.*")} == {
        *("experimentos.md", "experimentos.md.bak", "experimentos.md.bak1")
    }


def test_check_writes_nothing(desk):
    before = desk.files()
    assert desk.run("--check") == 1 and desk.files() == before
    desk.run()
    assert desk.run("--check") == 0


def test_the_book_has_only_my_numbers_and_each_folder_its_page(desk):
    desk.result("dia3_full", day3(after=7.0), desk.reference)
    desk.run()
    mine, ours = desk.page(desk.results), desk.page(desk.reference)
    for text in (desk.book.read_text("utf-8"), mine):
        assert "6,56 [6,10; 7,10]" in text and "7,00 [6,10; 7,10]" not in text
    assert "7,00 [6,10; 7,10]" in ours and "6,56 [6,10; 7,10]" not in ours
    assert "[^day3]: `python exemplo_01_fine_tuning_basico.py`, 25/11/2026, Um CPU" in ours


def test_our_numbers_stay_out_of_the_book_until_mine_are_there(desk):
    desk.run("--save-reference")
    (desk.results / "dia3_full.json").unlink()
    desk.run()
    text = desk.book.read_text("utf-8")
    assert "ainda não medido: `make dia3`" in text
    assert "6,56" not in text and "referencia" not in text
    assert "6,56" in desk.page(desk.reference)
    assert not (desk.results / "README.md").exists()


def test_the_reference_has_no_paths_of_this_machine(desk):
    desk.result("dia3_full", day3(model=str(WEEK_DIR / "modelos" / "dia3")))
    old = desk.book.read_bytes()
    desk.run("--save-reference")
    saved = json.loads((desk.reference / "dia3_full.json").read_text("utf-8"))
    assert saved["model"] == "modelos/dia3"
    assert desk.book.read_bytes() == old


def test_the_short_run_stands_in_for_the_full_one_but_is_no_reference(desk):
    short = day3(command="python exemplo_01_fine_tuning_basico.py --quick")
    (desk.results / "dia3_full.json").unlink()
    desk.result("dia3_full_quick", short)
    desk.run()
    text = desk.book.read_text("utf-8")
    assert "6,56 [6,10; 7,10]" in text and "25/11/2026 (rodada curta)" in text
    desk.run("--save-reference")
    assert [path.name for path in desk.reference.iterdir()] == ["README.md"]


def test_the_short_study_is_said_to_be_short(desk):
    """Ele é o padrão: o comando que se digitou não tem a palavra."""
    study = json.loads((REFERENCE_DIR / "dia4_estudo_full.json").read_text("utf-8"))
    short = study | {"level": "quick", "command": "python dia4/estudo.py"}
    desk.result("dia4_estudo_quick", short)
    desk.run()
    assert "`python dia4/estudo.py`, 25/11/2026 (rodada curta)" in desk.page(desk.results)


def test_what_a_run_did_not_measure_becomes_a_dash(desk):
    desk.result("dia3_full", day3(curve=[]))
    desk.run()
    assert "a menor perda de validação, –, no passo –" in desk.page(desk.results)


def test_text_from_a_result_cannot_break_the_book_nor_a_table(desk):
    desk.write("<!-- medidas: dia6 -->\n<!-- /medidas: dia6 -->\n")
    data = json.loads((REFERENCE_DIR / "dia6_dados.json").read_text("utf-8"))
    desk.result("dia6_dados", data | {"source": "a <!-- /medidas: dia6 --> b"})
    checks = {"a | b\nc": True}
    desk.result("dia4_lora", {"model": "x", "seed": 6, "checks": checks, "runs": {}})
    assert desk.run() == 0 and desk.run("--check") == 0
    assert "`a &lt;!-- /medidas: dia6 --&gt; b`" in desk.book.read_text("utf-8")
    assert "| a \\| b c | certo |" in desk.page(desk.results)


def test_a_gpu_that_was_measured_has_its_table(desk):
    row = {"step": "qlora", "outcome": "certo", "seconds": 31.2, "measured": 812.4}
    desk.result("gpu", {"rows": [row]})
    desk.run()
    assert "| qlora | certo | 31 | – | 812 | – |" in desk.page(desk.results)


def lora_run(r, perplexity, **settings):
    """O LoRA do dia 4, com outro posto e outra perplexidade de validação."""
    result = json.loads((REFERENCE_DIR / "dia4_lora.json").read_text("utf-8"))
    run = result["runs"]["lora"]
    run["settings"] |= {"r": r} | settings
    run["validation"]["perplexity_token"]["value"] = perplexity
    return result | {"runs": {"lora": run}}


def test_hyperparameters_come_from_every_named_run_that_compares(desk):
    desk.write("<!-- medidas: dia4 -->\n<!-- /medidas: dia4 -->\n")
    for r, perplexity in ((4, 9.5), (8, 7.25), (16, 8.5), (64, 8.0)):
        desk.result(f"dia4_lora_posto{r}", lora_run(r, perplexity))
    # Com menos conversas, a perplexidade é outra coisa: não entra na mesma linha.
    desk.result("dia4_lora_curto", lora_run(2, 1.0, train_examples=16))
    desk.run()
    text = desk.book.read_text("utf-8")
    assert "| Rank | 8: 7,25 | 16: 8,50 | 64: 8,00 | 8 |" in text
    assert "| Alpha | 32: 7,25 |  |  | – |" in text
    assert "- Full fine-tuning: \n- LoRA: 4.829 MiB no pico do processo" in text
    assert "| posto64 | LoRA | 64 |" in desk.page(desk.results)


def test_a_full_set_of_my_own_results_keeps_the_book_short(desk):
    blank = (WEEK_DIR / "experimentos.md").read_text("utf-8")
    desk.write(blank)
    for path in REFERENCE_DIR.glob("*.json"):
        shutil.copy(path, desk.results)
    assert desk.run() == 0 and desk.run("--check") == 0
    text = desk.book.read_text("utf-8")
    assert len(text.splitlines()) < 450
    assert "ainda não medido" not in text and desk.outside(text) == desk.outside(blank)
    for block in MARKED.finditer(text):
        assert len(block[0].splitlines()) < 25
    tables = [line for line in desk.page(desk.results).splitlines() if line.startswith("|")]
    # Rótulos para pessoas: nenhuma chave dos JSON fora das crases; p nunca zero (só a KL do fp32).
    bare = re.sub(r"`[^`]*`", "", "\n".join(tables))
    assert re.findall(r"[a-z]{2,}_[a-z]+|\d\.\d{1,2}\b|\| 0,000 \|", bare) == ["| 0,000 |"]


def test_a_part_of_a_measure_is_enough(desk):
    desk.write("".join(f"<!-- medidas: {x} -->\n<!-- /medidas: {x} -->\n" for x in recorder.DAYS))
    kept = {"mini_projeto_pronto_test": ("variants", "base com esquema")}
    kept |= {"dia4_lora": ("runs", "lora"), "dia5_quantizacao": ("techniques", "fp32")}
    for name, (key, part) in kept.items():
        data = json.loads((REFERENCE_DIR / f"{name}.json").read_text("utf-8"))
        data |= {key: {part: data[key][part]}}
        for other in {"training", "against_trained", "base_against_trained", "qlora"} & data.keys():
            data[other] = {} if other in ("against_trained", "qlora") else None
        desk.result(name, data)
    assert desk.run() == 0
    text = desk.book.read_text("utf-8")
    assert "| Fine-tuning | – | – | – | – |" in text and "| GPTQ | – | – | – |" in text
    assert "- Full fine-tuning: \n" in text and "para – %" in text


def test_permissions_and_links_are_kept(desk, tmp_path):
    if sys.platform == "win32":
        pytest.skip("sem permissões nem atalhos POSIX")
    desk.book.chmod(0o640)
    link = tmp_path / "atalho.md"
    link.symlink_to(desk.book)
    desk.run(book=link)
    assert link.is_symlink() and "6,56" in desk.book.read_text("utf-8")
    assert stat.S_IMODE(desk.book.stat().st_mode) == 0o640


# --- cadernos editados: preenche, e tudo o que é de quem estuda fica ------------------------------


def turned(text: str) -> str:
    """As mesmas tabelas, da última para a primeira."""
    found = [m[0] for m in MARKED.finditer(text)]
    return MARKED.sub(lambda m: found.pop(), text)


def aligned(text: str) -> str:
    """As tabelas como um formatador as deixaria: colunas alinhadas, traços compridos."""

    def wider(row: re.Match) -> str:
        return row[0].replace("---", " ------- ").replace(" | ", "   |  ")

    return re.sub(r"(?m)^\|.*\|$", wider, text)


EDITED = {
    "crlf": lambda t: t.replace("\n", "\r\n"),
    "bom": lambda t: "\ufeff" + t,
    "bom before a mark": lambda t: "\ufeff" + t[t.index("<!-- medidas") :],
    "no newline at the end": lambda t: t.rstrip("\n"),
    "the mark is the last thing": lambda t: t[: t.index("\n\nFim.")],
    "mixed newlines": lambda t: t.replace("\n\n", "\r\n\n"),
    "old mac newlines": lambda t: t.replace("\n", "\r"),
    "trailing spaces after marks": lambda t: t.replace(" -->", " -->  \t"),
    "indented marks": lambda t: t.replace("<!-- ", "   <!-- "),
    "strange separators": lambda t: t.replace("Fim.", "a\u2028b\x0bc\x0cd\x85e\x1cf\u200bg\x00h"),
    "a table removed": lambda t: MARKED.sub("", t, count=1),
    "tables in another order": turned,
    "aligned by a formatter": aligned,
    "blank lines taken out": lambda t: t.replace("-->\n\n|", "-->\n|").replace("|\n\n<", "|\n<"),
    "talking about a table": lambda t: t.replace("Fim.", "A medidas: dia3 -> ver a de cima."),
    "marks with nothing between": lambda t: MARKED.sub(r"\1 -->\n\3", t),
    "only my own text": lambda t: "sem marca nenhuma\r\n\r",
    "empty": lambda t: "",
}


@pytest.mark.parametrize("filled", [False, True], ids=["before filling", "after filling"])
@pytest.mark.parametrize("kind", EDITED)
def test_an_edited_book_is_filled_and_keeps_every_byte(desk, kind, filled):
    if filled:
        desk.run()
    edited = EDITED[kind](desk.book.read_bytes().decode())
    data = desk.write(edited)
    desk.result("dia3_full", day3(after=4.0))
    assert desk.run() == 0
    after = desk.book.read_bytes().decode()
    assert desk.outside(after) == desk.outside(data.decode())
    if "medidas: dia3" in MARKED.sub(r"\1\3", edited):
        assert "4,00 [6,10; 7,10]" in after
    assert desk.run("--check") == 0
    if kind == "crlf":
        assert after.count("\n") == after.count("\r\n")


# --- cadernos estragados: nada muda, e a mensagem diz onde ----------------------------------------

OPEN, CLOSE = "<!-- medidas: dia4", "<!-- /medidas: dia4 -->"


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def without_line(text: str, piece: str) -> str:
    return "".join(line for line in text.splitlines(True) if piece not in line)


# Cada um: o estrago, um trecho na linha que a mensagem tem de apontar, e palavras dela.
DAMAGED = {
    "opening deleted": (lambda t: without_line(t, OPEN), CLOSE, "não está aberto"),
    "closing deleted": (lambda t: without_line(t, CLOSE), OPEN, "não fecha"),
    "last closing deleted": (lambda t: without_line(t, "<!-- /medidas: dia5"),
                             "<!-- medidas: dia5", "não fecha"),
    "cut in the middle of a table": (lambda t: t[: t.index(CLOSE)], OPEN, "não fecha"),
    "a table twice": (lambda t: t + MARKED.search(t)[0] + "\n", None, "já apareceu"),
    "one table inside another": (
        lambda t: t.replace(CLOSE, "").replace("Fim.", CLOSE), OPEN, "não fecha"),
    "marks crossed": (
        lambda t: t.replace(CLOSE, "X").replace("<!-- /medidas: dia5 -->", CLOSE)
                   .replace("X", "<!-- /medidas: dia5 -->"),
        "<!-- /medidas: dia5 -->", "não está aberto"),
    "a name misspelt": (lambda t: t.replace("medidas: dia4", "medidas: dia4s"),
                        "dia4s", "não conheço o bloco `dia4s`"),
    "closing misspelt": (lambda t: t.replace(CLOSE, "<!-- /medidas: dia3_memori -->"),
                         "dia3_memori -->", "não está aberto"),
    "mark not closed": (lambda t: t.replace(CLOSE, "<!-- /medidas: dia4"),
                        "<!-- /medidas: dia4", "parece uma marca estragada"),
    "mark without its beginning": (lambda t: t.replace(CLOSE, "/medidas: dia4 -->"),
                                   "/medidas: dia4 -->", "parece uma marca estragada"),
    "text on the line of a mark": (lambda t: t.replace(CLOSE, CLOSE + " ver depois"),
                                   CLOSE, "parece uma marca estragada"),
    "mark in a quotation": (lambda t: t.replace(CLOSE, "> " + CLOSE), CLOSE, "parece uma marca"),
    "mark in capitals": (lambda t: t.replace(CLOSE, CLOSE.upper()), CLOSE.upper(), "parece uma"),
    "mark retyped": (lambda t: t.replace(CLOSE, "<!--/medidas:dia4-->"),
                     "<!--/medidas:dia4-->", "parece uma marca estragada"),
    "word lost from a mark": (lambda t: t.replace(CLOSE, "<!-- /dia4 -->"),
                              "<!-- /dia4 -->", "parece uma marca estragada"),
    "marks joined on one line": (lambda t: re.sub(r"\s*" + re.escape(CLOSE), " " + CLOSE, t),
                                 CLOSE, "parece uma marca estragada"),
}  # fmt: skip


@pytest.mark.parametrize("filled", [False, True], ids=["before filling", "after filling"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_marks_are_refused_with_the_line(desk, capsys, kind, filled):
    if filled:
        desk.run()
    damage, piece, words = DAMAGED[kind]
    text = damage(desk.book.read_text("utf-8"))
    desk.write(text)
    before = desk.files()
    assert desk.run() == 2 and desk.files() == before
    message = capsys.readouterr().err
    line = line_of(text, piece) if piece else text.count("\n") - MARKED.search(text)[0].count("\n")
    assert f"{desk.book}:{line}: " in message and words in message


END = "\n<!-- /medidas: dia3"
INSIDE = {
    "a row added": lambda t: t.replace("| BLEU", "| minha conta | 1 | 2 | 3 | 4 |\n| BLEU"),
    "a cell changed": lambda t: t.replace("6,56 [", "6,60 (conferir!) ["),
    "a note below": lambda t: t.replace(END, "Que queda!\n" + END),
    "a note above": lambda t: t.replace("| Métrica", "Olhei.\n\n| Métrica", 1),
    "the checksum changed": lambda t: re.sub(r"(dia3 soma: )\w+", r"\g<1>00000000", t),
    "the checksum removed": lambda t: re.sub(r"dia3 soma: \w+", "dia3", t),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_text_written_inside_a_table_is_never_overwritten(desk, capsys, kind):
    desk.run()
    desk.write(INSIDE[kind](desk.book.read_text("utf-8")))
    desk.result("dia3_full", day3(after=4.0))
    before = desk.files()
    assert desk.run() == 2 and desk.files() == before
    message = capsys.readouterr().err
    assert f"{desk.book}:6: dentro do bloco `dia3`" in message and "marca de fim" in message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (BOOK.encode("latin-1", "replace"), 3),
        (BOOK.encode("utf-16"), 1),
        (BOOK.encode() + b"\n\xff\n", BOOK.count("\n") + 2),
    ],
    ids=["latin-1", "utf-16", "one stray byte"],
)
def test_a_book_that_is_not_utf8_is_refused(desk, capsys, content, line):
    desk.write(content)
    assert desk.run() == 2
    assert desk.book.read_bytes() == content
    assert f"{desk.book}:{line}: há um byte que não é UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ['{"before": {"bleu"', "[]", '{"metricas": {"antes": 3}}', json.dumps(day3(extra=1))],
    ids=["cut", "no object", "an older shape", "an unknown key"],
)
def test_an_unreadable_result_is_refused_by_name(desk, capsys, text):
    (desk.results / "dia3_full.json").write_text(text, "utf-8")
    before = desk.files()
    assert desk.run() == 2 and desk.files() == before
    assert "dia3_full.json" in capsys.readouterr().err


def test_a_book_saved_meanwhile_is_not_overwritten(desk, monkeypatch, capsys):
    page = recorder.page

    def slow_page(*parts):
        desk.book.write_text("salvo no editor", "utf-8")
        return page(*parts)

    monkeypatch.setattr(recorder, "page", slow_page)
    assert desk.run() == 2
    assert desk.book.read_text("utf-8") == "salvo no editor"
    assert "mudou enquanto eu trabalhava" in capsys.readouterr().err


def test_a_missing_book_is_explained(desk, capsys):
    assert desk.run(book=desk.book.with_name("outro.md")) == 2
    assert "outro.md não existe" in capsys.readouterr().err


def mutilate(text: str, rng: random.Random) -> str:
    """Um estrago ao acaso: linhas apagadas, repetidas, trocadas, coladas, ou letras mexidas."""
    lines = text.splitlines(True)
    for _ in range(rng.randint(1, 3)):
        here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
        line, other, letter = lines[here], lines[there], rng.choice("ç|<-!>\t ")
        place = rng.randrange(len(line) + 1)
        moved = [line[:place] + letter + line[place:]], [line[:place] + line[place + 1 :]]
        choices = [], [line, other], [other], [line.rstrip("\n")], *moved
        lines[here : here + 1] = rng.choice(choices)
    return "".join(lines)


def test_whatever_the_damage_nothing_of_the_learner_is_lost(desk, capsys):
    desk.run()
    filled = desk.book.read_text("utf-8")
    desk.result("dia3_full", day3(after=4.0))
    rng = random.Random(6)
    statuses = []
    for _ in range(120):
        text = mutilate(filled, rng)
        data = desk.write(text)
        statuses.append(desk.run())
        after = desk.book.read_bytes()
        if statuses[-1] == 2:
            assert after == data and f"{desk.book}:" in capsys.readouterr().err
        else:
            assert desk.outside(after.decode()) == desk.outside(text)
            assert desk.run("--check") == 0
    assert set(statuses) == {0, 2} and 30 < statuses.count(2) < 114
