"""O rascunho do preparo: as linhas esperam num SQLite em disco, e a memória não cresce com elas."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import divisao

BATCH = 2000  # linhas por ida ao banco
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


def batches(items: Iterator) -> Iterator[list]:
    """Listas de até `BATCH` itens; a última pode vir vazia."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch
