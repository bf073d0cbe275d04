"""A ficha do modelo exportado, no formato do hub; o texto está em card.md, aqui só os números."""

from pathlib import Path

from comum.numbers import decimal, general, interval
from comum.paths import RESULTS_DIR
from comum.results import Evaluation, Variant
from comum.tables import markdown

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from loja_sql.config import Config
from loja_sql.model.exports import Manifest, megabytes
from loja_sql.model.summary import read_summary

TEMPLATE = Path(__file__).with_name("card.md")
DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
UNTRAINED_GROUPS = ("untrained", "examples")
SCORES_HEADER = ("variante", "perguntas", "acurácia de execução, % [IC 95%]")


def model_card(config: Config, adapter: Path, manifest: Manifest) -> str:
    """O texto da ficha; as notas vêm do resultado de evaluate.py deste treino, se houver."""
    training, default = read_summary(adapter), config.model.name == "default"
    results = RESULTS_DIR / f"mini_projeto_{adapter.name}_test.json"
    measured = Evaluation.load(results) if results.is_file() else None
    # Notas de outro treino na mesma pasta não são deste modelo.
    scores = measured.variants if measured and measured.training == training else {}
    trained = [_hub_result(*v) for v in scores.items() if v[1].group not in UNTRAINED_GROUPS]
    base = DEFAULT_BASE if default else config.model.name
    data = ModelCardData(
        language="pt",
        license="apache-2.0" if default else "other",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        tags=["text-to-sql", "sqlite", config.training.method, "portuguese"],
        model_name=adapter.name,
        eval_results=trained or None,
    )
    found = {name: variant.execution_accuracy for name, variant in scores.items()}
    rows = [(name, score.n, interval(score, 1, 100)) for name, score in found.items()]
    sizes = [(name, megabytes(form.bytes)) for name, form in manifest.forms.items() if form.path]
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        adapter=adapter.name,
        base=base,
        default=default,
        config=config,
        learning_rate=general(config.training.learning_rate),
        training=training,
        decimal=decimal,
        scores=markdown(SCORES_HEADER, rows) if rows else None,
        forms=markdown(("forma", "tamanho"), sizes),
        merge=manifest.merge,
    )
    return str(card)


def _hub_result(name: str, variant: Variant) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        task_name="Texto para SQL",
        dataset_type="loja-sql",
        dataset_name="Perguntas sobre a loja, teste em palavras livres",
        metric_type="execution_accuracy",
        metric_name=f"acurácia de execução ({name})",
        metric_value=round(100 * variant.execution_accuracy.value, 1),
    )
