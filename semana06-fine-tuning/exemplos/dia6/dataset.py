"""O arquivo que entra e a pasta que sai, sem carregar nenhum dos dois na memória.

Para o que entra errado há duas saídas: o arquivo inteiro é recusado numa frase (UserError), quando
seguir em frente inventaria dados; ou a linha é entregue com um `problem`, e quem lê a guarda entre
as rejeitadas. Nunca se pula uma linha em silêncio.
"""

import codecs
import csv
import json
import os
import platform
import re
import textwrap
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path

from comum import files, tables
from comum.labels import DIRT, SPLITS
from comum.numbers import comma_axes, decimal, percent
from comum.results import Day6Data, Quantiles, Result
from comum.terminal import UserError, progress
from comum.text import jaccard

import charset_normalizer
import datasets
import matplotlib
import numpy
from datasketch import MinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dia6 import texts

COLUMNS = ("message", "reply", "label", "date", "group")
FIELD_LIMIT = 2**20  # caracteres num campo: mais que isso são aspas que não fecharam
BINARY = (b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"SQLite")  # planilha, zip …
SINGLE_BYTE = ["cp1252", "mac_roman", "cp850"]  # as que se usam para escrever português
FILES = {"train": "treino", "validation": "validacao", "test": "teste"}
SAMPLE = 5000  # linhas de cada parte na ficha e nas figuras
Record = dict[str, object]
Lines = Iterator[tuple[int, object, str | None]]  # número da linha, conteúdo, o que há de errado

# --- ler ----------------------------------------------------------------------------------------


def read(source: str, columns: dict[str, str], encoding: str = "auto") -> Iterator[Record]:
    """Entrega as linhas de `source`, com `number` (a partir de 0), `line` (a do arquivo), os campos
    de `COLUMNS`, `problem` (vazio se a linha se lê) e `original` (a linha como veio, em JSON).

    Args:
        source: caminho de um arquivo ou nome de um conjunto do hub (`dono/nome:parte`).
        columns: campo de `COLUMNS` -> coluna da fonte.
        encoding: a de um CSV ou JSONL; `auto` a reconhece.

    Raises:
        UserError: a fonte não existe, não é do formato que diz ser, está cortada ou não tem as
            colunas.
    """
    number, known = 0, None
    for line, values, problem in _records(source, encoding):
        if isinstance(values, dict) and known is None:
            known = list(values)
            _check_columns(columns, known, source)
        if line == 0:
            continue  # o cabeçalho só serve para conferir as colunas
        for turn, wrong in _turns(values, problem, line, columns.get("group")):
            place = {"number": number, "line": line, "original": json.dumps(values, default=str)}
            yield place | _fields(turn, wrong, columns)
            number += 1
    if not number:
        raise UserError(f"{source} só tem o cabeçalho, nenhuma linha de dados.")


def load(source: str, columns: dict[str, str], encoding: str, work: Path) -> datasets.Dataset:
    """As linhas de `read` num Arrow dentro de `work`: o disco as guarda, não a memória."""
    types = dict.fromkeys(("number", "line"), datasets.Value("int64"))
    types |= dict.fromkeys((*COLUMNS, "problem", "original"), datasets.Value("string"))
    asked = {"source": source, "columns": columns, "encoding": encoding}
    options = {"features": datasets.Features(types), "cache_dir": str(work), "gen_kwargs": asked}
    try:
        rows = datasets.Dataset.from_generator(read, fingerprint="rows", **options)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None  # o erro de quem lê, não o de quem o embrulha
    print("As primeiras linhas, como vieram:\n")
    for row in rows.select(range(min(4, len(rows)))):
        print(f"  {row['line']:>4}: {row['problem'] or textwrap.shorten(row['message'], 90)}")
    return rows


def reserved(path: Path | None) -> list[str]:
    """As mensagens do teste oficial, um JSONL em formato chat."""
    if path and not path.is_file():
        raise UserError(f"o arquivo {path} não existe. Confira o caminho em --reserved.")
    columns = {"message": "message", "reply": "reply"}
    return [str(row["message"]) for row in read(str(path), columns)] if path else []


