"""Arquivos lidos e gravados inteiros: quem lê nunca vê um pela metade."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from comum.tabular import read_table
from comum.terminal import UserError


def write_text(path: Path, content: str) -> None:
    """Grava ao lado e troca de nome: o arquivo antigo vale até o novo estar completo.

    As permissões ficam as do arquivo antigo.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Grava `content` em JSON legível."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Grava um objeto por linha."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> dict:
    """Lê um objeto JSON.

    Raises:
        UserError: o arquivo não existe ou não é JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"não consegui ler {path} ({error}).") from error


def lines(path: Path) -> list[str]:
    """As linhas de um texto UTF-8; só `\\n` termina uma (`splitlines` corta também em U+2028)."""
    content = path.read_bytes().decode("utf-8-sig")
    return content.removesuffix("\n").split("\n") if content else []


def read_jsonl(path: Path) -> list[dict]:
    """Lê um objeto JSON por linha, ignorando as linhas em branco.

    Raises:
        UserError: o arquivo não existe, ou uma linha não é um objeto JSON (diz qual).
    """
    if not path.is_file():
        raise UserError(f"o arquivo {path} não existe.")
    rows = []
    for line, values, problem in read_table(path) if path.stat().st_size else ():
        if problem:
            raise UserError(f"{path}, linha {line}: {problem}. Corrija ou apague a linha.")
        rows.append(values)
    return rows


def sha256(path: Path) -> str:
    """O SHA-256 do conteúdo, em hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_bytes(folder: Path) -> int:
    """Bytes dos pesos (safetensors ou GGUF) numa pasta."""
    found = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return sum(file.stat().st_size for file in found)
