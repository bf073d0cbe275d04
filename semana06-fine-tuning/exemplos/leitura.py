"""Ler um conjunto de dados linha a linha, de CSV, JSONL, Parquet ou do hub, sem perder nada.

Duas saídas possíveis para o que está errado: o arquivo inteiro é recusado numa frase (UserError),
quando seguir em frente inventaria dados; ou a linha é entregue como ilegível, com o motivo, e quem
lê a guarda entre as rejeitadas. Nunca se pula uma linha em silêncio.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow
import utils
from pyarrow import parquet

FIELD_LIMIT = 2**20  # caracteres num campo: mais que isso são aspas que não fecharam
NONE = "none"  # na linha de comando: "esta coluna não existe"
OPTIONAL = ("date", "group")
EXTENSIONS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None, ".parquet": None}
MAGIC = {b"PAR1": "um Parquet", b"\x1f\x8b": "um gzip", b"PK\x03\x04": "um zip ou uma planilha",
         b"\xd0\xcf\x11\xe0": "uma planilha antiga", b"SQLite": "um banco SQLite"}  # fmt: skip


@dataclass
class Row:
    """Uma linha de dados: `number` a partir de 0, `line` a do arquivo, `problem` se ilegível."""

    number: int
    line: int
    values: dict[str, str] = field(default_factory=dict)
    original: object = None
    problem: str | None = None


def read(source: str, columns: dict[str, str], encoding: str = "utf-8") -> Iterator[Row]:
    """Entrega as linhas de `source`, uma a uma, com os campos já nos nossos nomes.

    Args:
        source: caminho de um arquivo ou nome de um conjunto do hub (`dono/nome` ou
            `dono/nome:split`).
        columns: nosso nome (`message`, `reply`, `intent`, `date`, `group`) -> coluna da fonte.

    Raises:
        utils.UserError: a fonte não existe, não é do formato que diz ser, está cortada ou não tem
            as colunas.
    """
    path = Path(source)
    if path.is_dir():
        raise utils.UserError(f"{path} é uma pasta; indique o arquivo de dados dentro dela.")
    if not path.exists():
        if path.suffix in EXTENSIONS or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:\w+)?", source):
            raise utils.UserError(f"o arquivo {path} não existe. Confira o caminho em --input.")
        records = _hub(source)
    else:
        records = _file(path, encoding)
    yield from _mapped(records, columns, source)


def columns_of(args) -> dict[str, str]:
    """O mapa de colunas que as opções `--*-column` pedem, sem as que valem `none`."""
    wanted = {"message": args.message_column, "reply": args.reply_column,
              "intent": args.label_column, "date": args.date_column,
              "group": args.group_column}  # fmt: skip
    return {ours: theirs for ours, theirs in wanted.items() if theirs != NONE}


def _file(path: Path, encoding: str) -> Iterator[Row]:
    with path.open("rb") as file:
        start = file.read(4096)
    if not start:
        raise utils.UserError(f"{path} está vazio.")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise utils.UserError(
            f"não sei ler {path.name}: a extensão tem de ser .csv, .tsv, .jsonl ou .parquet."
        )
    if suffix == ".parquet":
        return _parquet(path, start)
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            raise utils.UserError(
                f"{path.name} tem a extensão {suffix}, mas o conteúdo é {name}. Exporte-o como "
                "CSV, JSONL ou Parquet, ou corrija a extensão."
            )
    wide = encoding.lower().replace("-", "").startswith(("utf16", "utf32"))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not wide:
        raise utils.UserError(f"{path.name} está em UTF-16. Repita com --encoding utf-16.")
    if b"\0" in start.split(b"\n")[0] and not wide:
        raise utils.UserError(
            f"a primeira linha de {path.name} tem bytes NUL: é um arquivo binário, ou UTF-16 (se "
            "for, repita com --encoding utf-16)."
        )
    if EXTENSIONS[suffix] is None:
        return _jsonl(path, encoding)
    if start.lstrip().startswith((b"{", b"[")):
        raise utils.UserError(
            f"{path.name} tem a extensão {suffix}, mas o conteúdo é JSON. Se há um objeto por "
            "linha, mude a extensão para .jsonl."
        )
    return _csv(path, encoding, EXTENSIONS[suffix])


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Linhas de texto; a que não se decodifica recusa o arquivo, dizendo onde."""
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (usado no except)
                yield line
    except LookupError as error:
        raise utils.UserError(f"não conheço a codificação {encoding!r} de --encoding.") from error
    except UnicodeError as error:
        raise utils.UserError(
            f"{path.name}, depois da linha {number}: há bytes que não são {encoding}. Se o arquivo "
            "veio de uma planilha, repita com --encoding cp1252."
        ) from error


