"""Gravar o conjunto preparado: três formatos, rejeitadas, ficha, manifesto e figuras.

Nada do que se grava depende da hora, da máquina ou da pasta: a mesma entrada dá os mesmos bytes.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import divisao
import ficha
import formatos
import utils
from banco import Options, Store
from preparacao import prepare


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
        stats = ficha.describe(store, tokenizer)
        reasons = store.db.execute(
            "SELECT COALESCE(reason, unfit), COUNT(*) FROM rows WHERE n >= 0 "
            "AND (reason IS NOT NULL OR unfit IS NOT NULL) GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        numbers = {
            "lidas": store.count(),
            "aceitas": store.count("split IS NOT NULL"),
            "formatos": written,
            "sujeira": ficha.count_kinds(store),
            "fora": dict(reasons),
            "rotulos": stats["rotulos"],
            "tokens": {split: ficha.quantiles(values)
                       for split, values in stats["comprimentos"].items() if values},
            "cobertura_do_vocabulario": stats["cobertura_do_teste"],
        }  # fmt: skip
        unlabelled = store.count("n >= 0 AND reason IS NULL AND unfit IS NOT NULL")
        if numbers["aceitas"] + rejected - unlabelled != numbers["lidas"]:
            raise utils.UserError("a conta das linhas não fecha: nada foi gravado (defeito daqui).")
        check_leaks(folder, formats[0])
        ficha.plot(stats, folder / "figuras.png")
        ficha.write_card(folder, options, numbers, stats)
        ficha.write_manifest(folder, options, numbers)
        numbers["exemplos"] = ficha.examples(store)
        numbers["recusadas"] = ficha.refused(store)
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
    message_of = formatos.FORMATS[name].message_of
    files = {split: folder / name / f"{file}.jsonl" for split, file in formatos.FILES.items()}
    for held_out, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        found = divisao.leaks(files[held_out], files[other], message_of)
        if found:
            worst = "; ".join(f"{x['reservada'][:60]!r} em {x['treino'][:60]!r}" for x in found[:3])
            raise utils.UserError(
                f"vazamento: {len(found)} mensagens de {ficha.PART_NAMES[held_out]} estão em "
                f"{ficha.PART_NAMES[other]} ({worst}). Nada foi gravado. Diminua --related para "
                "juntar mais parentes."
            )


def naive_leaks(store: Store, options: Options, work: Path) -> dict:
    """O que vazaria com um sorteio simples das linhas brutas, sem tirar repetidas nem agrupar.

    Sobre até `ficha.SAMPLE` linhas: é só para comparar.
    """
    rows = store.db.execute(
        "SELECT message FROM rows WHERE n >= 0 AND LENGTH(message) >= ? ORDER BY n LIMIT ?",
        (options.min_characters, ficha.SAMPLE),
    ).fetchall()
    random.Random(options.seed).shuffle(rows)
    size = round(options.shares.test * len(rows))
    for name, part in (("reservada", rows[:size]), ("resto", rows[size:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (work / name).write_text(text, encoding="utf-8")
    found = divisao.leaks(work / "reservada", work / "resto", lambda row: row[0])
    return {"vazamentos": len(found), "reservadas": size}


# --- os dados -------------------------------------------------------------------------------------


def write_format(store: Store, folder: Path, name: str) -> dict[str, int]:
    """Grava um formato em JSONL e em Arrow (`datasets.load_from_disk`); devolve as contagens."""
    chosen = formatos.FORMATS[name]
    target = folder / name
    target.mkdir(parents=True)
    unfit = " AND unfit IS NULL" if "intent" in chosen.needs else ""
    counts, parts = {}, {}
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        for split, file_name in formatos.FILES.items():
            path, counts[split] = target / f"{file_name}.jsonl", 0
            with path.open("w", encoding="utf-8", newline="\n") as file:
                for page in store.pages("message, reply, intent", f"split = '{split}'{unfit}"):
                    lines = [json.dumps(chosen.build(*row[1:]), ensure_ascii=False) for row in page]
                    file.write("\n".join(lines) + "\n")
                    counts[split] += len(page)
            if counts[split]:
                parts[split] = datasets.Dataset.from_generator(
                    read_jsonl, features=chosen.features, cache_dir=cache,
                    gen_kwargs={"path": str(path)}, fingerprint=ficha.sha256(path)[:16],
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
                entry = {"registro": n, "linha": line, "motivo": why,
                         "explicacao": ficha.KINDS[why], "detalhe": detail, "gemea": twin,
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