def _fields(values: Record, problem: str | None, columns: dict[str, str]) -> Record:
    """Os campos com os nossos nomes; todos vazios numa linha que não se lê."""
    empty = dict.fromkeys(COLUMNS, "")
    if problem:
        return empty | {"problem": problem}
    fields = {ours: values.get(theirs) for ours, theirs in columns.items()}
    for name, value in fields.items():
        text = fields[name] = "" if value is None else str(value)
        if isinstance(value, list | dict | bytes):
            problem = f"a coluna {columns[name]} não é texto, é {type(value).__name__}"
        elif "\0" in text:
            problem = f"a coluna {columns[name]} tem bytes NUL"
        elif re.search("[\ud800-\udfff]", text):
            problem = f"a coluna {columns[name]} tem meio caractere (um surrogate sem o par)"
    return empty | {"problem": problem} if problem else empty | fields | {"problem": ""}


def _turns(values, problem: str | None, line: int, group: str) -> Iterator[tuple]:
    """Uma conversa (`messages`) vira um par por resposta; falas seguidas de um lado se juntam.

    Os pares da mesma conversa ficam no mesmo grupo: um deles no teste e outro no treino vazariam.
    """
    turns = values.get("messages") if isinstance(values, dict) else None
    if problem or not isinstance(turns, list) or "message" in values:
        yield values, problem
        return
    said = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") != "system"]
    sides = []
    for role, turns_of_role in groupby(said, key=lambda turn: turn.get("role")):
        contents = [turn.get("content") for turn in turns_of_role]
        if role not in ("user", "assistant") or not all(isinstance(c, str) for c in contents):
            yield values, f"uma mensagem de {role!r} não é texto de user nem de assistant"
            return
        sides.append((role, "\n".join(contents)))
    if not sides or sides[0][0] == "assistant":
        sides.insert(0, ("user", ""))
    if len(sides) % 2:
        sides.append(("assistant", ""))
    several = {group: f"linha {line}"} if len(sides) > 2 and not values.get(group) else {}
    for (_, message), (_, reply) in zip(sides[::2], sides[1::2], strict=True):
        yield {**values, "message": message, "reply": reply, **several}, None


def _records(source: str, encoding: str) -> Lines:
    """Linhas de qualquer fonte; a linha 0 traz os nomes das colunas."""
    path, suffix = Path(source), Path(source).suffix.lower()
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl}
    if path.is_dir():
        raise UserError(f"{path} é uma pasta; indique o arquivo de dados dentro dela.")
    if not path.exists():
        name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:\w+)?", source)
        if suffix in (*readers, ".parquet") or not name:
            raise UserError(f"o arquivo {path} não existe. Confira o caminho em --input.")
    elif not path.stat().st_size:
        raise UserError(f"{path} está vazio.")
    elif suffix in readers:
        with path.open("rb") as file:
            start = file.read(4096)
        if start.startswith(BINARY):
            raise UserError(
                f"{path.name} é um binário (planilha, zip?). Exporte-o como CSV ou JSONL."
            )
        if readers[suffix] is _csv and start.lstrip().startswith((b"{", b"[")):
            raise UserError(f"o conteúdo de {path.name} é JSON. Mude a extensão para .jsonl.")
        yield from readers[suffix](path, recognise(path) if encoding == "auto" else encoding)
        return
    elif suffix != ".parquet":
        raise UserError(f"não sei ler {path.name}: só .csv, .tsv, .jsonl ou .parquet.")
    yield from _streamed(source)


def recognise(path: Path) -> str:
    """A codificação de um texto: UTF-8 quando o é do começo ao fim; senão, a que o texto sugere.

    Um arquivo com trechos em UTF-8 e outros não é tido por UTF-8: lido noutra codificação, ele
    inteiro viria com os acentos estragados.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        block = file.read(2**20)
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in block.split(b"\n")[0]:
            raise UserError(
                f"a primeira linha de {path.name} tem bytes NUL: é um arquivo binário, ou UTF-16 "
                "(se for, repita com --encoding utf-16)."
            )
        try:
            while block:
                decoder.decode(block)
                block = file.read(2**20)
            return "utf-8-sig"
        except UnicodeDecodeError:
            mixed = not block.decode("utf-8", "replace").replace("\ufffd", "").isascii()
    best = charset_normalizer.from_bytes(block, cp_isolation=SINGLE_BYTE).best()
    return best.encoding if best and not mixed else "utf-8-sig"


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Linhas de texto; a que não se decodifica recusa o arquivo, dizendo onde."""
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (usado no except)
                yield line
    except LookupError as error:
        raise UserError(f"não conheço a codificação {encoding!r} de --encoding.") from error
    except UnicodeError as error:
        raise UserError(
            f"{path.name}, depois da linha {number}: há bytes que não são {encoding}. Se o arquivo "
            "veio de uma planilha, repita com --encoding cp1252."
        ) from error


def _csv(path: Path, encoding: str) -> Lines:
    lines = _lines(path, encoding)
    head = next(lines).removeprefix("\ufeff")
    # As planilhas brasileiras separam por `;`, porque a vírgula é a dos decimais.
    unquoted = re.sub(r'"[^"]*"', "", head)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=unquoted.count)
    previous = csv.field_size_limit(FIELD_LIMIT)  # vale para o processo inteiro: devolve-se no fim
    reader = csv.reader(chain([head], lines), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        names = [name for name in header if name.strip()]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UserError(
                f"o cabeçalho de {path.name} repete a coluna {', '.join(repeated)}: não sei qual "
                "usar. Renomeie uma delas."
            )
        yield 0, dict.fromkeys(names), None
        line = reader.line_num + 1
        for values in reader:
            if len(values) == len(header):
                fields = zip(header, values, strict=True)
                yield line, {name: value for name, value in fields if name.strip()}, None
            else:
                blank = None if values else "linha em branco"
                yield line, values, blank or f"{len(values)} campos em vez de {len(header)}"
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path.name}, linha {line}: as aspas não fecham onde deviam ({error}). Um campo com "
            'aspas dobra as de dentro (""). Corrija a linha e repita; nada foi gravado.'
        ) from error
    finally:
        csv.field_size_limit(previous)


def _jsonl(path: Path, encoding: str) -> Lines:
    def unique(pairs: list[tuple[str, object]]) -> dict:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        if twice:
            # O segundo valor ganharia em silêncio: qual dos dois é o certo não se sabe.
            raise ValueError(f"a chave {twice[0]} aparece duas vezes")
        return dict(pairs)

    for line, text in enumerate(_lines(path, encoding), 1):
        text = text.rstrip("\r\n")
        try:
            values = json.loads(text, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            yield line, text, f"JSON inválido: {error}" if text.strip() else "linha em branco"
        else:
            known = isinstance(values, dict)
            yield line, values if known else text, None if known else "não é um objeto JSON"


def _streamed(source: str) -> Lines:
    """Um Parquet, ou um conjunto do hub, lidos aos poucos pelo datasets."""
    name, _, split = source.partition(":")
    options = {"path": name, "split": split or "train"}
    if Path(source).exists():
        options = {"path": "parquet", "data_files": source, "split": "train"}
    try:
        stream = datasets.load_dataset(**options, streaming=True)
        if stream.column_names:
            yield 0, dict.fromkeys(stream.column_names), None
        yield from ((line, values, None) for line, values in enumerate(stream, 1))
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["sem detalhes"])[0]
        raise UserError(
            f"não consegui ler {source} ({reason}): não é um Parquet inteiro, nem um conjunto com "
            "esse nome no hub. Confira --input e a conexão."
        ) from error


def _check_columns(columns: dict[str, str], known: list[str], source: str) -> None:
    if "messages" in known:
        known = [*known, "message", "reply"]
    needed = {ours: columns[ours] for ours in ("message", "reply", "label") if ours in columns}
    missing = [f"{name} (--{ours}-column)" for ours, name in needed.items() if name not in known]
    if missing:
        raise UserError(
            f"em {source} não há a coluna {', '.join(missing)}. As que há: {', '.join(known)}. "
            f"Indique a certa com a opção entre parênteses, ou none se ela não existe."
        )


# --- o conjunto inteiro -------------------------------------------------------------------------


def step(rows: datasets.Dataset, change: Callable[[Record], Record], label: str, **options):
    """`rows.map`, com `change` linha a linha e a nossa barra; o resultado fica no disco.

    O `new_fingerprint` do datasets vem do nome do passo, e não de um hash do código: os mesmos
    dados dão os mesmos bytes em qualquer máquina.
    """
    with progress(None, label, "linha", len(rows)) as bar:

        def batch(columns: dict[str, list]) -> dict[str, list]:
            records = zip(*columns.values(), strict=True)
            changed = [change(dict(zip(columns, record, strict=True))) for record in records]
            bar.update(len(changed))
            return {name: [record[name] for record in changed] for name in changed[0]}

        options.setdefault("new_fingerprint", f"{rows._fingerprint}-{label}"[-60:])
        return rows.map(batch, batched=True, **options)


