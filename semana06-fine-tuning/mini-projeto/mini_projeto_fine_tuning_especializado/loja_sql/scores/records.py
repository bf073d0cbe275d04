"""O resultado de uma avaliação, gravado depois de cada variante: as notas e as respostas."""

from comum import results
from comum.files import read_jsonl, write_jsonl
from comum.results import Evaluation
from comum.statistics import mcnemar
from comum.terminal import UserError

from loja_sql.config import Config
from loja_sql.model.summary import read_summary
from loja_sql.prompt import DECLINE
from loja_sql.scores.overview import GROUPS
from loja_sql.scores.variants import BASE, TUNED, UNTRAINED


class Record:
    """As variantes já medidas nas mesmas perguntas, o conteúdo de dois arquivos em `resultados/`.

    `evaluation` é o NOME.json; `lines`, o NOME.jsonl, uma linha por pergunta e variante.
    """

    def __init__(self, config: Config, name: str, questions: str) -> None:
        self.path = results.RESULTS_DIR / f"{name}.json"
        self.lines: list[dict] = []
        asked = {"model": config.model.name, "questions": questions, "config": config.model_dump()}
        training = read_summary(config.output_dir)
        self.evaluation = Evaluation(**asked, variants={}, training=training)

    def take_earlier(self, rows: list[dict]) -> None:
        """Parte do que já estava gravado; UserError se as perguntas são outras.

        As medidas do modelo sem treino valem sempre; as outras, só se o treino ainda é o mesmo.
        """
        if not self.path.is_file():
            return
        earlier, lines = Evaluation.load(self.path), read_jsonl(self.path.with_suffix(".jsonl"))
        asked = {(line["id"], line["gold"]) for line in lines}
        if asked != {(row["id"], row["sql"]) for row in rows}:
            raise UserError(f"{self.path} é de outras perguntas; tire --add ou mude --name.")
        kept = earlier.variants
        if earlier.training != self.evaluation.training:
            print(f"{self.path} é de outro treino: dele ficam só as medidas do modelo sem treino.")
            kept = {name: part for name, part in kept.items() if part.group in UNTRAINED}
        self.evaluation.variants = kept
        self.lines = [line for line in lines if line["variant"] in kept]

    def add(self, label: str, scores: results.Variant, lines: list[dict]) -> None:
        """Junta uma variante (ou a refaz) e grava os dois arquivos."""
        found = self.evaluation.variants | {label: scores}
        # No mesmo grupo fica a ordem de medida.
        ordered = sorted(found.items(), key=lambda item: GROUPS.index(item[1].group))
        self.lines = [line for line in self.lines if line["variant"] != label] + lines
        self.evaluation.variants = dict(ordered)
        self._compare()
        commands = dict.fromkeys(part.command for part in self.evaluation.variants.values())
        write_jsonl(self.path.with_suffix(".jsonl"), self.lines)
        self.evaluation.save(self.path.stem, " && ".join(commands))

    def _compare(self) -> None:
        """O teste de McNemar: o treinado com o modelo sem treino, e com as variantes dele."""
        variants = self.evaluation.variants
        if TUNED not in variants:
            return
        # Só as que o banco responde, como na acurácia: o modelo sem treino nunca recusa.
        asked = [line for line in self.lines if line["gold"] != DECLINE]
        right = {n: [x["correct"] for x in asked if x["variant"] == n] for n in variants}
        if BASE in variants:
            self.evaluation.base_against_trained = mcnemar(right[BASE], right[TUNED])
        self.evaluation.against_trained = {
            name: mcnemar(right[TUNED], right[name])
            for name, part in variants.items()
            if part.group not in (*UNTRAINED, "trained")
        }
