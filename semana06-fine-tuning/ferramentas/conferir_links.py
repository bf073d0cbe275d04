"""Confere os links dos documentos, sem rede: arquivos, âncoras e imagens.

    python semana06-fine-tuning/ferramentas/conferir_links.py            # todos os .md
    python semana06-fine-tuning/ferramentas/conferir_links.py README.md  # só estes

Endereços da internet não são visitados; só se confere que têm a forma de um endereço. As âncoras
seguem a regra do GitHub: o título em minúsculas, sem pontuação, com hífens no lugar dos espaços.
"""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from argumentos import Parser

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".git", ".venv", "node_modules", "modelos", "models", "resultados", "gerados",
           ".pytest_cache"}  # fmt: skip
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("documents", nargs="*", type=Path, metavar="ARQUIVO",
                        help="documentos a conferir (padrão: todos os .md)")  # fmt: skip
    args = parser.parse_args(argv)
    documents = args.documents or documents_of(ROOT)
    missing = [path for path in documents if not path.is_file()]
    if missing:
        print(f"Erro: {missing[0]} não existe.", file=sys.stderr)
        return 2
    problems = [problem for path in documents for problem in check(path)]
    print("\n".join(problems) or f"{len(documents)} documentos, todos os links em ordem.")
    return int(bool(problems))


def documents_of(root: Path) -> list[Path]:
    """Os .md do repositório, fora das pastas geradas."""
    return sorted(
        path for path in root.rglob("*.md") if not SKIPPED & set(path.relative_to(root).parts)
    )


def check(path: Path) -> list[str]:
    """Os links quebrados de um documento, um por frase, com arquivo e linha."""
    problems = []
    for number, target in links(path.read_text(encoding="utf-8")):
        problem = _problem(path, target)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
    return problems


def _problem(path: Path, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        return None if "." in parts.netloc else f"`{target}` não tem a forma de um endereço"
    if parts.scheme:
        return None if parts.scheme == "mailto" else f"`{target}` usa um esquema desconhecido"
    file = path if not parts.path else path.parent / unquote(parts.path)
    if not parts.path and not parts.fragment:
        return "link vazio"
    if parts.path.startswith("/"):
        return f"`{target}` começa na raiz do disco; use um caminho relativo ao documento"
    if not file.exists():
        return f"`{parts.path}` não existe"
    if not parts.fragment or file.suffix.lower() != ".md":
        return None
    known = anchors(file.read_text(encoding="utf-8"))
    if unquote(parts.fragment) in known:
        return None
    return f"`{target}`: {file.name} não tem o título `#{unquote(parts.fragment)}`"


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
    counts: dict[str, int] = {}
    for _, line in prose(text):
        found.update(HTML_ANCHOR.findall(line))
        heading = HEADING.match(line)
        if heading:
            base = slug(heading[1])
            times = counts.get(base, 0)
            counts[base] = times + 1
            found.add(f"{base}-{times}" if times else base)
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
    sys.exit(main())
