"""O arquivo que entra e a pasta que sai, sem carregar nenhum dos dois na memória."""

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
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

from comum import files, tables
from comum.conversations import turns_of
from comum.hub import look_for
from comum.labels import DIRT, SPLITS
from comum.numbers import comma_axes, decimal, percent
from comum.results import Day6Data, Quantiles, Result
from comum.tabular import COMMAS, OBJECTS, read_table, unwritable
from comum.terminal import UserError, progress
from comum.text import jaccard

import datasets
import matplotlib
import numpy
import pandas
from datasketch import MinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dia6 import texts

COLUMNS = ("message", "reply", "label", "date", "group")
FILES = {"train": "treino", "validation": "validacao", "test": "teste"}
REJECTED = "rejeitados.jsonl"
SAMPLE = 5000  # linhas de cada parte na ficha e nas figuras
NOT_PARAMETERS = ("input", "output", "only", "quick", "model")
LIBRARIES = ("datasets", "pyarrow", "numpy", "matplotlib", "datasketch", "ftfy")
Record = dict[str, object]

# --- ler ----------------------------------------------------------------------------------------


def read(source: str, columns: dict[str, str], encoding: str = "auto") -> Iterator[Record]:
    """Entrega as linhas de `source`, com `number` (a partir de 0), `line` (a do arquivo), os campos
    de `COLUMNS`, `problem` (vazio se a linha se lê) e `original` (a linha como veio, em JSON).

    Args:
        source: caminho de um arquivo ou nome de um conjunto do hub (`dono/nome:parte`).
        columns: campo de `COLUMNS` -> coluna da fonte.

    Raises:
        UserError: a fonte não se lê ou não tem as colunas.
    """
    columns = {ours: normalize("NFC", theirs) for ours, theirs in columns.items()}
    path, number, known = Path(source), 0, False
    named = re.fullmatch(r"[\w-]+/[\w.-]+(:\w+)?", source) and not path.exists()
    on_hub = named and path.suffix.lower() not in COMMAS + OBJECTS
    streamed = on_hub or path.suffix.lower() == ".parquet"
    for line, values, problem in _stream(source) if streamed else read_table(path, encoding):
        if not problem and not known:
            known = _check_columns(columns, list(values), source)
        for turn, wrong in _pairs(values, line, columns) if not problem else [(None, problem)]:
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
    columns = {"message": "message", "reply": "reply"}
    return [str(row["message"]) for row in read(str(path), columns)] if path else []


def _pairs(values: Record, line: int, columns: dict) -> Iterator[tuple[Record, str | None]]:
    """Uma conversa vira um par por resposta; as outras linhas já são um par.

    Os pares da mesma conversa ficam no mesmo grupo: um deles no teste e outro no treino vazariam.
    """
    if columns["message"] in values or not values.keys() & {"messages", "conversations"}:
        yield values, None
        return
    try:
        said = [turn for turn in turns_of(values) if turn["role"] != "system"]
        if any(one["role"] == other["role"] for one, other in pairwise(said)):
            raise ValueError("o sistema fala no meio de um turno")
    except ValueError as error:
        yield values, str(error)
        return
    sides = {"user": [], "assistant": []}
    if said and said[0]["role"] == "assistant":
        sides["user"].append("")  # a loja falou primeiro
    for turn in said:
        sides[turn["role"]].append(turn["content"])
    asked, answered = sides["user"], [*sides["assistant"], ""][: len(sides["user"])]
    one = len(asked) == 1 or values.get(columns.get("group"))
    group = {} if one else {columns.get("group", "group"): f"linha {line}"}
    for message, reply in zip(asked, answered, strict=True):
        yield values | group | {columns["message"]: message, columns.get("reply"): reply}, None


def _fields(values: Record | None, problem: str | None, columns: dict[str, str]) -> Record:
    """Os campos com os nossos nomes; todos vazios numa linha que não se lê."""
    fields = {} if problem else {ours: values.get(theirs) for ours, theirs in columns.items()}
    for name, value in fields.items():
        fields[name] = "" if value is None else str(value)
        wrong = unwritable(fields[name])
        if isinstance(value, list | dict | bytes):
            wrong = f"não é texto, é {type(value).__name__}"
        problem = problem or (wrong and f"a coluna {columns[name]} {wrong}")
    return dict.fromkeys(COLUMNS, "") | ({} if problem else fields) | {"problem": problem or ""}


