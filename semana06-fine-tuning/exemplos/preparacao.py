"""O preparo, do arquivo bruto às linhas aceitas e divididas, sem carregar o arquivo na memória.

Quatro passadas: consertar e contar; julgar diante do conjunto; achar parentes; dividir. Nenhuma
linha some: cada uma termina com uma parte (`split`) ou com um motivo (`reason`).
"""

import hashlib
import json
import sys
from pathlib import Path

import conferencia
import divisao
import duplicatas
import leitura
import limpeza
import parentes
import utils
from banco import BATCH, RESERVED, Options, Store
from pyarrow import parquet
from tqdm import tqdm


def prepare(options: Options, work: Path) -> Store:
    """Faz o preparo inteiro; o banco fica em `work`.

    Raises:
        utils.UserError: a fonte não se lê, ou nenhuma linha foi aceita.
    """
    store = Store(work / "linhas.sqlite")
    corpus = collect(store, options)
    judge(store, corpus, options)
    parentes.find_duplicates(store, options, work / "assinaturas.bin")
    parentes.split(store, options)
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
