"""O relatório dos dados: contagens, tamanhos, o que as divisões têm em comum, recusas e hashes."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from comum.files import sha256
from comum.numbers import MISSING, decimal
from comum.tables import markdown

from loja_sql.config import Config
from loja_sql.questions.reading import Rejected, Row
from loja_sql.questions.sieve import NEARLY, REPEATED
from loja_sql.questions.slots import mask, plain, wording
from loja_sql.questions.splits import NAMES, Splits
from loja_sql.sql.features import shape

SOURCE_NAMES = NAMES | {
    "written": "escritas",
    "contrast": "contrastivas",
    "near": "quase sem resposta",
    "unanswerable": "sem resposta",
    "validation_unanswerable": "validação sem resposta",
    "variation": "variações",
    "recombination": "recombinadas",
    "generated": "geradas",
    "feedback": "opiniões",
    "own": "próprias",
}
# O que duas perguntas podem ter em comum: chave e nome.
OVERLAPS = {
    "same_question": "perguntas iguais",
    "same_mould": "mesmo molde",
    "same_skeleton": "mesmo esqueleto de SQL",
}
GROUPED_REASONS = {
    REPEATED: "mesmo molde de outra",
    NEARLY: "quase igual a uma reservada",
    "SQL inválido": "SQL inválido",
}


def build_report(config: Config, splits: Splits, rejected: list[Rejected]) -> dict:
    """O relatório das divisões já gravadas em `config.data_dir`, com chaves em inglês."""
    lengths = _sql_tokens(config, splits)
    train, *others = splits
    traits = _traits(mask if config.data.custom is None else wording)
    known = [set(map(trait, splits[train])) - {None} for trait in traits]
    return {
        "splits": {
            name: _described(rows)
            | {"sql_tokens": lengths.get(name), "sha256": sha256(config.data_dir / f"{name}.jsonl")}
            for name, rows in splits.items()
        },
        # Quantas de cada divisão têm no treino o mesmo que elas.
        "overlap": {
            name: {
                key: sum(trait(row) in seen for row in splits[name])
                for key, trait, seen in zip(OVERLAPS, traits, known, strict=True)
            }
            for name in others
        },
        "rejected": _counts(_grouped(item.reason) for item in rejected),
    }


def _described(rows: list[Row]) -> dict:
    traits = ("source", "kind", "difficulty", "wording")
    shapes = [shape(row.sql) for row in rows if row.answerable]
    return {
        "questions": len(rows),
        **{f"by_{trait}": _counts(getattr(row, trait) for row in rows) for trait in traits},
        "skeletons": len({one.skeleton for one in shapes}),
        "tables_per_query": dict(sorted(Counter(len(one.tables) for one in shapes).items())),
    }


def _traits(mould: Callable[[str], str]) -> list[Callable[[Row], str | None]]:
    """O que duas perguntas podem ter em comum, na ordem de `OVERLAPS`."""
    return [
        lambda row: plain(row.question),
        lambda row: mould(row.question),
        lambda row: shape(row.sql).skeleton if row.answerable else None,
    ]


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _grouped(reason: str) -> str:
    names = (name for start, name in GROUPED_REASONS.items() if reason.startswith(start))
    return next(names, reason)


def _sql_tokens(config: Config, splits: Splits) -> dict[str, dict[str, int]]:
    """Mediana e percentil 95 dos tokens do SQL, no tokenizador da base, se ele está no disco."""
    path = Path(config.model_path) / "tokenizer.json"
    if not path.is_file():
        return {}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    @cache  # variações e ruído repetem o SQL
    def length(sql: str) -> int:
        return len(tokenizer.encode(sql).ids)

    found = {}
    for name, rows in splits.items():
        if sizes := sorted(length(row.sql) for row in rows):
            at95 = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
            found[name] = {"median": sizes[len(sizes) // 2], "p95": at95}
    return found


def report_markdown(report: dict) -> str:
    """O relatório em Markdown, para gente ler."""
    splits = report["splits"]
    names = [NAMES[name] for name in splits]
    header = ["divisão", "perguntas", "fontes", "esqueletos", "SQL em tokens (mediana / p95)"]
    parts = ["# Relatório dos dados", markdown(header, map(_row, names, splits.values()))]
    for title, key in (("tipo", "by_kind"), ("dificuldade", "by_difficulty")):
        labels = sorted({label for part in splits.values() for label in part[key]})
        counts = [[x, *(decimal(part[key].get(x, 0)) for part in splits.values())] for x in labels]
        parts += [f"## Por {title}", markdown([title, *names], counts)]
    shared = [[NAMES[x], *map(decimal, part.values())] for x, part in report["overlap"].items()]
    reasons = [[reason, decimal(count)] for reason, count in report["rejected"].items()]
    parts += ["## O que as outras divisões têm em comum com o treino"]
    parts += [markdown(["divisão", *OVERLAPS.values()], shared)]
    parts += ["## Recusadas", markdown(["motivo", "linhas"], reasons)]
    hashes = [f"- `{name}.jsonl`: `{part['sha256']}`" for name, part in splits.items()]
    return "\n\n".join([*parts, "## Arquivos (SHA-256)", "\n".join(hashes)]) + "\n"


def _row(name: str, part: dict) -> list[str]:
    sources = [f"{SOURCE_NAMES[x]} {decimal(n)}" for x, n in part["by_source"].items()]
    size = part["sql_tokens"]
    shown = f"{size['median']} / {size['p95']}" if size else MISSING
    counts = decimal(part["questions"]), ", ".join(sources), decimal(part["skeletons"])
    return [name, *counts, shown]
