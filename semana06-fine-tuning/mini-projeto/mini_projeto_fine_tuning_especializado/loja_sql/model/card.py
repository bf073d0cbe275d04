"""A ficha do modelo exportado, no formato do hub; o texto está em card.md, aqui só os números."""

from pathlib import Path

from comum.numbers import decimal, general, interval
from comum.paths import RESULTS_DIR
from comum.results import Evaluation, TrainingSummary
from comum.tables import markdown

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from loja_sql.config import Config
from loja_sql.model.exports import Manifest, megabytes
from loja_sql.model.summary import read_summary

TEMPLATE = Path(__file__).with_name("card.md")
DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
UNTRAINED_GROUPS = ("untrained", "examples")


def model_card(config: Config, adapter: Path, manifest: Manifest) -> str:
    """O texto da ficha; as notas vêm do resultado de evaluate.py deste treino, se houver."""
    training, default = read_summary(adapter), config.model.name == "default"
    scores = _evaluation(adapter, training)
    base = DEFAULT_BASE if default else config.model.name
    data = ModelCardData(
        language="pt",
        license="apache-2.0" if default else "other",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        tags=["text-to-sql", "sqlite", config.training.method, "portuguese"],
        model_name=adapter.name,
        eval_results=_hub_results(scores) if scores else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        adapter=adapter.name,
        base=base,
        default=default,
        config=config,
        lora=config.training.method == "lora",
        shop=config.data.custom is None,
        batch=config.training.batch_size * config.training.gradient_accumulation_steps,
        learning_rate=general(config.training.learning_rate),
        training=training,
        decimal=decimal,
        scores=_scores(scores) if scores else None,
        forms=_forms(manifest),
        merge=manifest.merge and manifest.merge.shown,
    )
    return str(card)


def _evaluation(adapter: Path, training: TrainingSummary | None) -> Evaluation | None:
    path = RESULTS_DIR / f"mini_projeto_{adapter.name}_test.json"
    found = Evaluation.load(path) if path.is_file() else None
    # Notas de outro treino na mesma pasta não são deste modelo.
    return found if found is not None and found.training == training else None


def _hub_results(scores: Evaluation) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Texto para SQL",
            dataset_type="loja-sql",
            dataset_name="Perguntas sobre a loja, teste em palavras livres",
            metric_type="execution_accuracy",
            metric_name=f"acurácia de execução ({name})",
            metric_value=round(100 * variant.execution_accuracy.value, 1),
        )
        for name, variant in scores.variants.items()
        if variant.group not in UNTRAINED_GROUPS
    ]


def _scores(scores: Evaluation) -> str:
    header = ("variante", "perguntas", "acurácia de execução, % [IC 95%]")
    found = {name: variant.execution_accuracy for name, variant in scores.variants.items()}
    return markdown(header, [(n, score.n, interval(score, 1, 100)) for n, score in found.items()])


def _forms(manifest: Manifest) -> str:
    sizes = {name: form.bytes for name, form in manifest.forms.items() if form.path}
    return markdown(("forma", "tamanho"), [(name, megabytes(n)) for name, n in sizes.items()])
