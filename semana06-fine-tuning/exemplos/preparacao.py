"""O preparo, do arquivo bruto às linhas aceitas e divididas, sem carregar o arquivo na memória.

As linhas passam uma a uma e esperam num SQLite em disco. Quatro passadas: consertar e contar;
julgar diante do conjunto; achar parentes; dividir. Nenhuma linha some: cada uma termina com uma
parte (`split`) ou com um motivo (`reason`).
"""

import utils

import hashlib
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pyarrow import parquet
from tqdm import tqdm

import conferencia
import divisao
import duplicatas
import leitura
import limpeza

BATCH = 2000  # linhas por ida ao banco
ROUNDS = 8  # divisões tentadas até que nenhum parente fique separado
TABLE = """
CREATE TABLE rows (
    n INTEGER PRIMARY KEY, line INTEGER, message TEXT, normal TEXT, reply TEXT, label TEXT,
    intent TEXT, date TEXT, conversation TEXT, kinds TEXT, reason TEXT, detail TEXT, twin INTEGER,
    unfit TEXT, digest BLOB, shuffle INTEGER, cluster INTEGER, split TEXT, original TEXT);
CREATE TABLE pairs (later INTEGER, earlier INTEGER);
CREATE TABLE relatives (earlier INTEGER, later INTEGER);
"""
COLUMNS = ("n, line, message, normal, reply, label, date, conversation, kinds, reason, detail, "
           "shuffle, original")  # fmt: skip
RESERVED = "reserved"  # o "motivo" das mensagens do teste oficial, que só servem de comparação


@dataclass
class Options:
    """Tudo que muda o resultado; vai inteiro para o manifesto."""

    source: str
    columns: dict[str, str]
    encoding: str = "utf-8"
    seed: int = 6
    shares: divisao.Shares = field(default_factory=divisao.Shares)
    min_characters: int = 2
    max_words: int = 250
    language: str = "pt"
    labels: tuple[str, ...] = ()  # vazio: aprende com os frequentes
    own_domains: tuple[str, ...] = ()
    keep_emoji: bool = False
    boilerplate: Path | None = None
    reserved: Path | None = None
    near: float = 0.5  # Jaccard a partir do qual são o mesmo pedido: só o primeiro fica
    related: float = 0.3  # a partir do qual são parentes: ficam na mesma parte