def _stream(source: str) -> Iterator[tuple[int, object, None]]:
    """Um Parquet, ou um conjunto do hub, lidos aos poucos pelo datasets."""
    name, _, split = source.partition(":")
    options = {"path": name, "split": split or "train"}
    if Path(source).exists():
        options = {"path": "parquet", "data_files": source, "split": "train"}
    else:
        look_for(name)
    try:
        stream = datasets.load_dataset(**options, streaming=True)
        for line, values in enumerate(stream, 1):
            yield line, {normalize("NFC", name): value for name, value in values.items()}, None
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"não consegui ler {source} ({reason}): não é um Parquet inteiro, nem um conjunto com "
            "esse nome no hub. Confira --input e a conexão."
        ) from error


def _check_columns(columns: dict[str, str], known: list[str], source: str) -> bool:
    chat = {"messages", "conversations"} & set(known)
    needed = ["label"] if chat else ["message", "reply", "label"]
    # Data e grupo podem faltar, se ninguém lhes deu nome: sem o grupo, a divisão vazaria calada.
    needed += [ours for ours in ("date", "group") if columns.get(ours, ours) != ours]
    absent = [ours for ours in needed if columns.get(ours, known[0]) not in known]
    missing = [f"{columns[ours]} (--{ours}-column)" for ours in absent]
    if missing:
        raise UserError(
            f"em {source} não há a coluna {', '.join(missing)}. As que há: {', '.join(known)}. "
            f"Indique a certa com a opção entre parênteses, ou none se ela não existe."
        )
    return True


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


def alive(rows: datasets.Dataset, facts: pandas.DataFrame, output: Path) -> numpy.ndarray:
    """As linhas que ainda não têm motivo para sair.

    Raises:
        UserError: não sobrou nenhuma; as recusadas ficam, com o motivo, ao lado de `output`.
    """
    found = numpy.flatnonzero(facts.reason == "")
    if not len(found):
        counted = ", ".join(f"{DIRT[kind]}: {n}" for kind, n in Counter(facts.reason).items())
        problem = next((f"; a primeira: {text}" for text in rows["problem"] if text), "")
        path = output.with_name(f"{output.name}_{REJECTED}")  # `output` não chega a existir
        files.write_text(path, "".join(map(refusal, judged(rows, facts))))
        raise UserError(
            f"nenhuma linha foi aceita ({counted}{problem}). Confira as colunas. As recusadas "
            f"estão, com o motivo, em {path}."
        )
    return found


def judge(rows: datasets.Dataset, columns: dict[str, str], args) -> pandas.DataFrame:
    """O juízo que só existe diante do conjunto: que rótulos são os certos, como se termina.

    É uma tabela com uma linha para cada uma de `rows` e só colunas curtas: cabe na memória.
    """
    corpus = texts.Corpus()
    for row in each(rows, "message", "reply", "label", "reason"):
        if not row.pop("reason"):
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
        found["place"] = known.index(intent) if intent else -1
        # Somas do conteúdo: nem as iguais nem o sorteio dependem da ordem do arquivo.
        same, draw = (repr((message, reply, intent or label)), f"{args.seed}|{message}")
        sums = {"same": same, "draw": draw, "talk": row["group"]}
        return found | {name: texts.number_of(text) for name, text in sums.items()}

    names = ["message", "reply", "label", "reason", "kinds", "group"]
    return step(rows.select_columns(names), change, "Julgando", remove_columns=names).to_pandas()


def repeated(facts: pandas.DataFrame, alive: numpy.ndarray) -> dict[int, int]:
    """As iguais a uma anterior em tudo: linha -> a primeira."""
    first = pandas.Series(alive, alive).groupby(facts.same.iloc[alive]).transform("first")
    return first[first != alive].to_dict()


