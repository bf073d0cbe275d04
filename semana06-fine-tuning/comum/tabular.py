"""Ler uma tabela feita por alguém (CSV, TSV, JSON, JSONL), aos poucos, sem perder linha calada.

Para o que entra errado há duas saídas: o arquivo inteiro é recusado numa frase (UserError), ou a
linha é entregue com um problema, e quem lê a guarda entre as recusadas.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO
from unicodedata import normalize

from comum.terminal import UserError, reason

COMMAS, OBJECTS = (".csv", ".tsv"), (".json", ".jsonl", ".ndjson")
BINARY = (b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"SQLite")  # planilha, zip …
SINGLE_BYTE = ("cp1252", "mac_roman", "cp850")  # as que se usam para escrever português
LETTERS, SIGNS = set("áàâãéêíóôõúüç"), set("ÁÀÂÃÉÊÍÓÔÕÚÜÇºª°€–—“”‘’…\xa0")
BLOCK = 2**20
_GAP = re.compile(r"[\s,\ufeff]*")


class Record(NamedTuple):
    """Uma linha: o número dela no arquivo, o conteúdo e, se não se lê como objeto, por quê."""

    line: int
    values: object
    problem: str | None = None


def read_table(path: Path, encoding: str = "auto") -> Iterator[Record]:
    """As linhas de `path`, cada uma um dicionário; as em branco não são linhas.

    Args:
        encoding: `auto` a reconhece. O que não se decodifica vira U+FFFD, que quem lê recusa.

    Raises:
        UserError: o arquivo não existe, está vazio, é binário, não é do formato que diz ser, ou o
            cabeçalho não serve.
    """
    if path.is_dir():
        raise UserError(f"{path} é uma pasta; indique o arquivo de dados dentro dela.")
    if not path.exists():
        raise UserError(f"o arquivo {path} não existe. Confira o caminho.")
    suffix = path.suffix.lower()
    if suffix not in COMMAS + OBJECTS:
        known = ", ".join(COMMAS + OBJECTS)
        raise UserError(f"{path} tem um formato desconhecido: só leio {known}.")
    with path.open("rb") as raw:
        start = raw.read(4096)
    if not start.strip(codecs.BOM_UTF8 + codecs.BOM_UTF16 + b"\0 \t\r\n"):
        raise UserError(f"{path} está vazio.")
    if start.startswith(BINARY):
        raise UserError(f"{path} é um binário (planilha, zip?). Exporte-o como CSV ou JSONL.")
    if suffix in COMMAS and start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"["):
        raise UserError(f"o conteúdo de {path} é JSON. Mude a extensão para .jsonl.")
    encoding = recognise(path) if encoding == "auto" else encoding
    # Em JSON só \n termina uma linha: um \r sozinho é um espaço, e U+2028, uma letra qualquer.
    newline = "" if suffix in COMMAS else "\n"
    try:
        with path.open(encoding=encoding, errors="replace", newline=newline) as file:
            yield from _csv(file, path) if suffix in COMMAS else _json(file)
    except LookupError as error:
        raise UserError(f"não conheço a codificação {encoding!r}.") from error


def recognise(path: Path) -> str:
    """A codificação de um texto: UTF-8, se quase tudo nele é UTF-8; senão, a que dá português.

    Um arquivo com trechos em UTF-8 e outros não é tido por UTF-8: lido noutra codificação, ele
    inteiro viria com os acentos estragados. O charset-normalizer se engana em arquivos curtos.
    """
    decoder, good = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in block.split(b"\n")[0]:
            raise UserError(
                f"a primeira linha de {path.name} tem bytes NUL: é um arquivo binário, ou UTF-16 "
                "sem marca. Grave-o em UTF-8 (ou diga a codificação, se houver --encoding)."
            )
        try:
            while block:
                good += sum(not char.isascii() for char in decoder.decode(block))
                block = file.read(BLOCK)
            return "utf-8-sig"
        except UnicodeDecodeError:
            odd = [char for char in block.decode("utf-8", "replace") if not char.isascii()]
    bad = odd.count("\ufffd")
    if 10 * (good + len(odd) - bad) > bad:
        return "utf-8-sig"
    return max(SINGLE_BYTE, key=lambda name: _portuguese(block.decode(name, "replace")))


def _portuguese(text: str) -> int:
    odd = [char for char in text if not char.isascii()]
    return sum((char in LETTERS) - (char not in LETTERS | SIGNS) for char in odd)


def unwritable(text: str) -> str | None:
    """O que há num texto que não se guarda como texto, ou None."""
    if "\0" in text:
        return "tem bytes NUL"
    if re.search("[\ud800-\udfff]", text):
        return "tem meio caractere (um surrogate sem o par)"
    return None


def _csv(file: TextIO, path: Path) -> Iterator[Record]:
    head, skipped = "", -1
    while not head.strip():
        head, skipped = next(file).removeprefix("\ufeff"), skipped + 1
    # As planilhas brasileiras separam por `;`, porque a vírgula é a dos decimais.
    unquoted = re.sub(r'"[^"]*"', "", head)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=unquoted.count)
    if declared := re.fullmatch(r"sep=(.)\s*", head):  # o Excel diz o dele antes do cabeçalho
        delimiter, head, skipped = declared[1], next(file, ""), skipped + 1
    reader = csv.reader(chain([head], file), delimiter=delimiter, strict=True)
    try:
        header = [normalize("NFC", name.strip()) for name in next(reader)]
    except csv.Error as error:
        raise UserError(f"{path}: a primeira linha não é CSV ({error}).") from error
    if repeated := _twice(filter(None, header)):
        raise UserError(
            f"o cabeçalho de {path} repete a coluna {', '.join(repeated)}: não sei qual usar. "
            "Renomeie uma delas."
        )
    while True:
        line = reader.line_num + 1 + skipped
        try:
            values = next(reader, None)
        except csv.Error as error:
            last = reader.line_num + skipped
            span = f"das linhas {line} a {last}, " if last > line else ""
            yield Record(line, None, f"não é CSV: {span}{error} (aspas sem par?)")
            continue
        if values is None:
            return
        if len(values) == len(header):
            named = {name: value for name, value in zip(header, values, strict=True) if name}
            yield Record(line, named)
        elif values:
            yield Record(line, values, f"{len(values)} campos em vez de {len(header)}")


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _json(file: TextIO) -> Iterator[Record]:
    repeated: list[str] = []

    def noted(pairs: list[tuple[str, object]]) -> dict:
        found = {normalize("NFC", name): value for name, value in pairs}
        if len(found) < len(pairs):
            repeated.extend(_twice([normalize("NFC", name) for name, _ in pairs]))
        return found

    def checked(line: int, values: object) -> Record:
        problem = None if isinstance(values, dict) else "não é um objeto JSON"
        if repeated:
            # O segundo valor ganharia em silêncio: qual dos dois é o certo não se sabe.
            problem = f"a chave {repeated[0]} aparece duas vezes"
            repeated.clear()
        return Record(line, values, problem)

    decoder = json.JSONDecoder(object_pairs_hook=noted)
    head = next(filter(str.strip, file)).strip("\ufeff \t\r\n")
    file.seek(0)
    if not (head.startswith("{") and head.endswith("}")):
        try:
            # Uma lista, ou objetos de várias linhas: só se entende o arquivo inteiro.
            yield from [checked(*found) for found in _whole(file.read(), decoder)]
            return
        except (ValueError, RecursionError):
            file.seek(0)  # não é: vai linha a linha, e as ruins dizem por quê
            repeated.clear()
    for line, text in enumerate(file, 1):
        if text := text.strip("\ufeff \t\r\n"):
            try:
                record = checked(line, decoder.decode(text))
                yield record._replace(values=text) if record.problem else record
            except (ValueError, RecursionError) as error:
                repeated.clear()
                yield Record(line, text, reason(error))


def _whole(text: str, decoder: json.JSONDecoder) -> Iterator[tuple[int, object]]:
    """(linha, valor) de uma lista, ou de valores seguidos; ValueError se algo sobra ou falta."""
    place, line, counted = _GAP.match(text).end(), 1, 0
    listed = text.startswith("[", place)
    place = _GAP.match(text, place + listed).end()
    while place < len(text) and not (listed and text[place] == "]"):
        values, end = decoder.raw_decode(text, place)
        line += text.count("\n", counted, place)
        yield line, values
        place, counted = _GAP.match(text, end).end(), place
    if listed and text[place:].strip() != "]":
        raise ValueError("a lista não termina onde devia")
