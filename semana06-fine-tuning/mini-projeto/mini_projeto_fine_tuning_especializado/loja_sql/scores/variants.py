"""O que se mede: o modelo sem treino, o treinado e as formas dele, cada um com o seu prompt."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comum import files
from comum.results import TrainingSummary
from comum.terminal import UserError
from comum.text import without_accents

from loja_sql.config import Config, as_trained, trained_kind, untrained
from loja_sql.model.engines import Engine, TransformersEngine, open_form
from loja_sql.model.exports import exported_forms
from loja_sql.model.summary import read_summary
from loja_sql.prompt import Examples
from loja_sql.questions.noise import typo
from loja_sql.questions.retrieval import Bm25
from loja_sql.questions.splits import load_split

BASE, TUNED = "base com esquema", "treinado"
UNTRAINED = ("untrained", "examples")  # os grupos que não dependem do treino
WORDINGS = {
    "sem acentos": without_accents,
    "com erro de digitação": lambda question: typo(question, random.Random(question)),
}


@dataclass(frozen=True)
class Variant:
    """Um modelo a medir: a configuração do seu prompt, a pasta do treino e a forma exportada.

    `label` é como se mostra; `group`, o nome com que `--only` a escolhe. `examples` dá, para uma
    pergunta, os exemplos que a antecedem no prompt; `reword` a reescreve.
    """

    label: str
    group: str
    config: Config
    adapter: Path | None = None
    form: str | None = None
    examples: Callable[[str], Examples] = lambda question: ()
    reword: Callable[[str], str] = lambda question: question

    @property
    def training(self) -> TrainingSummary | None:
        """O resumo do treino de que saiu; None para o modelo sem treino."""
        return None if self.adapter is None else read_summary(self.adapter)

    @property
    def weights_bytes(self) -> int | None:
        """Bytes dos pesos em disco; None se o modelo base não é uma pasta local."""
        if self.form is not None:
            places = [exported_forms(self.adapter)[self.form]]
        elif self.adapter is not None and trained_kind(self.adapter) == "full":
            places = [self.adapter]
        else:
            places = [Path(self.config.model_path), *([self.adapter] if self.adapter else [])]
        if not all(place.exists() for place in places):
            return None
        sizes = (p.stat().st_size if p.is_file() else files.weights_bytes(p) for p in places)
        return sum(sizes)


def open_variant(config: Config, adapter: Path | None, form: str | None) -> Engine:
    """O motor que mede uma variante: o da forma exportada ou, sem ela, o transformers."""
    if form is not None:
        return open_form(config, adapter, form)
    return TransformersEngine(config, adapter)


def choose(
    config: Config,
    only: list[str] | None = None,
    few_shot: int = 0,
    wordings: bool = False,
    also: list[Path] | None = None,
    forms: list[str] | None = None,
) -> list[Variant]:
    """As variantes pedidas, na ordem dos grupos.

    Args:
        only: os grupos a medir; None mede todos.
        few_shot: exemplos no prompt do modelo sem treino; 0 não o mede com exemplos.
        also: pastas de outros treinos; forms: formas exportadas por export.py.

    Raises:
        UserError: não sobrou nenhuma, ou duas teriam o mesmo nome.
    """
    base = untrained(config)
    found = [Variant(BASE, "untrained", base), *_with_examples(base, few_shot)]
    if trained_kind(config.output_dir) is None:
        print(f"Não há modelo treinado em {config.output_dir}: só o modelo base será medido.")
    else:
        found += _of_training(config, wordings, also or [], forms or [])
    found = [variant for variant in found if only is None or variant.group in only]
    if not found:
        raise UserError("não sobrou nenhuma variante para medir; confira --only e --forms.")
    repeated = [name for name, n in Counter(variant.label for variant in found).items() if n > 1]
    if repeated:
        raise UserError(
            f"duas variantes se chamariam `{repeated[0]}`: dê às pastas de --also nomes diferentes "
            "entre si e dos das formas."
        )
    return found


def _of_training(
    config: Config, wordings: bool, also: list[Path], forms: list[str]
) -> list[Variant]:
    """O treinado, com as perguntas reescritas, os outros treinos e as formas exportadas."""
    adapter = config.output_dir
    tuned = as_trained(config, adapter)
    found = [Variant(TUNED, "trained", tuned, adapter)]
    for name, reword in WORDINGS.items() if wordings else ():
        found.append(Variant(f"{TUNED}, {name}", "wordings", tuned, adapter, reword=reword))
    for folder in also:
        other = as_trained(config, folder)
        found.append(Variant(f"{TUNED}, {folder.name}", "others", other, folder))
    ready = exported_forms(adapter)
    for form in forms:
        if form in ready:
            found.append(Variant(f"{TUNED}, {form}", "forms", tuned, adapter, form))
        else:
            print(f"A forma {form} não está exportada e não será medida (python export.py).")
    return found


def _with_examples(base: Config, count: int) -> list[Variant]:
    """O modelo sem treino com `count` exemplos do treino: sempre os mesmos, ou os parecidos."""
    if not count:
        return []
    pairs = [(row["question"], row["sql"]) for row in load_split(base, "train")]
    fixed = [pairs[i * len(pairs) // count] for i in range(min(count, len(pairs)))]
    index = Bm25([question for question, _ in pairs])

    def similar(question: str) -> Examples:
        # O mais parecido por último, junto da pergunta.
        return [pairs[i] for i in reversed(index.nearest(question, count))]

    label = f"{BASE}, {count}"
    return [
        Variant(f"{label} exemplos", "examples", base, examples=lambda question: fixed),
        Variant(f"{label} parecidos", "examples", base, examples=similar),
    ]
