"""A ficha do modelo exportado, no formato do hub: dados, treino, notas com intervalo, limites."""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from loja_sql.config import RESULTS_DIR, Config

DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_LICENSE = "apache-2.0"
METHODS = {"lora": "com um adaptador LoRA fundido", "full": "com todos os pesos treinados"}


def model_card(config: Config, adapter: Path, manifest: dict) -> str:
    """O texto da ficha; as notas vêm do resultado de evaluate.py deste adaptador, se houver."""
    summary = _read(RESULTS_DIR / f"mini_projeto_{adapter.name}_teste.json")
    training = _read(adapter / "treino.json")
    if summary and summary.get("treino") != training:
        summary = None  # notas de outro treino na mesma pasta
    return f"---\n{_front_matter(config, adapter, summary)}\n---\n" + "\n".join(
        [
            f"\n# {adapter.name}: perguntas em português → SQL\n",
            f"`{_base_name(config)}` {METHODS[config.training.method]}, ajustado para escrever uma "
            "consulta SQLite a partir de uma pergunta em português sobre o banco de uma loja.\n",
            "## Uso\n",
            "O prompt é o template de chat do modelo base, com a mensagem de sistema "
            f"`{config.prompt.system}`"
            + (" seguida do esquema do banco" if config.prompt.schema_in_prompt else "")
            + " e a pergunta como usuário; decodificação gulosa. Execute o SQL num banco aberto só "
            "para leitura: o modelo pode escrever qualquer coisa.\n",
            "## Dados e treino\n",
            _training(config, training),
            "## Notas\n",
            _scores(summary),
            "## Formas exportadas\n",
            _forms(manifest),
            "## Limites\n",
            "- Responde sempre com SQL, mesmo ao que não é pergunta ou não tem resposta no banco.\n"
            "- Conhece só o esquema e as convenções do banco em que foi treinado.\n"
            "- Nomes sem acento ou em maiúsculas saem às vezes inventados; períodos, trocados.\n"
            "- Um modelo deste tamanho erra: confira a consulta antes de decidir algo por ela.\n",
            "## Licença\n",
            _license(config),
        ]
    )


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _base_name(config: Config) -> str:
    return DEFAULT_BASE if config.model.name == "default" else config.model.name


def _front_matter(config: Config, adapter: Path, summary: dict | None) -> str:
    default = config.model.name == "default"
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Texto para SQL",
            dataset_type="loja-sql",
            dataset_name="Perguntas sobre a loja, teste em palavras livres",
            metric_type="execution_accuracy",
            metric_name=f"acurácia de execução ({name})",
            metric_value=round(100 * part["acuracia_execucao"]["valor"], 1),
        )
        for name, part in (summary or {"variantes": {}})["variantes"].items()
        if not name.startswith("base")
    ]
    data = ModelCardData(
        language="pt",
        license=DEFAULT_LICENSE if default else "other",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=_base_name(config),
        tags=["text-to-sql", "sqlite", config.training.method, "portuguese"],
        model_name=adapter.name,
        eval_results=results or None,
    )
    return data.to_yaml()


def _training(config: Config, training: dict | None) -> str:
    what = "Todos os pesos"
    if config.training.method == "lora":
        what = (
            f"LoRA de posto {config.lora.r} (alpha {config.lora.alpha:g}) em "
            f"`{config.lora.target_modules}`"
        )
    lines = [
        f"{what}, learning rate {config.training.learning_rate:g}, lotes "
        f"de {config.training.batch_size * config.training.gradient_accumulation_steps}, perda só "
        f"na resposta, semente {config.training.seed}."
    ]
    if training:
        minutes = f"{training['minutos']:.0f}".replace(".", ",")
        loss = f"{training['melhor_perda_de_validacao']:.3f}".replace(".", ",")
        lines.append(
            f"{training['exemplos']} exemplos, {training['passos']} passos, {minutes} minutos; "
            f"perda de validação {loss}."
        )
    lines.append(
        "As perguntas foram escritas para este projeto (com ajuda de modelos de linguagem) ou "
        "compostas por um gerador, e cada SQL foi conferido executando-o. Teste e validação foram "
        "escritos à parte, e nenhum molde deles está no treino.\n"
        if config.data.custom is None
        else "As perguntas e o banco são de quem treinou; cada SQL foi conferido executando-o.\n"
    )
    return " ".join(lines)


def _scores(summary: dict | None) -> str:
    if summary is None:
        return "Ainda não medidas: rode `python evaluate.py --forms todas` e exporte de novo.\n"
    lines = ["| variante | perguntas | acurácia de execução [IC 95%] |", "|---|---|---|"]
    for name, part in summary["variantes"].items():
        score = part["acuracia_execucao"]
        low, high = (100 * x for x in score["ic95"])
        text = f"{100 * score['valor']:.1f}% [{low:.1f}; {high:.1f}]".replace(".", ",")
        lines.append(f"| {name} | {score['total']} | {text} |")
    return "\n".join(lines) + "\n"


def _forms(manifest: dict) -> str:
    lines = ["| forma | tamanho |", "|---|---|"]
    for name, form in manifest["formas"].items():
        if "caminho" in form:
            lines.append(f"| {name} | {form['bytes'] / 1e6:.0f} MB |")
    merge = manifest["fusao"]
    if merge:
        worst = f"{merge['maior_diferenca']:.1e}".replace(".", ",")
        lines.append(f"\nA fusão, em float32, muda os logits no máximo {worst}.")
    return "\n".join(lines) + "\n"


def _license(config: Config) -> str:
    if config.model.name == "default":
        return (
            "Apache 2.0, a do modelo base (Allal et al., 2025, arXiv:2502.02737). Os pesos de que "
            "se partiu passaram por 4 bits (Q4_1) antes do ajuste.\n"
        )
    return f"A do modelo base, `{config.model.name}`: confira-a antes de publicar.\n"
