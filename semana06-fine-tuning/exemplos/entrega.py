"""Gravar o conjunto preparado: três formatos, rejeitadas, ficha, manifesto e figuras.

Nada do que se grava depende da hora, da máquina ou da pasta: a mesma entrada dá os mesmos bytes.
"""

import utils

import difflib
import hashlib
import json
import platform
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import datasets
import matplotlib

import divisao
import duplicatas
from preparacao import BATCH, Options, Store, prepare

FILES = {"train": "treino", "validation": "validacao", "test": "teste"}
SAMPLE = 5000  # linhas de cada parte nas figuras: sorteadas, para servir também a um milhão
TEXT = datasets.Value("string")
PROMPT = "Mensagem do cliente: {message}\nResposta da loja:"


@dataclass(frozen=True)
class Format:
    """Um jeito de escrever a linha; `message_of` faz o caminho de volta, para as conferências."""

    needs: tuple[str, ...]
    features: datasets.Features
    build: Callable[[str, str, str], dict]  # (message, reply, intent)
    message_of: Callable[[dict], str]
    purpose: str


FORMATS = {
    "chat": Format(
        ("reply",),
        datasets.Features({"messages": [{"role": TEXT, "content": TEXT}]}),
        lambda message, reply, intent: {"messages": [{"role": "user", "content": message},
                                                     {"role": "assistant", "content": reply}]},
        lambda row: row["messages"][0]["content"],
        "conversar: o modelo responde no lugar do atendente",
    ),
    "classification": Format(
        ("intent",),
        datasets.Features({"text": TEXT, "label": TEXT}),
        lambda message, reply, intent: {"text": message, "label": intent},
        lambda row: row["text"],
        "classificar: dizer o assunto da mensagem",
    ),
    "generation": Format(
        ("reply",),
        datasets.Features({"prompt": TEXT, "completion": TEXT}),
        lambda message, reply, intent: {"prompt": PROMPT.format(message=message),
                                        "completion": f" {reply}"},
        lambda row: row["prompt"].removeprefix("Mensagem do cliente: ").rsplit("\n", 1)[0],
        "continuar um texto: prompt e resposta, sem papéis",
    ),
}  # fmt: skip

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


def usable(columns: dict[str, str], wanted: list[str]) -> list[str]:
    """Os formatos pedidos que as colunas permitem.

    Raises:
        utils.UserError: nenhum deles é possível.
    """
    found = [name for name in wanted if set(FORMATS[name].needs) <= set(columns)]
    if not found:
        needs = " ou ".join(sorted({FORMATS[name].needs[0] for name in wanted}))
        raise utils.UserError(
            f"para {', '.join(wanted)} é preciso a coluna {needs}, que as opções dizem não existir."
        )
    return found


