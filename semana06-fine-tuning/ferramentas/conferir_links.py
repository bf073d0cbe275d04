"""Confere os links dos documentos, sem rede: arquivos, âncoras e imagens.

    python semana06-fine-tuning/ferramentas/conferir_links.py            # todos os .md
    python semana06-fine-tuning/ferramentas/conferir_links.py README.md  # só estes

Endereços da internet não são visitados; só se confere que têm a forma de um endereço. As âncoras
seguem a regra do GitHub: o título em minúsculas, sem pontuação, com hífens no lugar dos espaços.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from comum.paths import WEEK_DIR
from comum.terminal import Parser, UserError, run_main

ROOT = WEEK_DIR.parent
SKIPPED = {".git", ".venv", ".pytest_cache", "modelos", "models", "resultados", "gerados"}
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    what = "documentos a conferir (padrão: todos os .md)"
    parser.add_argument("documents", nargs="*", type=Path, metavar="ARQUIVO", help=what)
    documents = parser.parse_args(argv).documents or documents_of(ROOT)
    for path in documents:
        if not path.is_file():
            raise UserError(f"{path} não existe.")
    problems = [problem for path in documents for problem in check(path)]
    print("\n".join(problems) or f"{len(documents)} documentos, todos os links em ordem.")
    return int(bool(problems))


def documents_of(root: Path) -> list[Path]:
    """Os .md do repositório, fora das pastas geradas."""
    found = sorted(root.rglob("*.md"))
    return [path for path in found if not SKIPPED & set(path.relative_to(root).parts)]


def check(path: Path) -> list[str]:
    """Os links quebrados de um documento, um por frase, com arquivo e linha."""
    found = ((line, _problem(path, link)) for line, link in links(path.read_text("utf-8")))
    return [f"{path}:{line}: {problem}" for line, problem in found if problem]


def _problem(path: Path, target: str) -> str | None:
    parts = urlsplit(target)
    title = unquote(parts.fragment)
    file = path.parent / unquote(parts.path) if parts.path else path
    if parts.scheme in ("http", "https"):
        return None if "." in parts.netloc else f"`{target}` não tem a forma de um endereço"
    if parts.scheme:
        return None if parts.scheme == "mailto" else f"`{target}` usa um esquema desconhecido"
    if not parts.path and not title:
        return "link vazio"
    if parts.path.startswith("/"):
        return f"`{target}` começa na raiz do disco; use um caminho relativo ao documento"
    if not file.exists():
        return f"`{parts.path}` não existe"
    if title and file.suffix.lower() == ".md" and title not in anchors(file.read_text("utf-8")):
        return f"`{target}`: {file.name} não tem o título `#{title}`"
    return None


def prose(text: str) -> list[tuple[int, str]]:
    """As linhas fora dos blocos de código, com o número de cada uma, a partir de 1."""
    kept, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence:
            kept.append((number, line))
    return kept


def links(text: str) -> list[tuple[int, str]]:
    """Os destinos dos links e imagens, com a linha; os citados entre crases não contam."""
    return [
        (number, match[1])
        for number, line in prose(text)
        for match in LINK.finditer(CODE.sub(lambda m: "x" * len(m[0]), line))
    ]


def anchors(text: str) -> set[str]:
    """As âncoras de um documento: os títulos, na regra do GitHub, e os `<a id>`."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    for _, line in prose(text):
        found.update(HTML_ANCHOR.findall(line))
        if heading := HEADING.match(line):
            base = slug(heading[1])
            found.add(f"{base}-{times[base]}" if times[base] else base)
            times[base] += 1
    return found


def slug(heading: str) -> str:
    """A âncora que o GitHub dá a um título.

    >>> slug("O treino, *mais* rápido")
    'o-treino-mais-rápido'
    """
    text = LINK.sub(lambda m: m[0][m[0].index("[") + 1 : m[0].rindex("](")], heading)
    text = re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(run_main(main))