def _csv(path: Path, encoding: str, delimiter: str) -> Iterator[Row]:
    previous = csv.field_size_limit(FIELD_LIMIT)  # vale para o processo inteiro: devolve-se no fim
    reader = csv.reader(_lines(path, encoding), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise utils.UserError(
                f"o cabeçalho de {path.name} repete a coluna {', '.join(repeated)}: não sei qual "
                "usar. Renomeie uma delas."
            )
        yield Row(-1, 1, original=header)
        line = reader.line_num + 1
        number = 0
        for values in reader:
            # Uma linha em branco não é dado nem defeito, mas também não some: é contada.
            row = Row(number, line, original=values)
            if len(values) != len(header):
                row.problem = f"{len(values)} campos em vez de {len(header)}"
                if not values:
                    row.problem = "linha em branco"
            else:
                row.original = row.values = dict(zip(header, values, strict=True))
            yield row
            number, line = number + 1, reader.line_num + 1
    except csv.Error as error:
        raise utils.UserError(
            f"{path.name}, linha {line}: as aspas não fecham onde deviam ({error}). Um campo com "
            'aspas dobra as de dentro (""). Corrija a linha e repita; nada foi gravado.'
        ) from error
    finally:
        csv.field_size_limit(previous)


def _jsonl(path: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, encoding)):
        row = Row(number, number + 1, original=line.rstrip("\r\n"))
        try:
            values = json.loads(line)
            if isinstance(values, dict):
                row.values = _from_messages(values)
            else:
                row.problem = "não é um objeto JSON"
        except (ValueError, RecursionError) as error:
            row.problem = "linha em branco" if not line.strip() else f"JSON inválido: {error}"
        yield row


def _parquet(path: Path, start: bytes) -> Iterator[Row]:
    if not start.startswith(b"PAR1"):
        raise utils.UserError(f"{path.name} tem a extensão .parquet, mas não é um Parquet.")
    try:
        file = parquet.ParquetFile(path)
        yield Row(-1, 0, original=file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                yield Row(number, number + 1, _from_messages(values), values)
                number += 1
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise utils.UserError(
            f"não consegui ler o Parquet {path.name} ({str(error).splitlines()[0]}): parece "
            "cortado ou estragado. Copie-o de novo."
        ) from error


def _hub(source: str) -> Iterator[Row]:
    from datasets import load_dataset

    name, _, split = source.partition(":")
    try:
        stream = load_dataset(name, split=split or "train", streaming=True)
        for number, values in enumerate(stream):
            yield Row(number, number + 1, _from_messages(values), values)
    except (OSError, ValueError, RuntimeError) as error:
        raise utils.UserError(
            f"não encontrei o arquivo {source}, nem um conjunto com esse nome no hub "
            f"({(str(error).splitlines() or ['sem detalhes'])[0]}). Confira --input e a conexão."
        ) from error


def _from_messages(values: dict) -> dict:
    """Uma conversa (`messages`) vira `message` (primeiro pedido) e `reply` (última resposta)."""
    turns = values.get("messages")
    if not isinstance(turns, list) or "message" in values:
        return values
    said = {"user": [], "assistant": []}
    for turn in turns:
        if isinstance(turn, dict) and turn.get("role") in said:
            said[turn["role"]].append(turn.get("content"))
    first, last = said["user"][:1], said["assistant"][-1:]
    return values | {"message": (first or [""])[0], "reply": (last or [""])[0]}


def _mapped(records: Iterator[Row], columns: dict[str, str], source: str) -> Iterator[Row]:
    """Confere as colunas na primeira linha que as mostra e as renomeia em todas."""
    records = iter(records)
    first = list(islice(records, 1))
    known: list[str] | None = None
    seen = 0
    for row in (x for part in (first, records) for x in part):
        if known is None and (row.number < 0 or row.values):
            known = list(row.original if row.number < 0 else row.values)
            _check_columns(columns, known, source)
        if row.number < 0:
            continue
        seen += 1
        if row.problem is None:
            _rename(row, columns)
        yield row
    if not seen:
        raise utils.UserError(f"{source} só tem o cabeçalho, nenhuma linha de dados.")


def _check_columns(columns: dict[str, str], known: list[str], source: str) -> None:
    missing = {o: t for o, t in columns.items() if t not in known and o not in OPTIONAL}
    if missing:
        flags = {"message": "--message-column", "reply": "--reply-column",
                 "intent": "--label-column"}  # fmt: skip
        wanted = ", ".join(f"{theirs} ({flags[ours]})" for ours, theirs in missing.items())
        raise utils.UserError(
            f"em {source} não há a coluna {wanted}. As que há: {', '.join(map(str, known))}. "
            f"Indique a certa com a opção entre parênteses, ou {NONE} se ela não existe."
        )


def _rename(row: Row, columns: dict[str, str]) -> None:
    values = {}
    for ours, theirs in columns.items():
        value = row.values.get(theirs)
        if value is None:
            value = ""
        elif isinstance(value, list | dict | bytes):
            row.problem = f"a coluna {theirs} não é texto, é {type(value).__name__}"
            return
        value = str(value)
        if "\0" in value:
            row.problem = f"a coluna {theirs} tem bytes NUL"
            return
        values[ours] = value
    row.values = values