def mark(facts: pandas.DataFrame, removed: dict, exact: dict, conflicts: set) -> pandas.DataFrame:
    """Anota o que se decidiu: `removed` (linha -> motivo e gêmea), as iguais e os conflitos."""
    reason, kinds, unfit = (facts[name].tolist() for name in ("reason", "kinds", "unfit"))
    twin = [-1] * len(facts)
    for number in exact:
        kinds[number] += " duplicate_exact"
    for number, found in removed.items():
        reason[number], twin[number] = found
    for number in conflicts:
        unfit[number] = "conflict"
    for number in {*removed, *conflicts}:
        known = kinds[number].split() + [reason[number], unfit[number]]
        kinds[number] = " ".join(dict.fromkeys(filter(None, known)))
    return facts.assign(reason=reason, kinds=kinds, unfit=unfit, twin=twin)


def same_conversation(facts: pandas.DataFrame) -> numpy.ndarray:
    """Pares de linhas seguidas da mesma conversa: [pares, 2]."""
    talk = facts.talk[facts.talk != texts.number_of("")].sort_values(kind="stable")
    pairs = numpy.stack([talk.index[:-1], talk.index[1:]], axis=1)
    return pairs[talk.to_numpy()[:-1] == talk.to_numpy()[1:]]


def connected(pairs: numpy.ndarray, size: int) -> numpy.ndarray:
    """O grupo de cada linha, se cada par ([pares, 2]) junta os grupos das suas duas: [size]."""
    left, right = pairs.T
    graph = coo_array((numpy.ones(len(left)), (left, right)), (size, size))
    return connected_components(graph, directed=False)[1]


def draw(facts: pandas.DataFrame, groups: numpy.ndarray, args) -> numpy.ndarray:
    """0 (treino), 1 (validação) ou 2 (teste) para cada linha: [linhas].

    Em cada rótulo, os primeiros grupos do sorteio enchem o teste e os seguintes, a validação.
    """
    _, first, back, sizes = numpy.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    order, label = facts["draw"].to_numpy()[first], facts["place"].to_numpy()[first]
    chosen, room = numpy.zeros(len(first), numpy.int8), {}
    for part, share in ((2, args.test), (1, args.validation)):
        share = min(share, args.max_held_out / len(facts))
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
        for some in numpy.split(found, range(1000, len(found), 1000)):
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
    with (folder / f"{FILES[part]}.jsonl").open(encoding="utf-8", newline="\n") as file:
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


# --- contar e descrever ---------------------------------------------------------------------------


def report(
    rows, facts, folder: Path, args, formats: dict, naive: tuple[int, int], tokenizer
) -> Day6Data:
    """Conta, mostra e grava o que se sabe do conjunto: rejeitadas, ficha, manifesto e figuras."""
    dirt = Counter(facts.kinds.str.split().explode().dropna())
    rejected = Counter(sorted(filter(None, facts.reason.where(facts.reason != "", facts.unfit))))
    fit = facts[(facts.unfit == "") & (facts.intent != "")]
    labels = {part: Counter(sorted(fit.intent[fit.split == part])) for part in SPLITS}
    sizes, words = describe(rows, facts, tokenizer)
    test = words["test"]
    covered = sum(times for word, times in test.items() if word in words["train"])
    result = Day6Data(
        seed=args.seed,
        minutes=0,
        source=Path(args.input).name,
        read=len(rows),
        accepted=int((facts.reason == "").sum()),
        formats=formats,
        dirt={kind: dirt[kind] for kind in DIRT if dirt[kind]},
        rejected=dict(rejected.most_common()),
        labels=labels,
        tokens={part: quantiles(found) for part, found in sizes.items() if found},
        vocabulary_coverage=covered / test.total() if test else None,
        naive_leaks=naive[0],
        naive_held_out=naive[1],
    )
    show(result, examples(rows, facts))
    write_lines(rows, facts, folder)
    plot(result.labels, sizes, words, folder / "figuras.png")
    write_card(folder, args, result, len(words["train"]))
    write_manifest(folder, args, result)
    return result