class Store:
    """As linhas, no disco."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        # É um rascunho: se a máquina cair, o preparo recomeça.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            self.db.execute(f"PRAGMA {setting}")
        self.db.executescript(TABLE)

    def insert(self, rows: Iterable[tuple]) -> None:
        marks = ", ".join("?" * len(COLUMNS.split(",")))
        self.db.executemany(f"INSERT INTO rows ({COLUMNS}) VALUES ({marks})", rows)

    def reject(self, found: Iterable[tuple]) -> None:
        """Marca linhas: (tipo, gêmea, linha)."""
        self.db.executemany(
            "UPDATE rows SET reason = ?1, twin = ?2, kinds = kinds || ' ' || ?1 WHERE n = ?3", found
        )

    def note(self, kind: str, row: int, unfit: bool = False) -> None:
        """Soma um tipo de sujeira a uma linha que fica; `unfit` a tira só da classificação."""
        self.db.execute("UPDATE rows SET kinds = kinds || ' ' || ? WHERE n = ?", (kind, row))
        if unfit:
            self.db.execute("UPDATE rows SET unfit = ? WHERE n = ?", (kind, row))

    def pages(self, what: str, where: str = "reason IS NULL AND n >= 0") -> Iterator[list[tuple]]:
        """Linhas em ordem, de `BATCH` em `BATCH`: pode-se alterar a tabela entre duas páginas."""
        last = -(2**62)
        query = f"SELECT n, {what} FROM rows WHERE n > ? AND {where} ORDER BY n LIMIT {BATCH}"
        while page := self.db.execute(query, (last,)).fetchall():
            yield page
            last = page[-1][0]

    def count(self, where: str = "n >= 0") -> int:
        return self.db.execute(f"SELECT COUNT(*) FROM rows WHERE {where}").fetchone()[0]


def prepare(options: Options, work: Path) -> Store:
    """Faz o preparo inteiro; o banco fica em `work`.

    Raises:
        utils.UserError: a fonte não se lê, ou nenhuma linha foi aceita.
    """
    store = Store(work / "linhas.sqlite")
    corpus = collect(store, options)
    judge(store, corpus, options)
    find_duplicates(store, options, work / "assinaturas.bin")
    split(store, options)
    if not store.count("split IS NOT NULL"):
        reasons = store.db.execute("SELECT reason, COUNT(*) FROM rows WHERE n >= 0 GROUP BY reason")
        counted = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        raise utils.UserError(
            f"nenhuma linha de {options.source} foi aceita ({counted}). Confira as colunas."
        )
    return store


# --- 1. consertar e contar ------------------------------------------------------------------------


def collect(store: Store, options: Options) -> conferencia.Corpus:
    """Lê a fonte, conserta cada linha e recusa as que já se sabe que não servem."""
    cleaner = limpeza.Cleaner(
        limpeza.boilerplate_pattern(options.boilerplate), options.own_domains, options.keep_emoji
    )
    corpus = conferencia.Corpus()
    waiting = []
    rows = leitura.read(options.source, options.columns, options.encoding)
    for row in tqdm(rows, "Consertando", estimate(options.source), unit="linha", file=sys.stdout):
        waiting.append(_cleaned(row, cleaner, corpus, options))
        if len(waiting) == BATCH:
            store.insert(waiting)
            waiting = []
    store.insert(waiting)
    if options.reserved is not None:
        store.insert(
            (-1 - number, 0, messages[0]["content"], duplicatas.normal(messages[0]["content"]), "",
             "", None, "", "", RESERVED, None, 0, "{}")
            for number, messages in enumerate(utils.read_conversations(options.reserved))
        )  # fmt: skip
    store.db.commit()
    return corpus


def _cleaned(row: leitura.Row, cleaner, corpus: conferencia.Corpus, options: Options) -> tuple:
    """A linha como vai para o banco, na ordem de `COLUMNS`."""
    original = json.dumps(row.original, ensure_ascii=False, default=str)
    if row.problem is not None:
        return (row.number, row.line, "", "", "", "", None, "", "unreadable", "unreadable",
                row.problem, 0, original)  # fmt: skip
    raw = row.values
    message, kinds = cleaner.repair(raw["message"])
    reply, more = cleaner.repair(raw.get("reply", ""))
    texts = {"message": message} | ({"reply": reply} if "reply" in options.columns else {})
    kinds = list(dict.fromkeys(kinds + more))
    when = limpeza.read_date(raw.get("date", ""))
    if raw.get("date", "").strip() and (when is None or raw["date"] != when.isoformat()):
        kinds.append("date_format" if when else "date_unreadable")
    reason = _reason(texts, options)
    label = raw.get("intent", "")
    if reason is None:
        corpus.count(message, reply, label)
    else:
        kinds.append(reason)
    return (row.number, row.line, message, duplicatas.normal(message), reply, label,
            when and when.isoformat(), raw.get("group", ""), " ".join(kinds), reason, None,
            divisao.shuffle_key(options.seed, message), original)  # fmt: skip


def _reason(texts: dict[str, str], options: Options) -> str | None:
    """Por que a linha, sozinha, não serve; None se serve."""
    if any("\ufffd" in text for text in texts.values()):
        return "lost_characters"
    if any(conferencia.is_empty(text) for text in texts.values()):
        return "empty"
    limits = options.min_characters, options.max_words
    if any(conferencia.wrong_length(text, *limits) for text in texts.values()):
        return "length_outlier"
    spoken = conferencia.language(" ".join(texts.values()), options.language)
    return "language" if spoken != options.language else None


def estimate(source: str) -> int | None:
    """Quantas linhas a fonte deve ter, para a barra dizer quanto falta; None se não se sabe."""
    path = Path(source)
    if not path.is_file():
        return None
    if path.suffix.lower() == ".parquet":
        try:
            return parquet.read_metadata(path).num_rows
        except (OSError, ValueError):
            return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


# --- 2. julgar diante do conjunto -----------------------------------------------------------------


def judge(store: Store, corpus: conferencia.Corpus, options: Options) -> None:
    """Traduz os rótulos, recusa textos cortados e dá a cada linha aceita a sua soma."""
    known = list(options.labels) or corpus.known_labels()
    meaning: dict[str, str | None] = {}
    with_labels, with_replies = "intent" in options.columns, "reply" in options.columns
    for page in store.pages("message, reply, label"):
        changes, cut = [], []
        for n, message, reply, label in page:
            if corpus.truncated(message, False) or (with_replies and corpus.truncated(reply, True)):
                cut.append(("truncated", None, n))
            if label not in meaning:
                meaning[label] = conferencia.match_label(label, known) if with_labels else None
            intent, kind, unfit = meaning[label], "", None
            if with_labels and intent is None:
                kind, unfit = " label_unknown", "label_unknown"
            elif with_labels and intent != label:
                kind = " label_misspelt"
            content = json.dumps([message, reply, intent or label]).encode()
            digest = hashlib.blake2b(content, digest_size=12).digest()
            changes.append((intent, unfit, kind, digest, n))
        store.db.executemany(
            "UPDATE rows SET intent = ?, unfit = ?, kinds = kinds || ?, digest = ? WHERE n = ?",
            changes,
        )
        store.reject(cut)
    store.db.commit()


# --- 3. achar parentes ----------------------------------------------------------------------------


def find_duplicates(store: Store, options: Options, signatures: Path) -> None:
    """Iguais pela soma; quase iguais, conflitos de rótulo e vazamentos do teste por MinHash."""
    file = duplicatas.SignatureFile(signatures)
    wanted = f"reason IS NULL OR reason = '{RESERVED}'"
    bar = tqdm(total=store.count(wanted), desc="Assinando", unit="linha", file=sys.stdout)
    for page in store.pages("normal", f"({wanted})"):
        file.add(page)
        bar.update(len(page))
    bar.close()
    _exact(store)
    for pairs in _batches(file.candidates()):
        store.db.executemany("INSERT INTO pairs (earlier, later) VALUES (?, ?)", pairs)
    store.db.commit()
    signatures.unlink()
    _near(store, options)


def _exact(store: Store) -> None:
    store.db.executescript(
        """
        CREATE INDEX by_digest ON rows (digest) WHERE reason IS NULL;
        CREATE TABLE exact AS SELECT rows.n AS n, first FROM rows JOIN (
            SELECT digest, MIN(n) AS first FROM rows WHERE reason IS NULL
            GROUP BY digest HAVING COUNT(*) > 1) USING (digest)
        WHERE reason IS NULL AND rows.n > first;
        """
    )
    cursor = store.db.execute("SELECT 'duplicate_exact', first, n FROM exact ORDER BY n")
    while page := cursor.fetchmany(BATCH):
        store.reject(page)
    store.db.execute("DROP INDEX by_digest")


def _near(store: Store, options: Options) -> None:
    """Compara os candidatos e decide, na ordem do arquivo: o primeiro de um grupo é o que fica."""
    replaced: dict[int, int] = {}  # linha retirada -> a que ficou no lugar dela
    cache: dict[int, tuple] = {}

    def load(row: int) -> tuple:
        if row not in cache:
            if len(cache) > BATCH:
                cache.clear()
            text, intent, reason = store.db.execute(
                "SELECT normal, intent, reason FROM rows WHERE n = ?", (row,)
            ).fetchone()
            cache[row] = text, duplicatas.shingles(text), intent, reason
        return cache[row]

    total = store.db.execute("SELECT COUNT(*) FROM pairs").fetchone()[0]
    bar = tqdm(total=total, desc="Comparando", unit="par", file=sys.stdout)
    pairs = store.db.execute("SELECT later, earlier, COUNT(*) FROM pairs GROUP BY 1, 2 ORDER BY 1")
    for later, group in groupby(pairs, key=lambda pair: pair[0]):
        found = list(group)
        bar.update(sum(times for *_, times in found))
        earlier = {row for _, row, _ in found}
        text, grams, intent, reason = load(later)
        for other in sorted({replaced.get(row, row) for row in earlier} | earlier):
            other_text, other_grams, other_intent, _ = load(other)
            likeness = duplicatas.jaccard(grams, other_grams)
            if likeness < options.related:
                continue
            if other >= 0:
                store.db.execute("INSERT INTO relatives VALUES (?, ?)", (other, later))
            if likeness < options.near or other in replaced or later in replaced:
                continue
            if other < 0:
                kind = "test_leak"
            elif reason is not None:
                continue  # já saiu, por igual
            elif text == other_text and intent and other_intent and intent != other_intent:
                kind = "conflict"
                store.note("conflict", other, unfit=True)
            else:
                kind = "duplicate_near"
            replaced[later] = other
            store.reject([(kind, other, later)])
    bar.close()
    store.db.execute("DROP TABLE pairs")
    store.db.commit()


def _batches(items: Iterator) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


# --- 4. dividir -----------------------------------------------------------------------------------


def split(store: Store, options: Options) -> None:
    """Agrupa parentes e conversas, e dá a cada grupo treino, validação ou teste.

    O MinHash não acha todos os parentes distantes. Por isso a conferência de sequências de palavras
    entra já aqui: o que ela acha é juntado, e a divisão, refeita.

    Raises:
        utils.UserError: depois de `ROUNDS` tentativas ainda há parentes em partes diferentes.
    """
    groups = divisao.Groups(store.count())
    for earlier, later in store.db.execute("SELECT earlier, later FROM relatives"):
        groups.join(earlier, later)
    spoken = store.db.execute(
        "SELECT conversation, n FROM rows WHERE n >= 0 AND conversation != '' ORDER BY conversation"
    )
    previous, first = None, 0
    for conversation, row in spoken:
        if conversation != previous:
            previous, first = conversation, row
        groups.join(first, row)
    for _ in range(ROUNDS):
        _draw(store, groups, options)
        apart = _relatives_apart(store)
        for left, right in apart:
            groups.join(left, right)
        if not apart:
            return
    raise utils.UserError(
        f"depois de {ROUNDS} divisões ainda há {len(apart)} pares de mensagens parecidas em partes "
        "diferentes. Os dados têm um molde só? Aumente --max-held-out ou mude --related."
    )


def _draw(store: Store, groups: divisao.Groups, options: Options) -> None:
    for page in store.pages("0"):
        store.db.executemany(
            "UPDATE rows SET cluster = ? WHERE n = ?", [(groups.root(n), n) for n, _ in page]
        )
    # Com MIN(n), o SQLite tira as outras colunas da linha do mínimo: a primeira do grupo.
    store.db.executescript(
        """
        DROP TABLE IF EXISTS clusters;
        DROP TABLE IF EXISTS decided;
        CREATE TABLE clusters AS SELECT cluster, MIN(n) AS first, COALESCE(intent, '') AS label,
            shuffle, COUNT(*) AS size FROM rows WHERE cluster IS NOT NULL GROUP BY cluster;
        CREATE TABLE decided (cluster INTEGER PRIMARY KEY, split TEXT);
        """
    )
    counts = Counter(dict(store.db.execute("SELECT label, SUM(size) FROM clusters GROUP BY label")))
    drawn = store.db.execute(
        "SELECT cluster, label, size FROM clusters ORDER BY label, shuffle, cluster"
    )
    for page in _batches(divisao.assign(drawn, counts, options.shares)):
        store.db.executemany("INSERT INTO decided VALUES (?, ?)", page)
    store.db.execute(
        "UPDATE rows SET split = decided.split FROM decided WHERE rows.cluster = decided.cluster"
    )
    store.db.commit()


def _relatives_apart(store: Store) -> list[tuple[int, int]]:
    """Pares (reservada, outra) parecidos demais para ficarem em partes diferentes."""
    reserved = divisao.Index()
    parts = {}
    for page in store.pages("normal, split", "split IN ('validation', 'test')"):
        for n, text, part in page:
            reserved.add(n, text)
            parts[n] = part
    found = []
    for page in store.pages("normal, split", "split IS NOT NULL"):
        for n, text, part in page:
            found += [(other, n) for other, _ in reserved.contained(text) if parts[other] != part]
    return found
