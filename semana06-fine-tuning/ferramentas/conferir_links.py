"""Confere os links dos documentos, sem rede: arquivos, âncoras e imagens.

    python semana06-fine-tuning/ferramentas/conferir_links.py            # todos os .md
    python semana06-fine-tuning/ferramentas/conferir_links.py README.md  # só estes

Endereços da internet não são visitados; só se confere que têm a forma de um endereço. As âncoras
seguem a regra do GitHub: o título em minúsculas, sem pontuação, com hífens no lugar dos espaços.
"""

import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from comum.files import read_text
from comum.paths import WEEK_DIR
from comum.terminal import Parser, run_main

from markdown_it import MarkdownIt

ROOT = WEEK_DIR.parent
GENERATED = {"modelos", "models", "resultados", "gerados"}
TEMPLATES = {"ficha_modelo.md"}  # os links valem na pasta do que se gera com ele
SKIPPED = {".git", ".venv", ".pytest_cache"} | GENERATED | TEMPLATES
MARKDOWN = MarkdownIt("commonmark").enable("table")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    what = "documentos a conferir (padrão: todos os .md)"
    parser.add_argument("documents", nargs="*", type=Path, metavar="ARQUIVO", help=what)
    documents = parser.parse_args(argv).documents or documents_of(ROOT)
    problems = [problem for path in documents for problem in check(path)]
    print("\n".join(problems) or f"{len(documents)} documentos, todos os links em ordem.")
    return int(bool(problems))


def documents_of(root: Path) -> list[Path]:
    """Os .md do repositório, fora das pastas geradas."""
    found = sorted(root.rglob("*.md"))
    return [path for path in found if not SKIPPED & set(path.relative_to(root).parts)]


def check(path: Path) -> list[str]:
    """Os links quebrados de um documento, um por frase, com arquivo e linha."""
    found = ((line, _problem(path, link)) for line, link in links(read_text(path)))
    return [f"{path}:{line}: {problem}" for line, problem in found if problem]


def _problem(path: Path, target: str) -> str | None:
    parts = urlsplit(target)
    file = path.parent / parts.path if parts.path else path
    if parts.scheme in ("http", "https"):
        return None if "." in parts.netloc else f"`{target}` não tem a forma de um endereço"
    if parts.scheme:
        return None if parts.scheme == "mailto" else f"`{target}` usa um esquema desconhecido"
    if not target:
        return "link vazio"
    if parts.path.startswith("/"):
        return f"`{target}` começa na raiz do disco; use um caminho relativo ao documento"
    if not file.exists():
        return f"`{parts.path}` não existe"
    if parts.fragment and file.suffix.lower() == ".md" and parts.fragment not in anchors(file):
        return f"`{target}`: {file.name} não tem o título `#{parts.fragment}`"
    return None


def links(text: str) -> list[tuple[int, str]]:
    """Os destinos dos links e imagens, com a linha; os citados em código não contam."""
    lines, found = text.split("\n"), []
    for block in MARKDOWN.parse(text):
        for part in block.children or []:
            target = part.attrs.get("href", part.attrs.get("src"))
            if target is not None:
                target = unquote(str(target))
                here = (n for n in range(*block.map) if f"({target}" in lines[n])
                found.append((next(here, block.map[0]) + 1, target))
    return found


@cache
def anchors(path: Path) -> set[str]:
    """As âncoras de um documento: os títulos, na regra do GitHub, e os `<a id>`."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    blocks = MARKDOWN.parse(read_text(path))
    for place, block in enumerate(blocks):
        if block.type in ("inline", "html_block"):
            found.update(HTML_ANCHOR.findall(block.content))
        if blocks[place - 1].type == "heading_open":
            shown = [x.content for x in block.children if x.type in ("text", "code_inline")]
            base = re.sub(r"[^\w\- ]", "", "".join(shown).lower()).replace(" ", "-")
            found.add(f"{base}-{times[base]}" if times[base] else base)
            times[base] += 1
    return found


if __name__ == "__main__":
    sys.exit(run_main(main))
