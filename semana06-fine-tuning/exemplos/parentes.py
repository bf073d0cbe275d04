"""Achar as mensagens iguais e parecidas, tirar as repetidas e manter as parentes na mesma parte."""

import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import divisao
import duplicatas
import utils
from banco import BATCH, RESERVED, Options, Store, batches
from tqdm import tqdm

ROUNDS = 8  # divisões tentadas até que nenhum parente fique separado


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
    for pairs in batches(file.candidates()):
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
        if later < 0:
            continue  # as duas são do teste oficial
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


# --- dividir --------------------------------------------------------------------------------------


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
    for page in batches(divisao.assign(drawn, counts, options.shares)):
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