def each(rows: datasets.Dataset, *names: str) -> Iterator[Record]:
    """As linhas, uma a uma, lidas em lotes: quatro vezes mais depressa que `for row in rows`."""
    for batch in (rows.select_columns([*names]) if names else rows).iter(1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def texts_of(rows: datasets.Dataset) -> Iterator[str]:
    """As mensagens já normalizadas."""
    return (row["normal"] for row in each(rows, "normal"))


def column(rows: datasets.Dataset, name: str) -> numpy.ndarray:
    """Uma coluna de números: [linhas]."""
    return rows.with_format("numpy")[name][:]


def alive(rows: datasets.Dataset) -> numpy.ndarray:
    """As linhas que ainda não têm motivo para sair.

    Raises:
        UserError: não sobrou nenhuma.
    """
    reasons = rows["reason"][:]
    found = numpy.flatnonzero([not reason for reason in reasons])
    if not len(found):
        counted = ", ".join(f"{DIRT[kind]}: {n}" for kind, n in Counter(reasons).items())
        problem = next((f"; a primeira: {text}" for text in rows["problem"] if text), "")
        raise UserError(f"nenhuma linha foi aceita ({counted}{problem}). Confira as colunas.")
    return found


def judge(rows: datasets.Dataset, columns: dict[str, str], args) -> datasets.Dataset:
    """O juízo que só existe diante do conjunto: que rótulos são os certos, como se termina."""
    corpus = texts.Corpus()
    fine = rows.filter(lambda reason: not reason, input_columns="reason", new_fingerprint="fine")
    for row in each(fine, "message", "reply", "label"):
        corpus.count(**row)
    corpus.freeze()
    known = sorted(args.labels) or corpus.known_labels()
    meant = lru_cache(10_000)(lambda label: texts.match_label(label, known) or "")

    def change(row: Record) -> Record:
        message, reply, label, reason = (row[k] for k in ("message", "reply", "label", "reason"))
        kinds, intent, unfit = row["kinds"].split(), "", ""
        if not reason and "label" in columns:
            intent = meant(label)
            # Sem rótulo, a linha ainda serve para conversar: só não serve para classificar.
            unfit = "" if intent else "label_unknown"
            kinds += [unfit] if unfit else ["label_misspelt"] if intent != label else []
        if not reason and (corpus.truncated(message, False) or corpus.truncated(reply, True)):
            reason = "truncated"
            kinds.append(reason)
        found = {"kinds": " ".join(kinds), "reason": reason, "intent": intent, "unfit": unfit}
        found |= {"place": known.index(intent) if intent else -1, "twin": -1, "split": ""}
        # Somas do conteúdo: nem as iguais nem o sorteio dependem da ordem do arquivo.
        same, draw = (repr((message, reply, intent or label)), f"{args.seed}|{message}")
        sums = {"same": same, "draw": draw, "talk": row["group"]}
        return found | {name: texts.number_of(text) for name, text in sums.items()}

    return step(rows, change, "Julgando")


def repeated(rows: datasets.Dataset, alive: numpy.ndarray) -> dict[int, int]:
    """As iguais a uma anterior em tudo: linha -> a primeira."""
    same = column(rows, "same")[alive]
    _, first, back = numpy.unique(same, return_index=True, return_inverse=True)
    later = alive != alive[first[back]]
    return dict(zip(alive[later].tolist(), alive[first[back]][later].tolist(), strict=True))


def mark(rows: datasets.Dataset, removed: dict, exact: dict, unfit: set) -> datasets.Dataset:
    """Anota nas linhas o que se decidiu: `removed` (linha -> motivo e gêmea) e `unfit`."""

    def change(row: Record) -> Record:
        number, kinds = row["number"], row["kinds"].split()
        reason, twin = removed.get(number, (row["reason"], -1))
        unfit_for = "conflict" if number in unfit else row["unfit"]
        kinds += ["duplicate_exact"] * (number in exact)
        kinds += [kind for kind in (reason, unfit_for) if kind and kind not in kinds]
        return {"kinds": " ".join(kinds), "reason": reason, "twin": twin, "unfit": unfit_for}

    return step(rows, change, "Marcando")


def same_conversation(rows: datasets.Dataset) -> numpy.ndarray:
    """Pares de linhas seguidas da mesma conversa: [pares, 2]."""
    talk = column(rows, "talk")
    order = numpy.argsort(talk, kind="stable")
    order = order[talk[order] != texts.number_of("")]
    pairs = numpy.stack([order[:-1], order[1:]], axis=1)
    return pairs[talk[pairs[:, 0]] == talk[pairs[:, 1]]]


def connected(pairs: numpy.ndarray, size: int) -> numpy.ndarray:
    """O grupo de cada linha, se cada par ([pares, 2]) junta os grupos das suas duas: [size]."""
    left, right = pairs.T
    graph = coo_array((numpy.ones(len(left)), (left, right)), (size, size))
    return connected_components(graph, directed=False)[1]


def draw(rows: datasets.Dataset, groups: numpy.ndarray, args) -> numpy.ndarray:
    """0 (treino), 1 (validação) ou 2 (teste) para cada linha: [linhas].

    Em cada rótulo, os primeiros grupos do sorteio enchem o teste e os seguintes, a validação.
    """
    _, first, back, sizes = numpy.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    order, label = column(rows, "draw")[first], column(rows, "place")[first]
    chosen, room = numpy.zeros(len(first), numpy.int8), {}
    for part, share in ((2, args.test), (1, args.validation)):
        share = min(share, args.max_held_out / len(rows))
        for name in numpy.unique(label).tolist():
            room[part, name] = round(share * sizes[label == name].sum())
    for group in numpy.lexsort((first, order, label)).tolist():
        for part in (2, 1):
            # Um grupo grande demais para o lugar que resta vai para o treino.
            if room[part, label[group]] >= sizes[group]:
                room[part, label[group]] -= sizes[group]
                chosen[group] = part
                break
    return chosen[back]


# --- quase iguais, sem comparar todas com todas -------------------------------------------------

BANDS, BAND_ROWS = 64, 5


def candidates(pool: datasets.Dataset) -> numpy.ndarray:
    """Pares que coincidem numa faixa do MinHash: [pares, 2].

    Embaralhe todas as sequências de letras possíveis: a chance de duas mensagens terem a mesma
    primeira é o seu Jaccard J (Broder, 1997). Com 320 embaralhamentos, a mensagem cabe em 320
    números; de 5 em 5, são 64 faixas, e quem coincide numa inteira é candidato (Indyk e Motwani,
    1998): com J = 0,6, 99% dos pares; com J = 0,1, 0,06%.

    As assinaturas são do datasketch. As faixas ficam no Arrow, e uma de cada vez vem à memória e é
    ordenada: o `MinHashLSH` dele as guardaria todas, alguns GB para um milhão de linhas.
    """
    base = MinHash(num_perm=BANDS * BAND_ROWS, seed=6, hashfunc=zlib.crc32)
    shared = {"permutations": base.permutations, "scheme": base.scheme, "hashfunc": zlib.crc32}

    def sign(row: dict) -> dict:
        signature = MinHash(num_perm=BANDS * BAND_ROWS, **shared)
        signature.update_batch(gram.encode() for gram in texts.shingles(row["normal"]))
        raw, size = signature.hashvalues.tobytes(), BAND_ROWS * 4
        return {"bands": [zlib.crc32(raw[i : i + size]) for i in range(0, len(raw), size)]}

    feature = datasets.Features({"bands": datasets.List(datasets.Value("uint32"), length=BANDS)})
    signed = step(pool, sign, "Assinando", remove_columns="normal", features=feature)
    chunks = [
        chunk.flatten().to_numpy().reshape(-1, BANDS) for chunk in signed.data["bands"].chunks
    ]
    found = numpy.empty(0, numpy.int64)
    for band in range(BANDS):
        hashes = numpy.concatenate([chunk[:, band] for chunk in chunks])
        order = numpy.argsort(hashes, kind="stable")
        same = numpy.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        # Num grupo de k iguais, cada uma com a primeira e com a anterior: 2k pares, e não k²/2.
        starts = numpy.flatnonzero(numpy.diff(same, prepend=-1) != 1)
        first = numpy.repeat(same[starts] - 1, numpy.diff(numpy.append(starts, len(same))))
        for left in (first, same - 1):
            found = numpy.union1d(found, order[left] << 32 | order[same])
    return numpy.stack([found >> 32, found & 0xFFFFFFFF], axis=1)


def minhash_pairs(pool: datasets.Dataset, least: float) -> Iterator[tuple[int, int, float]]:
    """Os candidatos que são mesmo parecidos: (antes, depois, Jaccard), em ordem."""
    found = candidates(pool)
    found = found[numpy.lexsort((found[:, 0], found[:, 1]))]
    with progress(None, "Comparando", "par", len(found)) as bar:
        for start in range(0, len(found), 1000):
            some = found[start : start + 1000]
            sides = (pool[side.tolist()]["normal"] for side in some.T)
            for (earlier, later), left, right in zip(some.tolist(), *sides, strict=True):
                likeness = jaccard(texts.shingles(left), texts.shingles(right))
                if likeness >= least:
                    yield earlier, later, likeness
            bar.update(len(some))


def predict_minhash(pool: datasets.Dataset, exact: list, seconds: float) -> None:
    """Preveja quantos dos pares o MinHash acharia, e confira."""
    started = time.perf_counter()
    found = {tuple(pair) for pair in candidates(pool).tolist()}
    quick, size = time.perf_counter() - started, 1e6 / len(pool)
    print(
        f"Todas com todas: {decimal(seconds, 1, ' s')}; um milhão de linhas levaria "
        f"{decimal(seconds * size**2 / 86400)} dias. MinHash: {decimal(quick, 1, ' s')}; um "
        f"milhão, {decimal(quick * size / 60)} minutos."
    )
    table = []
    for low in (0.3, 0.4, 0.5, 0.6):
        some = [(a, b, j) for a, b, j in exact if low <= j < low + 0.1 or j >= low == 0.6]
        # Um par coincide numa faixa de 5 posições com chance J⁵; em alguma das 64, 1 - (1 - J⁵)⁶⁴.
        predicted = [1 - (1 - j**BAND_ROWS) ** BANDS for *_, j in some]
        hits = [(a, b) in found for a, b, _ in some]
        if some:
            shares = (percent(numpy.mean(share)) for share in (predicted, hits))
            table.append((f"de {decimal(low, 1)}", len(some), *shares))
    tables.show(["Jaccard", "pares", "previsto", "achados"], table)


# --- gravar -------------------------------------------------------------------------------------

PROMPT = "Mensagem do cliente: {}\nResposta da loja:"


def save(parts: dict[str, datasets.Dataset], folder: Path) -> None:
    """Grava as partes de um formato em JSONL e em Arrow (`datasets.load_from_disk`)."""
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        rows.info.splits = rows.info.dataset_size = rows.info.size_in_bytes = None  # os da fonte
        with (folder / f"{FILES[part]}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in each(rows))
    filled = {part: rows for part, rows in parts.items() if len(rows)}
    datasets.DatasetDict(filled).save_to_disk(folder / "arrow")


def messages(folder: Path, part: str) -> Iterator[str]:
    """As mensagens que se gravaram, em qualquer dos formatos."""
    before, after = PROMPT.split("{}")
    with (folder / f"{FILES[part]}.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            turns = row.get("messages") or [{"content": row.get("text") or row.get("prompt")}]
            yield turns[0]["content"].removeprefix(before).removesuffix(after)


def sample(folder: Path, part: str, limit: int | None) -> list[dict]:
    """Linhas de uma parte, no máximo `limit`, espalhadas pelo arquivo.

    Raises:
        UserError: o preparo ainda não gravou esse arquivo, ou ele está vazio.
    """
    rows = files.read_jsonl(folder / f"{FILES[part]}.jsonl")
    if not rows:
        raise UserError(f"{folder} tem linhas de menos para treinar e medir.")
    pace = max(1.0, len(rows) / limit) if limit else 1.0
    return [rows[int(place * pace)] for place in range(min(limit or len(rows), len(rows)))]


def conversations(folder: Path, part: str, limit: int | None) -> list[list[dict[str, str]]]:
    """As linhas de `sample`, de qualquer formato de texto, como conversas de duas mensagens."""
    pairs = (("user", "prompt"), ("assistant", "completion"))
    return [
        row.get("messages") or [{"role": role, "content": row[key]} for role, key in pairs]
        for row in sample(folder, part, limit)
    ]


def write_reports(rows: datasets.Dataset, folder: Path) -> None:
    """Grava as rejeitadas, inteiras e com o motivo, e o que se achou em cada linha, sem os textos
    (teriam dados pessoais)."""
    # Meio caractere não se grava em UTF-8; escapado, é o JSON que veio.
    options = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with (
        (folder / "rejeitados.jsonl").open(**options) as refused,
        (folder / "consertos.jsonl").open(**options) as repaired,
    ):
        for row in each(rows):
            place = {"record": row["number"], "line": row["line"]}
            if why := row["reason"] or row["unfit"]:
                entry = place | {"reason": why, "explanation": DIRT[why]}
                entry["detail"] = row["problem"] or None
                entry["twin"] = row["twin"] if row["twin"] >= 0 else None
                entry["excluded_from"] = "all" if row["reason"] else "classification"
                entry["original"] = json.loads(row["original"])
                refused.write(json.dumps(entry, ensure_ascii=False) + "\n")
            if row["kinds"]:
                entry = place | {"kinds": row["kinds"].split(), "split": row["split"] or None}
                repaired.write(json.dumps(entry) + "\n")


def describe(rows: datasets.Dataset, tokenizer) -> dict[str, dict]:
    """Comprimentos em tokens, rótulos e palavras de cada parte (até `SAMPLE` linhas dela)."""
    found: dict[str, dict] = {"lengths": {}, "labels": {}, "words": {}}
    for split in SPLITS:
        part = rows.filter(lambda s, split=split: s == split, input_columns="split")
        counts = Counter(row["intent"] for row in each(part, "intent", "unfit") if not row["unfit"])
        del counts[""]
        found["labels"][split] = dict(sorted(counts.items()))
        sample = part.select(range(0, len(part), -(-len(part) // SAMPLE) or 1))
        said = [*sample["message"][:], *sample["reply"][:]]
        ids = tokenizer(said, add_special_tokens=False).input_ids if said else []
        sizes = [len(ids[n]) + len(ids[n + len(sample)]) for n in range(len(sample))]
        found["lengths"][split] = sorted(sizes)
        found["words"][split] = Counter(w for t in said for w in re.findall(r"\w+", t.lower()))
    return found


def quantiles(ordered: list[int]) -> Quantiles:
    """Mínimo, mediana, percentil 95 e máximo de uma lista ordenada, não vazia."""
    low, median, p95, high = (ordered[round(q * (len(ordered) - 1))] for q in (0, 0.5, 0.95, 1))
    return Quantiles(minimum=low, median=median, p95=p95, maximum=high)


def report(rows, folder: Path, args, formats: dict, naive: tuple[int, int], tokenizer) -> Day6Data:
    """Conta, mostra e grava o que se sabe do conjunto: rejeitadas, ficha, manifesto e figuras."""
    stats, dirt, rejected = describe(rows, tokenizer), Counter(), Counter()
    for row in each(rows, "kinds", "reason", "unfit"):
        dirt.update(row["kinds"].split())
        rejected.update([row["reason"] or row["unfit"]])
    del rejected[""]
    seen, test = stats["words"]["train"], stats["words"]["test"]
    covered = sum(times for word, times in test.items() if word in seen)
    result = Day6Data(
        seed=args.seed,
        minutes=0,
        source=Path(args.input).name,
        read=len(rows),
        accepted=rows["reason"][:].count(""),
        formats=formats,
        dirt={kind: dirt[kind] for kind in DIRT if dirt[kind]},
        rejected=dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        labels=stats["labels"],
        tokens={split: quantiles(x) for split, x in stats["lengths"].items() if x},
        vocabulary_coverage=covered / test.total() if test else None,
        naive_leaks=naive[0],
        naive_held_out=naive[1],
    )
    show(result, examples(rows))
    write_reports(rows, folder)
    plot(stats, folder / "figuras.png")
    write_card(folder, args, result, len(seen))
    write_manifest(folder, args, result)
    return result


def summary(result: Day6Data) -> dict[str, tuple[list[str], list[tuple]]]:
    """As tabelas da ficha e do terminal: cabeçalho e linhas."""
    dirt = [(DIRT[kind], count) for kind, count in result.dirt.items()]
    rejected = [(DIRT[kind], count) for kind, count in result.rejected.items()]
    formats = [(f"{name}/", *counts.values()) for name, counts in result.formats.items()]
    tokens = [(SPLITS[split], *dict(found).values()) for split, found in result.tokens.items()]
    sizes = ["tokens por linha", "mínimo", "mediana", "95% até", "máximo"]
    return {
        "dirt": (["sujeira achada", "linhas"], dirt),
        "rejected": (["fora, por motivo", "linhas"], rejected),
        "formats": (["formato", *SPLITS.values()], formats),
        "tokens": (sizes, tokens),
    }


def show(result: Day6Data, found: dict[str, tuple[str, str]]) -> None:
    """O que se achou, com um antes e depois de cada tipo, e para onde foi cada linha."""
    print(f"\n{result.read} linhas lidas, {result.accepted} aceitas")
    for header, rows in summary(result).values():
        tables.show(header, rows)
    for kind, (before, after) in found.items():
        print(f"\n{DIRT[kind]}:\n  {before!r}\n  {after!r}")
    print(
        f"\nvazamentos nos arquivos gravados: 0 (mais que isso e nada teria sido gravado)\n"
        f"com um sorteio simples das linhas brutas: {result.naive_leaks} das "
        f"{result.naive_held_out} reservadas estariam no treino\n"
        f"palavras do teste que o treino já mostrou: {percent(result.vocabulary_coverage)}"
    )


def examples(rows: datasets.Dataset) -> dict[str, tuple[str, str]]:
    """Uma linha de cada tipo: antes e depois, em volta do que mudou; das que saíram, a mensagem e a
    resposta (ou a mensagem que ficou no lugar)."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows.select(range(min(SAMPLE, len(rows)))):
        why, twin = row["reason"] or row["unfit"], row["twin"]
        after = f"{row['message']}\n{row['reply']}"
        start = max(0, len(os.path.commonprefix([row["before"], after])) - 16)
        changed = row["before"][start : start + 56], after[start : start + 56]
        if why and why not in found:
            other = rows[twin]["message"] if twin >= 0 else row["reply"]
            found[why] = textwrap.shorten(row["message"], 76), textwrap.shorten(other, 76)
        for kind in row["kinds"].split() if not why else ():
            pair = (row["label"], row["intent"]) if kind == "label_misspelt" else changed
            if kind != "date_format" and pair[0] != pair[1]:
                found.setdefault(kind, pair)
    return {kind: found[kind] for kind in DIRT if kind in found}


def plot(stats: dict, path: Path) -> None:
    """Três painéis: comprimentos em tokens, rótulos por parte, curva do vocabulário."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(16, 4.5))
    labels = sorted(set().union(*stats["labels"].values()))
    bottom = [0] * len(labels)
    for split, name in SPLITS.items():
        if not stats["lengths"][split]:
            continue
        left.hist(stats["lengths"][split], bins=30, density=True, alpha=0.5, label=name)
        heights = [stats["labels"][split].get(label, 0) for label in labels]
        middle.bar(labels, heights, bottom=bottom, label=name)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        ranks = sorted(stats["words"][split].values(), reverse=True)
        right.loglog(range(1, len(ranks) + 1), ranks, label=name)
    left.set(xlabel="tokens (mensagem + resposta)", ylabel="densidade", title="Comprimento")
    middle.tick_params(axis="x", rotation=60)
    middle.set(ylabel="linhas", title="Rótulos")
    right.set(xlabel="posição da palavra", ylabel="vezes", title="Vocabulário (lei de Zipf)")
    for axis in (left, right):
        axis.legend()
    comma_axes(figure)
    figure.tight_layout()
    # Sem a versão do matplotlib nos metadados, os bytes só dependem do desenho.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def write_card(folder: Path, args, result: Day6Data, words: int) -> None:
    """`ficha.md`: o que é o conjunto, como foi feito e para que não serve (Gebru et al., 2021)."""
    template = (Path(__file__).parent / "ficha_modelo.md").read_text(encoding="utf-8")
    content = template.format(
        result=result,
        out=result.read - result.accepted,
        related=decimal(args.related, 2),
        words=words,
        coverage=percent(result.vocabulary_coverage),
        **{name: tables.markdown(*table) for name, table in summary(result).items()},
    )
    files.write_text(folder / "ficha.md", content)


def write_manifest(folder: Path, args, result: Day6Data) -> None:
    """`manifesto.json`: parâmetros, contagens, versões e o sha256 da entrada e de cada arquivo."""

    def described(value: object) -> object:
        known = isinstance(value, Path)
        return {"file": value.name, "sha256": files.sha256(value)} if known else value

    source = Path(args.input)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    counted = result.model_dump(mode="json", exclude={"minutes", *Result.model_fields})
    content = {
        "input": described(source) if source.is_file() else args.input,
        "parameters": {k: described(v) for k, v in vars(args).items() if k not in NOT_PARAMETERS},
        **counted,
        "versions": {"python": platform.python_version()} | {x: version(x) for x in LIBRARIES},
        "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in written},
    }
    files.write_json(folder / "manifesto.json", content)


NOT_PARAMETERS = ("input", "output", "only", "quick", "model")
LIBRARIES = ("datasets", "pyarrow", "numpy", "matplotlib", "datasketch", "ftfy")
