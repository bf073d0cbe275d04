"""O que se mede: o modelo sem treino, o treinado e as formas dele, cada um com o seu prompt."""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comum.terminal import UserError
from comum.text import without_accents

from loja_sql.config import Config, as_trained, trained_kind, untrained
from loja_sql.model.engines import Engine, open_form, with_transformers
from loja_sql.model.exports import ADAPTER, exported_forms, size_of
from loja_sql.prompt import DECLINE, Examples
from loja_sql.questions.noise import typo
from loja_sql.questions.retrieval import Bm25
from loja_sql.questions.splits import load_split
from loja_sql.scores.overview import GROUPS

BASE, TUNED = "base com esquema", "treinado"
UNTRAINED = ("untrained", "examples")  # os grupos que não dependem do treino
WORDINGS = {
    "sem acentos": without_accents,
    "com erro de digitação": lambda question: typo(question, random.Random(question)),
}


@dataclass(frozen=True)
class Variant:
    """Um modelo a medir: a configuração do seu prompt, a pasta do treino e a forma exportada.

    `label` é como se mostra; `group`, o nome com que `--only` a escolhe. `examples` dá os exemplos
    que antecedem uma pergunta no prompt; `reword` a reescreve.
    """

    label: str
    group: str
    config: Config
    adapter: Path | None = None
    form: str | None = None
    examples: Callable[[str], Examples] | None = None
    reword: Callable[[str], str] = str

    @property
    def weights_bytes(self) -> int | None:
        """Bytes dos pesos em disco; None se o modelo base não é uma pasta local."""
        if self.form is not None:
            places = [exported_forms(self.adapter)[self.form]]
            places += [Path(self.config.model_path)] * (self.form == ADAPTER)
        elif self.adapter is not None and trained_kind(self.adapter) == "full":
            places = [self.adapter]
        else:
            places = [Path(self.config.model_path), *([self.adapter] if self.adapter else [])]
        if not all(place.exists() for place in places):
            return None
        return sum(map(size_of, places))

    def open(self) -> Engine:
        """O motor que a mede: o da forma exportada ou, sem ela, o transformers."""
        if self.form is not None:
            return open_form(self.config, self.adapter, self.form)
        return with_transformers(self.config, self.adapter)


def choose(config: Config, args: argparse.Namespace) -> list[Variant]:
    """As variantes pedidas, na ordem dos grupos; UserError se nenhuma, ou se um nome se repete."""
    base = untrained(config)
    found = [Variant(BASE, "untrained", base), *_with_examples(base, args.few_shot)]
    if trained_kind(config.output_dir) is None:
        print(f"Não há modelo treinado em {config.output_dir}: só o modelo base será medido.")
    else:
        found += _of_training(config, args)
    found = [variant for variant in found if variant.group in (args.only or GROUPS)]
    if not found:
        raise UserError("não sobrou nenhuma variante para medir; confira --only e --forms.")
    if len({variant.label for variant in found}) < len(found):
        raise UserError("as pastas de --also têm de ter nomes diferentes entre si e das formas.")
    return found


def _of_training(config: Config, args: argparse.Namespace) -> list[Variant]:
    """O treinado, com as perguntas reescritas, os outros treinos e as formas exportadas."""
    adapter = config.output_dir
    tuned = as_trained(config, adapter)
    found = [Variant(TUNED, "trained", tuned, adapter)]
    for name, reword in WORDINGS.items() if args.wordings else ():
        found.append(Variant(f"{TUNED}, {name}", "wordings", tuned, adapter, reword=reword))
    for folder in args.also or ():
        other = as_trained(config, folder)
        found.append(Variant(f"{TUNED}, {folder.name}", "others", other, folder))
    ready = exported_forms(adapter)
    for form in args.forms or ():
        if form in ready:
            found.append(Variant(f"{TUNED}, {form}", "forms", tuned, adapter, form))
        else:
            print(f"A forma {form} não está exportada e não será medida (python export.py).")
    return found


def spread(rows: list, limit: int | None) -> list:
    """`limit` linhas espaçadas por igual: os arquivos vêm das fáceis para as difíceis."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _with_examples(base: Config, count: int) -> list[Variant]:
    """O modelo sem treino com `count` exemplos do treino: sempre os mesmos, ou os parecidos."""
    if not count:
        return []
    rows = (row for row in load_split(base, "train") if row["sql"] != DECLINE)
    pairs = [(row["question"], row["sql"]) for row in rows]
    fixed = spread(pairs, count)
    index = Bm25([question for question, _ in pairs])

    def similar(question: str) -> Examples:
        # O mais parecido por último, junto da pergunta.
        return [pairs[i] for i in reversed(index.nearest(question, count))]

    label = f"{BASE}, {count}"
    return [
        Variant(f"{label} exemplos", "examples", base, examples=lambda question: fixed),
        Variant(f"{label} parecidos", "examples", base, examples=similar),
    ]
