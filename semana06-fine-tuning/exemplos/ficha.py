"""O que se conta do conjunto pronto: números, exemplos, figuras, ficha e manifesto."""

import difflib
import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import divisao
import duplicatas
import formatos
import matplotlib
import utils
from banco import BATCH, Options, Store

PART_NAMES = {"train": "treino", "validation": "validação", "test": "teste"}
SAMPLE = 5000  # linhas de cada parte nas figuras: sorteadas, para servir também a um milhão
KINDS = {
    "unreadable": "linha que não se lê",
    "mojibake": "acentos estragados",
    "lost_characters": "letras perdidas (U+FFFD)",
    "html": "HTML",
    "invisible": "caracteres invisíveis",
    "emoji": "emojis",
    "boilerplate": "rodapés repetidos",
    "pii_cpf": "CPF",
    "pii_cnpj": "CNPJ",
    "pii_email": "e-mail",
    "pii_phone": "telefone",
    "pii_cep": "CEP",
    "pii_card": "cartão",
    "date_format": "data noutro formato",
    "date_unreadable": "data que não se entende",
    "empty": "mensagem ou resposta vazia",
    "truncated": "texto cortado",
    "length_outlier": "comprimento fora do razoável",
    "language": "outra língua",
    "label_misspelt": "rótulo mal escrito",
    "label_unknown": "rótulo que não diz nada",
    "duplicate_exact": "repetida igual",
    "duplicate_near": "quase igual a outra",
    "conflict": "mesmo texto, dois rótulos",
    "test_leak": "pergunta do teste oficial",
}


def count_kinds(store: Store) -> dict[str, int]:
    """Linhas com cada tipo de sujeira, na ordem de `KINDS`."""
    found: Counter = Counter()
    for page in store.pages("kinds", "n >= 0 AND kinds != ''"):
        for _, kinds in page:
            found.update(set(kinds.split()))
    return {kind: found[kind] for kind in KINDS if found[kind]}


def describe(store: Store, tokenizer) -> dict:
    """Comprimentos em tokens, rótulos e vocabulário de cada parte (até `SAMPLE` linhas dela)."""
    lengths, labels, words = {}, {}, {}
    for split in divisao.SPLITS:
        rows = store.db.execute(
            "SELECT message, reply FROM rows WHERE split = ? ORDER BY shuffle, n LIMIT ?",
            (split, SAMPLE),
        ).fetchall()
        counted = [0] * len(rows)
        for column in (0, 1):
            texts = [row[column] for row in rows]
            for start in range(0, len(texts), BATCH):
                ids = tokenizer(texts[start : start + BATCH], add_special_tokens=False).input_ids
                for place, row in enumerate(ids, start):
                    counted[place] += len(row)
        lengths[split] = counted
        labels[split] = dict(store.db.execute(
            "SELECT intent, COUNT(*) FROM rows WHERE split = ? AND intent IS NOT NULL "
            "AND unfit IS NULL GROUP BY intent ORDER BY intent", (split,)))  # fmt: skip
        words[split] = Counter(w for row in rows for w in re.findall(r"\w+", " ".join(row).lower()))
    seen = words["train"].keys()
    test_total = sum(words["test"].values())
    covered = sum(times for word, times in words["test"].items() if word in seen)
    return {"comprimentos": lengths, "rotulos": labels, "vocabulario": words,
            "cobertura_do_teste": covered / test_total if test_total else None}  # fmt: skip


def percent(share: float) -> str:
    """`97,4%`."""
    return comma(f"{100 * share:.1f}%")


def comma(number: float | str) -> str:
    return str(number).replace(".", ",")


def quantiles(values: list[int]) -> dict[str, int]:
    """Mínimo, mediana, percentil 95 e máximo de uma lista não vazia."""
    ordered = sorted(values)
    at = {"minimo": 0, "mediana": 0.5, "p95": 0.95, "maximo": 1}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()}


