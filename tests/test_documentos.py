"""Os documentos: links, comandos que existem, números que vêm de algum lugar."""

import ast
import contextlib
import functools
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import conferir_links
import duplicatas
import plano_memoria
import pytest
import registrar_experimentos
import utils  # noqa: F401
from config import PROJECT_DIR, UserError, load_config
from tabelas_experimentos import TABLES

ROOT = conferir_links.ROOT
WEEK = ROOT / "semana06-fine-tuning"
NOTES, BOOK = WEEK / "notas.md", WEEK / "experimentos.md"
PROJECT_README = WEEK / "mini-projeto" / "README.md"
# Quem já estudou por estes dois arquivos escreveu neles o que quis; não é assunto dos testes.
USED = any(mark in path.read_text(encoding="utf-8")
           for path in (NOTES, BOOK) for mark in ("**Sua medida**", "- [x]"))  # fmt: skip
unused = pytest.mark.skipif(USED, reason="o guia e o caderno já têm medidas ou marcas de quem usa")
DOCUMENTS = [path for path in conferir_links.documents_of(ROOT)
             if not (USED and path in (NOTES, BOOK))]  # fmt: skip
FOLDERS = [ROOT, PROJECT_DIR, WEEK / "exemplos", WEEK / "ferramentas"]
SCRIPTS = [path for folder in FOLDERS[1:] for path in sorted(folder.glob("*.py"))]
MODULES = {"pip", "venv", "pytest", "ruff"}


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
    assert conferir_links.main([str(tmp_path / "ausente.md")]) == 2


# --- comandos -------------------------------------------------------------------------------------


def code_of(text: str) -> list[str]:
    """Linhas dos blocos de código e trechos entre crases de um Markdown."""
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    outside = "\n".join(line for _, line in conferir_links.prose(text))
    return lines + [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", outside)]


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
    sources = {str(p.relative_to(ROOT)): code_of(p.read_text(encoding="utf-8")) for p in DOCUMENTS}
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


@functools.cache
def usage_of(script: Path) -> str:
    """A linha de uso do `--help`, sem a docstring: são as opções que existem de fato."""
    arguments, sys.argv = sys.argv, [str(script), "--help"]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as done:
        assert not done.code, f"{script.name} --help terminou com {done.code}"
    finally:
        sys.argv = arguments
    return shown.getvalue().split("\n\n")[0]


def problem_of(words: list[str]) -> str | None:
    """O que há de errado num comando, ou None."""
    script = script_of(words[0])
    if script is None:
        return f"{words[0]} não existe"
    options = [word for word in words[1:] if word.startswith("--")]
    usage = usage_of(script) if options else ""
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


def test_every_command_in_the_documents_exists_and_parses():
    commands = python_commands()
    assert len(commands) > 40
    problems = [f"{where}: {' '.join(words)}: {problem}" for where, words in commands
                if (problem := problem_of(words))]  # fmt: skip
    assert problems == []


@pytest.mark.parametrize(
    "command",
    ["nao_existe.py", "evaluate.py --inexistente", "train.py --config configs/nada.yaml",
     "train.py lora.rank=8", "train.py lora.r=zero", "exemplo_02_lora_peft.py --study enorme"],
)  # fmt: skip
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
    known = {p.name for p in ROOT.rglob("*") if not conferir_links.SKIPPED & set(p.parts)}
    missing = set()
    for path in DOCUMENTS:
        for line in code_of(path.read_text(encoding="utf-8")):
            if match := re.search(r"python -m (\w+)", line):
                assert match[1] in MODULES, f"{path.name}: python -m {match[1]}"
            if re.fullmatch(r"[\w./-]+\.(py|yaml|sql|toml)", line):
                missing |= {(path.name, line)} if Path(line).name not in known else set()
    assert missing == set()


# --- números --------------------------------------------------------------------------------------


def outside_tables(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return re.sub(r"<!-- tabela: .*?<!-- /tabela: ", "", text, flags=re.S)


@unused
@pytest.mark.parametrize("path", [NOTES, BOOK], ids=["notas", "experimentos"])
def test_measured_figures_come_from_the_tables_or_from_the_project(path):
    source = PROJECT_README.read_text(encoding="utf-8")
    figures = re.findall(r"\d+,\d+%? \[\d+,\d+; \d+,\d+\]", outside_tables(path))
    assert [figure for figure in figures if figure not in source] == []


@unused
def test_lora_counts_and_memory_in_the_notes_are_the_ones_of_the_plan():
    text = NOTES.read_text(encoding="utf-8")
    llama = plano_memoria.shape_of(plano_memoria.config_of("meta-llama/Llama-2-7b-hf"))
    attention = ((576, 576), (576, 192), (576, 192), (576, 576))
    mlp = ((576, 1536), (576, 1536), (1536, 576))
    small = plano_memoria.Shape((attention + mlp) * 30, 134_515_008, 576, 1536, 30, 49_152)
    for shape in (llama, small):
        share = f"{100 * shape.adapter(16) / shape.total:.2f}%".replace(".", ",")
        assert f"{shape.adapter(16):,}".replace(",", ".") in text and share in text
        assert f"{shape.total:,}".replace(",", ".") in text
    plans = plano_memoria.plan(llama, 16, tokens=1024)
    rows = {part: [plan[part] for plan in plans.values()]
            for part in ("pesos", "gradientes", "otimizador", "arquivo")}  # fmt: skip
    rows["arquivo a guardar por tarefa"] = rows.pop("arquivo")
    rows["soma, sem ativações"] = [
        round(p["pesos"], 2) + round(p["gradientes"], 2) + round(p["otimizador"], 2)
        for p in plans.values()
    ]
    for label, values in rows.items():
        cells = " | ".join(f"{value:.2f}" for value in values).replace(".", ",")
        assert f"| {label} | {cells} |" in text


@unused
def test_the_candidate_curve_in_the_notes_is_the_one_of_day_6():
    rows = duplicatas.PERMUTATIONS // duplicatas.BANDS
    text = NOTES.read_text(encoding="utf-8")
    assert f"sequências de {duplicatas.LETTERS} letras" in text
    assert f"P(j) = 1 - \\left(1 - j^{{{rows}}}\\right)^{{{duplicatas.BANDS}}}" in text
    for similarity, chance in ((0.1, "0,06%"), (0.3, "14%"), (0.5, "87%")):
        found = 100 * (1 - (1 - similarity**rows) ** duplicatas.BANDS)
        assert abs(float(chance[:-1].replace(",", ".")) - found) < 0.5
        assert f"{chance} para j = {similarity}".replace(".", ",") in text


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


# --- tabelas --------------------------------------------------------------------------------------


@unused
def test_every_table_has_its_place_in_the_book():
    assert set(re.findall(r"<!-- tabela: (\w+)", BOOK.read_text(encoding="utf-8"))) == set(TABLES)


@unused
def test_the_tables_in_the_repository_are_the_ones_of_the_reference(tmp_path):
    assert registrar_experimentos.main(["--check", "--results", str(tmp_path)]) == 0


@unused
def test_the_reference_has_every_key_the_tables_ask_for():
    for path in (NOTES, BOOK):
        assert "não traz `" not in path.read_text(encoding="utf-8")
