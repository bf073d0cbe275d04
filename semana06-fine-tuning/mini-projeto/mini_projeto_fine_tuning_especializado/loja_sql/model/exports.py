"""O que export.py deixou ao lado de um adaptador: as formas que há, e de que treino saíram."""

import argparse
import hashlib
from pathlib import Path

from comum.files import sha256, weights_bytes, write_json
from comum.numbers import decimal, megabytes
from comum.results import Shape
from comum.terminal import UserError

from pydantic import Field

GGUF_FORMS = ("q8_0", "q4_k_m", "q4_0", "f16")  # na ordem em que `auto` as prefere
ADAPTER = "adapter"  # não é um modelo inteiro: o LoRA como se publica
FORMS = (ADAPTER, "bf16", "nf4", "gptq", *GGUF_FORMS)
EXPORT_FOLDER = "exported"
MANIFEST = "exported.json"
EXPORT_COMMAND = "python export.py"


class Merge(Shape):
    """A fusão em float32: o quanto os logits mudaram em algumas perguntas."""

    largest_difference: float
    questions: int
    same_tokens: float  # fração das posições com o mesmo token mais provável

    @property
    def shown(self) -> str:
        return f"{self.largest_difference:.1e}".replace(".", ",")


class Form(Shape):
    """Uma forma gravada, em `path` (relativo à pasta da exportação), ou por que faltou."""

    path: str | None = None
    bytes: int | None = None
    seconds: float | None = None
    missing: str | None = None


class Manifest(Shape):
    """O `exported.json`; sem fusão depois de um treino de todos os pesos."""

    adapter_sha256: str
    base: str
    merge: Merge | None = None
    forms: dict[str, Form] = Field(default_factory=dict)

    def save(self, folder: Path) -> None:
        write_json(folder / MANIFEST, self.model_dump())

    def ready(self, folder: Path) -> dict[str, Path]:
        """As formas que estão mesmo na pasta, inteiras: nome → pasta ou arquivo GGUF."""
        paths = {name: folder / form.path for name, form in self.forms.items() if form.path}
        return {n: path for n, path in paths.items() if size_of(path) == self.forms[n].bytes}

    def table(self) -> list[tuple[str, ...]]:
        """Forma, tamanho, tempo e onde está, ou o que falta: as linhas de uma tabela."""
        return [
            (name, "", "", f"falta: {form.missing}")
            if form.missing
            else (name, megabytes(form.bytes), decimal(form.seconds, unit=" s"), form.path)
            for name, form in self.forms.items()
        ]


def size_of(path: Path) -> int:
    """Os bytes dos pesos de uma forma: um GGUF, ou uma pasta; zero se ela não está lá."""
    return path.stat().st_size if path.is_file() else weights_bytes(path)


def read_manifest(adapter: Path) -> Manifest | None:
    """O manifesto da exportação deste adaptador; None se não há, ou se é de outro treino.

    Raises:
        UserError: o arquivo está estragado.
    """
    path = adapter / EXPORT_FOLDER / MANIFEST
    if not path.is_file():
        return None
    try:
        found = Manifest.load(path)
    except UserError as error:
        again = f"exporte de novo: {EXPORT_COMMAND} --force"
        raise UserError(f"{path} está estragado; {again}") from error
    return found if found.adapter_sha256 == adapter_digest(adapter) else None


def adapter_digest(adapter: Path) -> str:
    """SHA-256 dos pesos treinados: liga a exportação ao treino de que ela saiu."""
    digests = [sha256(path) for path in sorted(adapter.glob("*.safetensors"))]
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def exported_forms(adapter: Path) -> dict[str, Path]:
    """As formas exportadas deste treino, e não de outro: nome → pasta ou arquivo GGUF."""
    manifest = read_manifest(adapter)
    return {} if manifest is None else manifest.ready(adapter / EXPORT_FOLDER)


def form_list(text: str) -> list[str]:
    """Lê `bf16,q8_0` ou `all` na linha de comando; uma forma repetida vale uma vez."""
    names = FORMS if text == "all" else dict.fromkeys(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        wrong, there = ", ".join(unknown), ", ".join(FORMS)
        raise argparse.ArgumentTypeError(f"forma desconhecida: {wrong} (há: {there}, ou all)")
    return list(names)