def plot(stats: dict, path: Path) -> None:
    """Três painéis: comprimentos em tokens, rótulos por parte, curva do vocabulário."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(16, 4.5))
    for split, name in PART_NAMES.items():
        if stats["comprimentos"][split]:
            left.hist(stats["comprimentos"][split], bins=30, density=True, alpha=0.5, label=name)
    left.set(xlabel="tokens (mensagem + resposta)", ylabel="densidade", title="Comprimento")
    left.legend()
    labels = sorted({label for counts in stats["rotulos"].values() for label in counts})
    bottom = [0] * len(labels)
    for split, name in PART_NAMES.items():
        heights = [stats["rotulos"][split].get(label, 0) for label in labels]
        middle.bar(labels, heights, bottom=bottom, label=name)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    middle.tick_params(axis="x", rotation=60)
    middle.set(ylabel="linhas", title="Rótulos")
    if labels:
        middle.legend()
    for split, name in PART_NAMES.items():
        ranks = sorted(stats["vocabulario"][split].values(), reverse=True)
        if ranks:
            right.loglog(range(1, len(ranks) + 1), ranks, label=name)
    right.set(xlabel="posição da palavra", ylabel="vezes", title="Vocabulário (lei de Zipf)")
    right.legend()
    figure.tight_layout()
    # Sem a versão do matplotlib nos metadados, os bytes só dependem do desenho.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def examples(store: Store) -> dict[str, tuple[str, str]]:
    """Para cada conserto, uma linha antes e depois, em volta do que mudou."""
    found = {}
    for kind in KINDS:
        row = store.db.execute(
            "SELECT message, reply, original FROM rows WHERE n >= 0 "
            "AND ' ' || kinds || ' ' LIKE ? AND reason IS NULL ORDER BY LENGTH(kinds), n LIMIT 1",
            (f"% {kind} %",),
        ).fetchone()
        if row is None:
            continue
        original = [v for v in _strings(json.loads(row[2])) if v.strip()]
        for clean in row[:2]:
            close = difflib.get_close_matches(clean, original, n=1, cutoff=0.3)
            if close and close[0] != clean:
                found[kind] = _around(close[0], clean)
                break
    label = store.db.execute(
        "SELECT label, intent FROM rows WHERE kinds LIKE '%label_misspelt%' ORDER BY n LIMIT 1"
    ).fetchone()
    if label is not None:
        found["label_misspelt"] = label
    return found


def refused(store: Store) -> dict[str, list[str]]:
    """Para cada motivo, uma linha recusada e, se há, a que ficou no lugar dela."""
    found = {}
    for kind in KINDS:
        row = store.db.execute(
            "SELECT gone.message, gone.reply, kept.message FROM rows AS gone "
            "LEFT JOIN rows AS kept ON kept.n = gone.twin "
            "WHERE gone.n >= 0 AND COALESCE(gone.reason, gone.unfit) = ? ORDER BY gone.n LIMIT 1",
            (kind,),
        ).fetchone()
        if row is not None:
            message, reply, twin = row
            found[kind] = [_short(message), _short(twin if twin is not None else reply)]
    return found


def _short(text: str, width: int = 76) -> str:
    """As duas pontas de um texto comprido."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]} … {text[-half:]}"


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _around(before: str, after: str, width: int = 56) -> tuple[str, str]:
    """Os dois textos, a partir de pouco antes da primeira diferença."""
    same = next((i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y),
                min(len(before), len(after)))  # fmt: skip
    start = max(0, same - 16)
    return before[start : start + width], after[start : start + width]


# --- ficha e manifesto ----------------------------------------------------------------------------


