"""A ficha do modelo treinado, no formato do hub; o texto está em card.md, aqui só os números."""

from pathlib import Path

from comum.numbers import decimal, general, interval, megabytes
from comum.paths import REFERENCE_DIR, RESULTS_DIR
from comum.results import Evaluation, TrainingSummary, Variant
from comum.tables import markdown

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from loja_sql.config import Config
from loja_sql.model.exports import Manifest
from loja_sql.model.run_folder import read_run
from loja_sql.model.summary import read_summary
from loja_sql.prompt import DECLINE
from loja_sql.questions.splits import NAMES

TEMPLATE = Path(__file__).with_name("card.md")
DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
SCORES_HEADER = (
    *("teste", "variante", "perguntas", "acurácia de execução, % [IC 95%]"),
    "recusa do que o banco não responde, %",
    "recusa do que ele responde, %",
)
TESTS = ("test", "test_typos", "test_2", "test_3")
SHOWN = ("untrained", "trained", "forms")  # os grupos de variantes que a ficha mostra


def model_card(config: Config, adapter: Path, manifest: Manifest, folder: Path) -> str:
    """O texto da ficha que vai em `folder`; as notas são as de evaluate.py neste treino, se há."""
    training, default = read_summary(adapter), config.model.name == "default"
    scores = _scores(adapter, training)
    base, run = base_name(config), read_run(adapter)
    data = ModelCardData(
        language="pt",
        license="apache-2.0" if default else "other",
        library_name="peft" if (folder / "adapter_config.json").is_file() else "transformers",
        pipeline_tag="text-generation",
        base_model=base,
        tags=["text-to-sql", "sqlite", config.training.method, "portuguese"],
        model_name=adapter.name,
        eval_results=[_hub_result(*v) for v in scores if v[2].group != "untrained"] or None,
    )
    rows = [_row(*found) for found in scores]
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
        identity=run.identity if run else {},
        decimal=decimal,
        decline=DECLINE,
        scores=markdown(SCORES_HEADER, rows) if rows else None,
        forms=markdown(("forma", "tamanho"), sizes) if sizes else None,
        merge=manifest.merge,
    )
    return str(card)


def base_name(config: Config) -> str:
    """O modelo base pelo nome no hub, onde ele tem um."""
    return DEFAULT_BASE if config.model.name == "default" else config.model.name


def _scores(adapter: Path, training: TrainingSummary | None) -> list[tuple[str, str, Variant]]:
    """Teste, variante e notas de cada medida deste treino, do usuário ou publicada."""
    found = []
    for split in TESTS:
        name = f"mini_projeto_{adapter.name}_{split}.json"
        path = next(filter(Path.is_file, (RESULTS_DIR / name, REFERENCE_DIR / name)), None)
        measured = Evaluation.load(path) if path else None
        # Notas de outro treino na mesma pasta não são deste modelo.
        if measured and measured.training == training:
            items = measured.variants.items()
            found += [(NAMES[split], *item) for item in items if item[1].group in SHOWN]
    return found


def _row(split: str, name: str, found: Variant) -> tuple[str, ...]:
    scores = (found.execution_accuracy, found.declined_right, found.declined_wrong)
    shown = (interval(score, 1, 100) for score in scores)
    return (split, name, str(found.execution_accuracy.n), *shown)


def _hub_result(split: str, name: str, variant: Variant) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        task_name="Texto para SQL",
        dataset_type="loja-sql",
        dataset_name="Perguntas sobre a loja",
        dataset_split=split,  # sem ele, o hub tomaria os testes por um só
        metric_type="execution_accuracy",
        metric_name=f"acurácia de execução ({name})",
        metric_value=round(100 * variant.execution_accuracy.value, 1),
    )