def describe(rows, facts, tokenizer) -> tuple[dict[str, list[int]], dict[str, Counter]]:
    """Comprimentos em tokens e palavras de cada parte (até `SAMPLE` linhas dela)."""
    sizes, words = {}, {}
    for split in SPLITS:
        part = numpy.flatnonzero(facts.split == split)
        some = rows.select(part[:: -(-len(part) // SAMPLE) or 1])
        said = [*some["message"][:], *some["reply"][:]]
        ids = tokenizer(said, add_special_tokens=False).input_ids if said else []
        sizes[split] = [len(ids[n]) + len(ids[n + len(some)]) for n in range(len(some))]
        words[split] = Counter(word for text in said for word in re.findall(r"\w+", text.lower()))
    return sizes, words


def quantiles(sizes: list[int]) -> Quantiles:
    """Mínimo, mediana, percentil 95 e máximo."""
    found = numpy.quantile(sizes, (0, 0.5, 0.95, 1), method="nearest").tolist()
    return Quantiles(**dict(zip(Quantiles.model_fields, found, strict=True)))


def summary(result: Day6Data) -> dict[str, tuple[list[str], list[tuple]]]:
    """As tabelas da ficha e do terminal: cabeçalho e linhas."""
    counts = (result.dirt, result.rejected)
    dirt, rejected = ([(DIRT[kind], n) for kind, n in found.items()] for found in counts)
    formats = [(f"{name}/", *counts.values()) for name, counts in result.formats.items()]
    tokens = [(SPLITS[split], *dict(found).values()) for split, found in result.tokens.items()]
    sizes = ["tokens por linha", "mínimo", "mediana", "95% até", "máximo"]
    return {
        "dirt": (["sujeira achada", "linhas"], dirt),
        "rejected": (["fora, de tudo ou só da classificação", "linhas"], rejected),
        "formats": (["formato", *SPLITS.values()], formats),
        "tokens": (sizes, tokens),
    }


def only_unfit(result: Day6Data) -> str:
    """Quantas das aceitas servem para conversar, mas não para classificar."""
    unfit = sum(result.rejected.values()) - (result.read - result.accepted)
    return f"destas, {unfit} sem rótulo certo, que só não servem para classificar"


def show(result: Day6Data, found: dict[str, tuple[str, str]]) -> None:
    """O que se achou, com um antes e depois de cada tipo, e para onde foi cada linha."""
    print(f"\n{result.read} linhas lidas, {result.accepted} aceitas; {only_unfit(result)}")
    for header, rows in summary(result).values():
        tables.show(header, rows)
    for kind, (before, after) in found.items():
        print(f"\n{DIRT[kind]}:\n  {before!r}\n  {after!r}")
    if empty := [SPLITS[part] for part in SPLITS if part not in result.tokens]:
        print(
            f"\nAtenção: {' e '.join(empty)} sem nenhuma linha. As mensagens são poucas, ou tão "
            "parecidas que formam um grupo só, que não se divide."
        )
    print(
        f"\nvazamentos nos arquivos gravados: 0 (mais que isso e nada teria sido gravado)\n"
        f"com um sorteio simples das linhas brutas: {result.naive_leaks} das "
        f"{result.naive_held_out} reservadas estariam no treino\n"
        f"palavras do teste que o treino já mostrou: {percent(result.vocabulary_coverage)}"
    )


def judged(rows: datasets.Dataset, facts: pandas.DataFrame) -> Iterator[Record]:
    """Cada linha com o que se decidiu dela."""
    for row, found in zip(each(rows), facts.itertuples(index=False), strict=True):
        yield row | found._asdict()


def examples(rows: datasets.Dataset, facts: pandas.DataFrame) -> dict[str, tuple[str, str]]:
    """Uma linha de cada tipo: antes e depois, em volta do que mudou; das que saíram, a mensagem e a
    resposta (ou a mensagem que ficou no lugar)."""
    found: dict[str, tuple[str, str]] = {}
    single: set[str] = set()  # os tipos que já têm uma linha em que só há ele: a mudança é dele
    for row in judged(rows.select(range(min(SAMPLE, len(rows)))), facts.head(SAMPLE)):
        kinds, why = row["kinds"].split(), row["reason"] or row["unfit"]
        if why and why not in found:
            other = rows[row["twin"]] if row["twin"] >= 0 else {"message": row["reply"]}
            found[why] = _said(row, why), _said(other, why)
        for kind in kinds if not why else ():
            pair = (row["label"], row["intent"]) if kind == "label_misspelt" else _changed(row)
            better = kind not in found or (len(kinds) == 1 and kind not in single)
            if better and kind != "date_format" and pair[0] != pair[1]:
                found[kind] = pair
                single |= {kind} if len(kinds) == 1 else set()
    return {kind: found[kind] for kind in DIRT if kind in found}


def _said(row: Record, why: str) -> str:
    """A mensagem, encurtada; com o rótulo, se foi por ele que a linha saiu."""
    label = row.get("label") if why in ("conflict", "label_unknown") else None
    text = textwrap.shorten(str(row["message"]), 56 if label else 76)
    return f"{text} → {label}" if label else text


def _changed(row: Record) -> tuple[str, str]:
    """O texto antes e depois, em volta do primeiro lugar em que mudou."""
    after = f"{row['message']}\n{row['reply']}"
    start = max(0, len(os.path.commonprefix([row["before"], after])) - 16)
    return row["before"][start : start + 56], after[start : start + 56]


def refusal(row: Record) -> str:
    """A linha de `rejeitados.jsonl`: a que saiu, inteira e com o motivo; vazia se ela ficou."""
    if not (why := row["reason"] or row["unfit"]):
        return ""
    twin = row.get("twin", -1)
    entry = {
        "record": row["number"],
        "line": row["line"],
        "reason": why,
        "explanation": DIRT[why],
        "detail": row["problem"] or None,
        "twin": twin if twin >= 0 else None,
        "excluded_from": "all" if row["reason"] else "classification",
        "original": json.loads(row["original"]),
    }
    # Meio caractere não se grava em UTF-8; escapado, é o JSON que veio.
    written = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return written.decode() + "\n"


def write_lines(rows: datasets.Dataset, facts: pandas.DataFrame, folder: Path) -> None:
    """Grava as rejeitadas, inteiras e com o motivo, e o que se achou em cada linha, este sem os
    textos (teriam dados pessoais)."""
    options = {"mode": "w", "encoding": "utf-8", "newline": "\n"}
    with (
        (folder / REJECTED).open(**options) as refused,
        (folder / "consertos.jsonl").open(**options) as repaired,
    ):
        for row in judged(rows, facts):
            refused.write(refusal(row))
            if row["kinds"]:
                kinds, place = row["kinds"].split(), {"record": row["number"], "line": row["line"]}
                entry = place | {"kinds": kinds, "split": row["split"] or None}
                repaired.write(json.dumps(entry) + "\n")


def plot(labels: dict, sizes: dict, words: dict, path: Path) -> None:
    """Três painéis: comprimentos em tokens, rótulos por parte, curva do vocabulário."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(16, 4.5))
    names = sorted(set().union(*labels.values()))
    bottom = numpy.zeros(len(names))
    for split, shown in SPLITS.items():
        if sizes[split]:
            left.hist(sizes[split], bins=30, density=True, alpha=0.5, label=shown)
            heights = numpy.array([labels[split].get(name, 0) for name in names])
            middle.bar(names, heights, bottom=bottom, label=shown)
            bottom += heights
            ranks = sorted(words[split].values(), reverse=True)
            right.loglog(range(1, len(ranks) + 1), ranks, label=shown)
    left.set(xlabel="tokens (mensagem + resposta)", ylabel="densidade", title="Comprimento")
    left.legend()
    middle.tick_params(axis="x", rotation=60)
    middle.set(ylabel="linhas", title="Rótulos")
    right.set(xlabel="posição da palavra", ylabel="vezes", title="Vocabulário (lei de Zipf)")
    right.legend()
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
        unfit=only_unfit(result),
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
    content = {
        "input": described(source) if source.is_file() else args.input,
        "parameters": {k: described(v) for k, v in vars(args).items() if k not in NOT_PARAMETERS},
        **result.model_dump(mode="json", exclude={"minutes", *Result.model_fields}),
        "versions": {"python": platform.python_version()} | {x: version(x) for x in LIBRARIES},
        "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in written},
    }
    files.write_json(folder / "manifesto.json", content)