def write_manifest(folder: Path, options: Options, numbers: dict) -> None:
    """`manifesto.json`: parâmetros, contagens, versões e o sha256 da entrada e de cada arquivo."""
    source = Path(options.source)
    parameters = {key: value for key, value in vars(options).items() if key != "source"}
    parameters["shares"] = vars(options.shares)
    for key in ("boilerplate", "reserved"):
        path = parameters[key]
        parameters[key] = path and {"arquivo": path.name, "sha256": sha256(path)}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifesto.json")
    utils.write_json(
        folder / "manifesto.json",
        {
            "entrada": {"nome": source.name if source.is_file() else options.source,
                        "sha256": sha256(source) if source.is_file() else None},
            "parametros": parameters,
            **numbers,
            "versoes": {"python": platform.python_version()}
            | {name: version(name) for name in ("datasets", "pyarrow", "numpy", "matplotlib")},
            "arquivos": {str(p.relative_to(folder).as_posix()): {"bytes": p.stat().st_size,
                                                                 "sha256": sha256(p)}
                         for p in files},
        },
    )  # fmt: skip


def write_card(folder: Path, options: Options, numbers: dict, stats: dict) -> None:
    """`ficha.md`: o que é o conjunto, como foi feito e para que não serve (Gebru et al., 2021)."""
    source = Path(options.source)
    lines = [
        f"# Ficha do conjunto preparado de `{source.name if source.is_file() else options.source}`",
        "",
        f"{numbers['lidas']} linhas lidas, {numbers['aceitas']} aceitas, "
        f"{numbers['lidas'] - numbers['aceitas']} fora. As que saíram estão, inteiras e com o "
        "motivo, em `rejeitados.jsonl`; o que se achou em cada linha, em `consertos.jsonl`. "
        "Parâmetros e somas de cada arquivo: `manifesto.json`.",
        "", "## Formatos e partes", "",
        "| formato | para | treino | validação | teste |", "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    for name, counts in numbers["formatos"].items():
        cells = " | ".join(str(counts[split]) for split in divisao.SPLITS)
        lines.append(f"| `{name}/` | {formatos.FORMATS[name].purpose} | {cells} |")
    lines += [
        "",
        f"A divisão é por grupo (parentes: Jaccard de sequências de {duplicatas.LETTERS} letras de "
        f"{comma(options.related)} ou mais, ou a mesma conversa), estratificada por rótulo, com a "
        f"semente {options.seed}. Conferida depois de gravada: nenhuma mensagem de validação ou "
        f"teste tem {divisao.MAX_OVERLAP:.0%} ou mais das suas sequências de {divisao.NGRAM} "
        "palavras numa só mensagem do treino.",
        "", "## Sujeira achada", "",
        "| tipo | linhas |", "|---|---:|",
        *(f"| {KINDS[kind]} | {count} |" for kind, count in numbers["sujeira"].items()),
        "", "## Linhas fora, por motivo", "",
        "| motivo | linhas |", "|---|---:|",
        *(f"| {KINDS[kind]} | {count} |" for kind, count in numbers["fora"].items()),
        "", "## Comprimento (tokens da mensagem mais a resposta)", "",
        "| parte | mínimo | mediana | 95% até | máximo |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for split, name in PART_NAMES.items():
        if stats["comprimentos"][split]:
            cells = " | ".join(str(v) for v in quantiles(stats["comprimentos"][split]).values())
            lines.append(f"| {name} | {cells} |")
    coverage = stats["cobertura_do_teste"]
    lines += [
        "",
        f"Vocabulário do treino: {len(stats['vocabulario']['train'])} palavras diferentes"
        + (f"; {percent(coverage)} das palavras do teste já apareceram nele." if coverage else "."),
        "", "![comprimentos, rótulos e vocabulário](figuras.png)",
        "", "## Cuidados", "",
        "- CPF, CNPJ, cartão, telefone, CEP e e-mail foram trocados por marcadores como `[CPF]`. "
        "**Nomes e endereços de pessoas não**: nenhuma regra desta preparação os acha.",
        "- `rejeitados.jsonl` guarda as linhas como vieram, com os dados pessoais: não o publique.",
        "- A língua é decidida por palavras frequentes; frases curtas contam como a esperada.",
        "- O corte no meio de um texto é um palpite (ponto final, palavra que não existe): confira "
        "as rejeitadas por `truncated`.",
        "- De quase iguais fica a primeira do arquivo. O conjunto não diz mais quantas vezes cada "
        "pedido chega.",
    ]  # fmt: skip
    (folder / "ficha.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
