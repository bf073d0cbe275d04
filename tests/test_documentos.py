"""Os documentos: links, comandos que existem, números que vêm de algum lugar."""

import ast
import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comum import memory_plan
from comum.labels import MEMORY
from comum.numbers import decimal, percent
from comum.paths import REFERENCE_DIR
from comum.terminal import UserError, run_main

import pytest
from transformers import LlamaConfig

import conferir_links
import registrar_experimentos
from loja_sql.config import PROJECT_DIR, load_config

ROOT = conferir_links.ROOT
WEEK = ROOT / "semana06-fine-tuning"
NOTES, BOOK = WEEK / "notas.md", WEEK / "experimentos.md"
PLANS = ROOT / "tests" / "dados"
PROJECT_README = WEEK / "mini-projeto" / "README.md"
# Quem já estudou por estes dois arquivos escreveu neles o que quis; não é assunto dos testes.
USED = any(
    mark in path.read_text(encoding="utf-8")
    for path in (NOTES, BOOK)
    for mark in ("Medido em ", "- [x]")
)
unused = pytest.mark.skipif(USED, reason="o guia e o caderno já têm medidas ou marcas de quem usa")
DOCUMENTS = [
    path for path in conferir_links.documents_of(ROOT) if not (USED and path in (NOTES, BOOK))
]
LESSONS = WEEK / "exemplos"
DAYS = [LESSONS / f"dia{day}" for day in (4, 5, 6)]
FOLDERS = [ROOT, WEEK, PROJECT_DIR, LESSONS, *DAYS, WEEK / "exercicios", WEEK / "ferramentas"]
SCRIPTS = [
    path
    for folder in FOLDERS[1:]
    for path in sorted(folder.glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]
MODULES = {"pip", "venv", "pytest", "ruff", "uv"}
HEAVY = {"torch", "transformers", "datasets", "gradio", "plotly", "matplotlib", "scipy"}


# --- links ----------------------------------------------------------------------------------------


def test_every_link_leads_somewhere():
    assert [problem for path in DOCUMENTS for problem in conferir_links.check(path)] == []


def test_the_link_checker_finds_what_is_broken(tmp_path):
    (tmp_path / "outro.md").write_text("# Ação & reação\n\n## Fim\n\n## Fim\n", "utf-8")
    page = tmp_path / "pagina.md"
    page.write_text(
        "[certo](outro.md#ação--reação) [certo](outro.md#fim-1) ![certo](outro.md)\n"
        "[arquivo](nada.md) `[código](nada.md)`\n"
        "[título](outro.md#fim-2)\n"
        "```\n[bloco](nada.md)\n```\n"
        "[`crases` no texto](outro.md#Fim) [vazio]() [endereço](https://sem-ponto)\n"
        "[raiz](/etc/hosts) [aqui](#nada)\n",
        "utf-8",
    )
    lines = [problem.split(": ")[0].rsplit(":", 1)[1] for problem in conferir_links.check(page)]
    assert lines == ["2", "3", "7", "7", "7", "8", "8"]


def test_the_link_checker_says_so_and_exits_with_one(tmp_path, capsys):
    page = tmp_path / "pagina.md"
    page.write_text("[x](nada.md)\n", "utf-8")
    assert conferir_links.main([str(page)]) == 1
    assert "pagina.md:1: `nada.md` não existe" in capsys.readouterr().out
    assert run_main(conferir_links.main, [str(tmp_path / "ausente.md")]) == 2


# --- comandos -------------------------------------------------------------------------------------


def code_of(text: str) -> list[str]:
    """Linhas dos blocos de código e trechos entre crases de um Markdown."""
    tokens = conferir_links.MARKDOWN.parse(text)
    blocks = [x.content for x in tokens if x.type == "fence" and x.info in ("", "bash", "sh")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inside = [part for token in tokens for part in token.children or []]
    return lines + [part.content for part in inside if part.type == "code_inline"]


def makefile() -> dict[str, list[str]]:
    """Cada alvo do Makefile com os seus comandos, já com as variáveis trocadas."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    values = dict(re.findall(r"^(\w+) [:?]?= (.*)$", text, re.M))
    while "$(" in "".join(values.values()):
        values = {k: _expand(v, values) for k, v in values.items()}
    targets: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("\t"):
            targets[name].append(_expand(line.strip().lstrip("@"), values))
        elif match := re.match(r"([^\s#.:=][^:=]*):(?!=)", line):
            name = match[1]
            targets[name] = []
    return targets


def _expand(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], ""), text)


def python_commands() -> list[tuple[str, list[str]]]:
    """(onde, palavras) de cada `python script …` nos documentos, docstrings e Makefile."""
    # O da referência é o que alguém digitou ao medir, na versão que a nota diz.
    documents = (path for path in DOCUMENTS if path.parent != REFERENCE_DIR)
    sources = {str(p.relative_to(ROOT)): code_of(p.read_text("utf-8")) for p in documents}
    for path in SCRIPTS:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sources[path.name] = doc.replace("\\\n", " ").splitlines()
    sources["Makefile"] = [line for lines in makefile().values() for line in lines]
    found = []
    for where, lines in sources.items():
        for line in lines:
            words = re.sub(r"^\S*\.venv/bin/python", "python", line.strip())
            if words.startswith("python ") and re.search(r"\.py(?!\w)", words):
                found.append((where, shlex.split(words.replace("'", ""), comments=True)[1:]))
    return found


def script_of(word: str) -> Path | None:
    name = word.removeprefix("…/")
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)


HELP = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("\\n\\n", *sys.modules)
"""


@functools.cache
def help_of(script: Path) -> tuple[str, set[str]]:
    """A linha de uso do `--help` (as opções que existem de fato) e os módulos que ele importou."""
    command = [sys.executable, "-c", HELP, script.as_posix(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{script.name} --help: {done.stderr}"
    return done.stdout.split("\n\n")[0], set(done.stdout.rpartition("\n\n")[2].split())


def problem_of(words: list[str]) -> str | None:
    """O que há de errado num comando, ou None."""
    script = script_of(words[0])
    if script is None:
        return f"{words[0]} não existe"
    options = [word for word in words[1:] if word.startswith("--")]
    usage = help_of(script)[0] if options else ""
    for option in options:
        if not re.search(rf"{option}(?![\w-])", usage):
            return f"{script.name} não tem a opção {option}"
        value = words[words.index(option) + 1 : words.index(option) + 2]
        choices = re.search(rf"{option} \{{([^}}]*)\}}", usage)
        if choices and not set(value) <= set(choices[1].split(",")):
            return f"{option} {value} não está entre {choices[1]}"
        if option == "--config" and not (PROJECT_DIR / value[0]).is_file():
            return f"{value[0]} não existe"
    keys = [word for word in words[1:] if re.fullmatch(r"[a-z_]+\.[a-z_0-9]+=.*", word)]
    try:
        load_config(None, keys)
    except UserError as error:
        return str(error)
    return None


def test_help_answers_before_the_heavy_imports():
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # cada ajuda é um processo
        loaded = zip(SCRIPTS, (modules for _, modules in pool.map(help_of, SCRIPTS)), strict=True)
        assert {path.name: found for path, modules in loaded if (found := modules & HEAVY)} == {}


def test_every_command_in_the_documents_exists_and_parses():
    commands = python_commands()
    assert len(commands) > 40
    found = ((where, words, problem_of(words)) for where, words in commands)
    assert [one for one in found if one[-1]] == []


def test_every_command_of_the_gpu_check_exists_and_parses(tmp_path, monkeypatch):
    """Sem GPU ninguém o roda: um script ou uma opção que mude de nome o estragaria em silêncio."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tests" / "benchmarks")])
    gpu = runpy.run_path(str(ROOT / "tests" / "gpu" / "conferir_gpu.py"))
    measure = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "train_speed.py"))
    commands = {s.name: list(map(str, s.command)) for s in gpu["steps_of"]("modelo", tmp_path)}
    for name, (_, *words) in commands.items():
        words = words[words.index(str(PROJECT_DIR / "train.py")) :] if "-m" in words else words
        assert "--draw" in words or problem_of(words) is None, name
        assert "--only" not in words or words[words.index("--only") + 1] in measure["ROWS"]
    assert len(commands) > 20


@pytest.mark.parametrize(
    "command",
    [
        "nao_existe.py",
        "evaluate.py --inexistente",
        "train.py --config configs/nada.yaml",
        "train.py lora.rank=8",
        "train.py lora.r=zero",
        "dia4/estudo.py --level enorme",
    ],
)
def test_the_command_check_can_fail(command):
    assert problem_of(command.split())


def test_every_make_target_in_the_documents_exists():
    targets = makefile()
    named = {
        (path.name, target)
        for path in DOCUMENTS
        for line in code_of(path.read_text(encoding="utf-8"))
        for target in re.findall(r"^make ([a-z]\w*)", line.strip())
    }
    assert {item for item in named if item[1] not in targets} == set()
    assert ("README.md", "demo") in named


def test_every_module_and_file_in_the_documents_exists():
    known = {path.name for folder in (WEEK, ROOT / "tests") for path in folder.rglob("*")}
    known |= {path.name for path in ROOT.iterdir()}
    missing = set()
    for path in DOCUMENTS:
        for line in code_of(path.read_text(encoding="utf-8")):
            if match := re.search(r"python -m (\w+)", line):
                assert match[1] in MODULES, f"{path.name}: python -m {match[1]}"
            if re.fullmatch(r"[\w./-]+\.(py|yaml|sql|toml)", line):
                missing |= {(path.name, line)} if Path(line).name not in known else set()
    assert missing == set()


# --- números --------------------------------------------------------------------------------------


@unused
@pytest.mark.parametrize("path", [ROOT / "README.md", NOTES], ids=lambda path: path.name)
def test_the_measures_of_the_documents_are_in_the_reference(path):
    source = (REFERENCE_DIR / "README.md").read_text("utf-8") + PROJECT_README.read_text("utf-8")
    text = re.sub(r"\s+", " ", path.read_text("utf-8")).replace("%", "")
    figures = re.findall(r"\d+,\d+ \[\d+,\d+; \d+,\d+\]", text)
    assert [figure for figure in figures if figure not in source.replace("%", "")] == []


@unused
def test_lora_counts_and_memory_in_the_notes_are_the_ones_of_the_plan():
    text = NOTES.read_text(encoding="utf-8")
    llama = memory_plan.known_shape("meta-llama/Llama-2-7b-hf")
    smollm = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
    )
    for shape in (llama, memory_plan.shape_of(smollm)):
        assert percent(shape.adapter(16) / shape.total, 2) in text
        assert decimal(shape.adapter(16)) in text and decimal(shape.total) in text
    plans = memory_plan.plan(llama, 16, tokens=1024, checkpointing=True).values()
    rows = {label: [plan[key] for plan in plans] for key, label in MEMORY.items()}
    del rows[MEMORY["activations"]]
    columns = zip(*rows.values(), strict=True)
    rows["soma, sem ativações"] = [sum(round(x, 2) for x in column) for column in columns]
    rows["arquivo a guardar por tarefa"] = [plan["file"] for plan in plans]
    for label, values in rows.items():
        assert f"| {label} | {' | '.join(decimal(x, 2) for x in values)} |" in text


def constants(folder: Path) -> dict[str, int]:
    """Os números que os módulos de uma pasta fixam, pelo nome, sem importar nenhum."""
    found = {}
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for names, values in re.findall(r"^([A-Z_, ]+) = (\d+(?:, \d+)*)\b", text, re.M):
            found |= dict(zip(names.split(", "), map(int, values.split(", ")), strict=True))
    return found


@unused
def test_the_candidate_curve_in_the_notes_is_the_one_of_day_6():
    fixed = constants(LESSONS / "dia6")
    rows, bands = fixed["BAND_ROWS"], fixed["BANDS"]
    text = NOTES.read_text(encoding="utf-8")
    assert f"sequências de {fixed['LETTERS']} letras" in text
    assert f"P(j) = 1 - \\left(1 - j^{{{rows}}}\\right)^{{{bands}}}" in text
    for similarity, chance in ((0.1, "0,06%"), (0.3, "14%"), (0.5, "87%")):
        found = 100 * (1 - (1 - similarity**rows) ** bands)
        assert abs(float(chance[:-1].replace(",", ".")) - found) < 0.5
        assert f"{chance} para j = {similarity}".replace(".", ",") in text


@unused
def test_every_day_of_the_notes_fits_the_time_of_its_plan():
    days = re.split(r"^### \*\*Dia \d", NOTES.read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(days) == 7
    for day in days:
        least, most = map(int, re.search(r"\*\*Tempo:\*\* (\d+)-(\d+) min", day).groups())
        core = day[: day.index("#### Aprofundar")]
        minutes = re.findall(r"(\d+) min", re.search(r"\*\*Seu tempo:\*\*.*", core)[0])
        assert least <= sum(map(int, minutes)) <= most
        words = re.sub(r"```.*?```|\]\([^)]*\)", " ", core, flags=re.S)  # nem código nem endereços
        # A folga é para o que quem estuda escreve nas caixas.
        assert len(re.findall(r"\w[\w’'-]*", words)) / 200 <= int(minutes[0]) + 2


@unused
def test_the_small_python_blocks_of_the_notes_run():
    blocks = re.findall(r"^```python\n(.*?)^```", NOTES.read_text(encoding="utf-8"), re.S | re.M)
    ran = 0
    for block in blocks:
        compile(block, "notas.md", "exec")
        if "import torch" in block and "load_file" not in block:
            exec(block, {})
            ran += 1
    assert ran >= 2


# --- o caderno e a página dos resultados ----------------------------------------------------------


def bare(line: str) -> str:
    """A linha sem espaços e com os traços de uma tabela juntos."""
    return re.sub(r"-{2,}", "-", re.sub(r"\s", "", line))


@unused
@pytest.mark.parametrize(
    ("path", "plan", "same"),
    [
        (NOTES, "guia_da_semana.md", str.startswith),  # o guia acrescenta à linha; o caderno, não
        (BOOK, "caderno_da_semana.md", str.__eq__),
    ],
    ids=["guia", "caderno"],
)
def test_every_line_of_the_week_is_there_in_order(path, plan, same):
    ours = iter(map(bare, path.read_text("utf-8").splitlines()))
    lines = filter(None, map(bare, (PLANS / plan).read_text("utf-8").splitlines()))
    assert [line for line in lines if not any(same(our, line) for our in ours)] == []


@unused
def test_the_book_is_short_has_a_block_a_day_and_no_measure():
    text = BOOK.read_text("utf-8")
    assert re.findall(r"<!-- medidas: (\w+)", text) == registrar_experimentos.DAYS
    assert text.count("**Antes de rodar, eu esperava:**") == len(registrar_experimentos.DAYS)
    assert len(text.splitlines()) <= 300
    assert set(re.findall(r"ainda não medido: `make (\w+)`", text)) <= makefile().keys()
    assert not re.search(r"\d,\d", text)


@unused
def test_the_book_and_the_page_in_the_repository_are_the_ones_of_the_reference(tmp_path):
    assert registrar_experimentos.main(["--check", "--results", str(tmp_path)]) == 0


def test_no_day_of_the_reference_is_missing():
    page = (REFERENCE_DIR / "README.md").read_text("utf-8")
    assert [f"dia{x}" for x in re.findall(r"^## Dia (\d)", page, re.M)] == (
        registrar_experimentos.DAYS
    )
    assert "Ainda não medido" not in page
