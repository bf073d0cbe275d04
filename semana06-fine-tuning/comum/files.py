"""Arquivos lidos e gravados inteiros: quem lê nunca vê um pela metade."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from comum.tabular import read_table
from comum.terminal import UserError, reason


def write_text(path: Path, content: str) -> None:
    """Grava ao lado e troca de nome: o arquivo antigo vale até o novo estar completo.

    As permissões ficam as do arquivo antigo.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        if path.exists():
            shutil.copymode(path, temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """O arquivo ao lado que, escrito até o fim, toma o lugar de `path`; interrompido, some."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # o de um processo morto que tinha o mesmo número
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Grava `content` em JSON legível."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Grava um objeto por linha."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: Path) -> str:
    """Lê um texto em UTF-8.

    Raises:
        UserError: o arquivo não se lê, ou está noutra codificação.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"não consegui ler {path}: {reason(error)}.") from error


def read_json(path: Path) -> dict:
    """Lê um objeto JSON; UserError se o arquivo não se lê, ou não é um."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"não consegui ler {path}: {reason(error)}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} não tem a forma esperada: não é um objeto JSON.")
    return content


def lines(path: Path) -> list[str]:
    """As linhas de um texto; só `\\n` termina uma (`splitlines` corta também em U+2028)."""
    content = read_text(path)
    return content.removesuffix("\n").split("\n") if content else []


def read_jsonl(path: Path) -> list[dict]:
    """Lê um objeto JSON por linha, ignorando as linhas em branco.

    Raises:
        UserError: o arquivo não se lê, ou uma linha não é um objeto JSON (diz qual).
    """
    if not path.is_file():
        raise UserError(f"o arquivo {path} não existe.")
    rows = []
    for line, values, problem in read_table(path) if path.stat().st_size else ():
        if problem:
            raise UserError(f"{path}, linha {line}: {problem}. Corrija ou apague a linha.")
        rows.append(values)
    return rows


def check_output(folder: Path, mark: str) -> None:
    """Confere, antes do trabalho, que `folder` pode ser (re)feita.

    Raises:
        UserError: ela tem coisas, e não tem `mark`, o arquivo que diz que foi feita aqui.
        OSError: não se grava ali.
    """
    if folder.exists() and not (folder / mark).is_file() and any(folder.iterdir()):
        raise UserError(
            f"a pasta {folder} já existe e não foi feita por este programa (falta {mark}). Indique "
            "outra com --output."
        )
    check_writable(folder.parent)


def check_writable(folder: Path) -> None:
    """Confere, antes do trabalho, que em `folder`, que se cria, se grava; OSError se não."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def building(folder: Path, mark: str) -> Iterator[Path]:
    """A pasta em que se monta o que, no fim, toma o lugar de `folder` (veja `check_output`).

    O que está ao lado dela some.
    """
    check_output(folder, mark)
    options = {"prefix": f".{folder.name}.", "dir": folder.parent, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**options) as work:
        new = Path(work) / "pronto"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(Path(work) / "antiga")
        new.rename(folder)


def sha256(path: Path) -> str:
    """O SHA-256 do conteúdo, em hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_bytes(folder: Path) -> int:
    """Bytes dos pesos (safetensors ou GGUF) numa pasta."""
    found = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return sum(file.stat().st_size for file in found)