def build(options: Options, output: Path, formats: list[str], tokenizer) -> dict:
    """Do arquivo bruto à pasta pronta; devolve os números e alguns exemplos de antes e depois.

    A pasta é montada ao lado e só toma o lugar da antiga no fim, depois da conferência.

    Raises:
        utils.UserError: fonte ilegível, nada aceito, vazamento entre as partes, ou `output` tem
            coisas que não foram feitas aqui.
    """
    if output.exists() and not (output / "manifesto.json").is_file() and any(output.iterdir()):
        raise utils.UserError(
            f"a pasta {output} já existe e não foi feita por este preparo. Indique outra: --output."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
        store = prepare(options, Path(work))
        folder = Path(work) / "pronto"
        written = {name: write_format(store, folder, name) for name in formats}
        rejected = write_rejected(store, folder / "rejeitados.jsonl")
        write_repairs(store, folder / "consertos.jsonl")
        stats = describe(store, tokenizer)
        reasons = store.db.execute(
            "SELECT COALESCE(reason, unfit), COUNT(*) FROM rows WHERE n >= 0 "
            "AND (reason IS NOT NULL OR unfit IS NOT NULL) GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        numbers = {
            "lidas": store.count(),
            "aceitas": store.count("split IS NOT NULL"),
            "formatos": written,
            "sujeira": count_kinds(store),
            "fora": dict(reasons),
            "rotulos": stats["rotulos"],
            "tokens": {split: quantiles(values)
                       for split, values in stats["comprimentos"].items() if values},
            "cobertura_do_vocabulario": stats["cobertura_do_teste"],
        }  # fmt: skip
        unlabelled = store.count("n >= 0 AND reason IS NULL AND unfit IS NOT NULL")
        if numbers["aceitas"] + rejected - unlabelled != numbers["lidas"]:
            raise utils.UserError("a conta das linhas não fecha: nada foi gravado (defeito daqui).")
        check_leaks(folder, formats[0])
        plot(stats, folder / "figuras.png")
        write_card(folder, options, numbers, stats)
        write_manifest(folder, options, numbers)
        numbers["exemplos"] = examples(store)
        numbers["vazamentos_sem_grupos"] = naive_leaks(store, options, Path(work))
        store.db.close()
        if output.exists():
            output.rename(Path(work) / "antiga")
        folder.rename(output)
    return numbers


# --- as conferências ------------------------------------------------------------------------------


def check_leaks(folder: Path, name: str) -> None:
    """Confere, nos arquivos gravados, que nada reservado está no treino.

    Raises:
        utils.UserError: há vazamento; mostra os piores.
    """
    message_of = FORMATS[name].message_of
    files = {split: folder / name / f"{file}.jsonl" for split, file in FILES.items()}
    for held_out, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        found = divisao.leaks(files[held_out], files[other], message_of)
        if found:
            worst = "; ".join(f"{x['reservada'][:60]!r} em {x['treino'][:60]!r}" for x in found[:3])
            raise utils.UserError(
                f"vazamento: {len(found)} mensagens de {FILES[held_out]} estão em {FILES[other]} "
                f"({worst}). Nada foi gravado. Diminua --related para juntar mais parentes."
            )


def naive_leaks(store: Store, options: Options, work: Path) -> dict:
    """O que vazaria com um sorteio simples das linhas brutas, sem tirar repetidas nem agrupar.

    Sobre até `SAMPLE` linhas: é só para comparar.
    """
    rows = store.db.execute(
        "SELECT message FROM rows WHERE n >= 0 AND LENGTH(message) >= ? ORDER BY n LIMIT ?",
        (options.min_characters, SAMPLE),
    ).fetchall()
    random.Random(options.seed).shuffle(rows)
    size = round(options.shares.test * len(rows))
    for name, part in (("reservada", rows[:size]), ("resto", rows[size:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (work / name).write_text(text, encoding="utf-8")
    found = divisao.leaks(work / "reservada", work / "resto", lambda row: row[0])
    return {"vazamentos": len(found), "reservadas": size}


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
    return found


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


# --- os dados -------------------------------------------------------------------------------------


def write_format(store: Store, folder: Path, name: str) -> dict[str, int]:
    """Grava um formato em JSONL e em Arrow (`datasets.load_from_disk`); devolve as contagens."""
    chosen = FORMATS[name]
    target = folder / name
    target.mkdir(parents=True)
    unfit = " AND unfit IS NULL" if "intent" in chosen.needs else ""
    counts, parts = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        for split, file_name in FILES.items():
            path, counts[split] = target / f"{file_name}.jsonl", 0
            with path.open("w", encoding="utf-8", newline="\n") as file:
                for page in store.pages("message, reply, intent", f"split = '{split}'{unfit}"):
                    lines = [json.dumps(chosen.build(*row[1:]), ensure_ascii=False) for row in page]
                    file.write("\n".join(lines) + "\n")
                    counts[split] += len(page)
            if counts[split]:
                parts[split] = datasets.Dataset.from_generator(
                    read_jsonl, features=chosen.features, cache_dir=cache,
                    gen_kwargs={"path": str(path)}, fingerprint=sha256(path)[:16],
                )  # fmt: skip
        datasets.DatasetDict(parts).save_to_disk(target / "arrow")
    return counts


def read_jsonl(path: str) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_rejected(store: Store, path: Path) -> int:
    """Grava cada linha retirada, inteira, com o motivo; devolve quantas."""
    written = 0
    where = "n >= 0 AND (reason IS NOT NULL OR unfit IS NOT NULL)"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for page in store.pages("line, reason, unfit, detail, twin, original", where):
            for n, line, reason, unfit, detail, twin, original in page:
                why = reason or unfit
                entry = {"registro": n, "linha": line, "motivo": why, "explicacao": KINDS[why],
                         "detalhe": detail, "gemea": twin,
                         "fora_de": "tudo" if reason else "classification",
                         "original": json.loads(original)}  # fmt: skip
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                written += 1
    return written


def write_repairs(store: Store, path: Path) -> None:
    """Grava o que se achou em cada linha: tipos e parte, sem os textos (teriam dados pessoais)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for page in store.pages("line, kinds, split", "n >= 0 AND kinds != ''"):
            for n, line, kinds, split in page:
                entry = {"registro": n, "linha": line, "tipos": kinds.split(), "parte": split}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# --- os números -----------------------------------------------------------------------------------


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
    for split, name in FILES.items():
        if stats["comprimentos"][split]:
            left.hist(stats["comprimentos"][split], bins=30, density=True, alpha=0.5, label=name)
    left.set(xlabel="tokens (mensagem + resposta)", ylabel="densidade", title="Comprimento")
    left.legend()
    labels = sorted({label for counts in stats["rotulos"].values() for label in counts})
    bottom = [0] * len(labels)
    for split, name in FILES.items():
        heights = [stats["rotulos"][split].get(label, 0) for label in labels]
        middle.bar(labels, heights, bottom=bottom, label=name)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    middle.tick_params(axis="x", rotation=60)
    middle.set(ylabel="linhas", title="Rótulos")
    if labels:
        middle.legend()
    for split, name in FILES.items():
        ranks = sorted(stats["vocabulario"][split].values(), reverse=True)
        if ranks:
            right.loglog(range(1, len(ranks) + 1), ranks, label=name)
    right.set(xlabel="posição da palavra", ylabel="vezes", title="Vocabulário (lei de Zipf)")
    right.legend()
    figure.tight_layout()
    # Sem a versão do matplotlib nos metadados, os bytes só dependem do desenho.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


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
        lines.append(f"| `{name}/` | {FORMATS[name].purpose} | {cells} |")
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
    for split, name in FILES.items():
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
