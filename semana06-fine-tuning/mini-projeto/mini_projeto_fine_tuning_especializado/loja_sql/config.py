"""A configuração do mini-projeto: base.yaml + um arquivo de ajustes + `chave=valor`.

Tudo é conferido antes de carregar qualquer modelo, e todos os problemas saem numa mensagem só.
"""

import argparse
import difflib
import reprlib
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

from comum.files import write_text
from comum.paths import DEFAULT_MODEL
from comum.terminal import UserError
from comum.yaml import parse_yaml, read_yaml

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

PROJECT_DIR = Path(__file__).resolve().parents[1]
BASE_CONFIG = PROJECT_DIR / "configs" / "base.yaml"
# As divisões das perguntas da loja; as das próprias são só train, validation e test.
SPLITS = (
    *("train", "validation", "generated_validation"),
    *("test", "test_typos", "test_2", "test_3", "generated_test"),
)
EFFECTIVE_NAME = "effective_config.yaml"
SHIPPED = PROJECT_DIR / "models" / "pronto"  # o treino que vem com o repositório
# O modelo sem treino conhece o inglês melhor, e precisa que lhe digam o que se espera dele.
UNTRAINED_SYSTEM = (
    "You translate questions in Portuguese into one SQLite query. Answer with the SQL query only, "
    "no explanation."
)


# Um nome ou caminho: o sistema não aceita um com o caractere nulo.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\x00]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Model(_Section):
    """O modelo base: pasta ou nome no hub; `default` é o preparado por preparar_modelo.py.

    `merged_tokens` são os pedaços de SQL que o treino faz virar um token (0: nenhum).
    """

    name: Text
    load_in_4bit: bool
    merged_tokens: int = Field(ge=0, le=1024)


class Prompt(_Section):
    """A mensagem de sistema; `schema_in_prompt` acrescenta o esquema do banco a ela.

    `template` é o do modelo base, ou `plain`: uma linha por mensagem, sem as marcas de quem fala.

    `value_hints` põe na pergunta os valores do banco que ela nomeia, menos os das colunas em
    `hint_exclude` (tabela.coluna).
    """

    system: Text
    template: Literal["model", "plain"]
    schema_in_prompt: bool
    value_hints: bool
    hint_exclude: list[Text]


class DatabaseConfig(_Section):
    """`custom` é o SQLite do usuário; sem ele, a loja é gerada, uma vez por semente."""

    seeds: list[Seed] = Field(min_length=1)
    custom: Text | None
    time_limit_s: float = Field(gt=0)


class Data(_Section):
    """`custom` é o CSV ou JSONL do usuário (`question`, `sql`); sem ele, os dados da loja.

    `feedback` é o JSONL das opiniões dadas na página (app.py), que se somam ao treino.
    """

    output_dir: Text
    custom: Text | None
    seed: Seed
    generated: int = Field(ge=0)
    generated_in_training: int = Field(ge=0)
    variations: int = Field(ge=0)
    recombined: int = Field(ge=0)
    curated: int | None = Field(default=None, ge=1)  # treinos antigos não a dizem
    curated_in_training: int | None = Field(ge=1)
    unanswerable_in_training: int | None = Field(ge=0)
    unanswerable_repeats: int = Field(ge=1)
    validation_size: int = Field(ge=1)
    feedback: Text | None


class Lora(_Section):
    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: Text | Annotated[list[Text], Field(min_length=1)]


class Training(_Section):
    method: Literal["lora", "full"]
    output_dir: Text
    epochs: float = Field(gt=0, le=1000)
    max_steps: int | None = Field(ge=1)
    learning_rate: float = Field(gt=0, lt=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    warmup_ratio: float = Field(ge=0, lt=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"]
    max_length: int = Field(ge=16)
    eval_steps: int = Field(ge=1)
    early_stopping_patience: int | None = Field(ge=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    group_by_length: bool
    gradient_checkpointing: bool
    fused_layers: bool
    seed: Seed
    tracking: Literal["none", "wandb", "tensorboard", "trackio"]


class Generation(_Section):
    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    engine: Literal["auto", "transformers", "llamacpp"]


class Evaluation(_Section):
    """`limit` usa só uma parte do teste, espaçada; null usa todo. `timed`: as cronometradas."""

    limit: int | None = Field(ge=1)
    base_max_new_tokens: int = Field(ge=1)
    timed: int = Field(ge=1)


class Config(_Section):
    model: Model
    prompt: Prompt
    database: DatabaseConfig
    data: Data
    lora: Lora
    training: Training
    generation: Generation
    evaluation: Evaluation

    @model_validator(mode="after")
    def _sections_agree(self) -> "Config":
        if (self.database.custom is None) != (self.data.custom is None):
            raise ValueError(
                "database.custom e data.custom andam juntos: as perguntas precisam do banco delas"
            )
        if self.training.method == "full" and self.model.load_in_4bit:
            raise ValueError(
                "training.method=full treina todos os pesos, e os de 4 bits não treinam: use "
                "model.load_in_4bit=false, ou training.method=lora"
            )
        return self

    @property
    def data_dir(self) -> Path:
        return resolve(self.data.output_dir)

    @property
    def output_dir(self) -> Path:
        return resolve(self.training.output_dir)

    @property
    def model_path(self) -> str:
        """Pasta local (absoluta) ou nome no hub."""
        if self.model.name == "default":
            return str(DEFAULT_MODEL)
        folder = resolve(self.model.name)
        return str(folder) if folder.is_dir() else self.model.name

    @property
    def databases(self) -> list[Path]:
        """Os bancos onde se executa; o primeiro é o que responde perguntas."""
        if self.database.custom is not None:
            return [resolve(self.database.custom)]
        return [self.data_dir / f"loja_{seed}.sqlite" for seed in self.database.seeds]


def resolve(path: str) -> Path:
    """Caminhos relativos valem a partir da pasta atual, se existirem lá; senão, do mini-projeto."""
    given = Path(path).expanduser()
    return given.resolve() if given.is_absolute() or given.exists() else PROJECT_DIR / given


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Acrescenta `--config`, `--model` e os pares `chave=valor`, iguais em todos os scripts."""
    add = parser.add_argument
    add("--config", type=Path, metavar="YAML", help="ajustes, por exemplo configs/rapido.yaml")
    add("--model", metavar="PASTA_OU_NOME", help="modelo base: pasta ou nome no hub (model.name)")
    add("overrides", nargs="*", metavar="chave=valor", help="por exemplo training.epochs=2")


def config_from_args(args: argparse.Namespace) -> Config:
    """Carrega a configuração a partir dos argumentos de `add_config_arguments`."""
    model = [f"model.name={args.model}"] if args.model else []
    return load_config(args.config, args.overrides + model)


def load_config(override_file: Path | None = None, overrides: list[str] | None = None) -> Config:
    """Junta base.yaml, o arquivo de ajustes e os pares, e valida o resultado.

    Raises:
        UserError: com todos os problemas encontrados, um por linha.
    """
    values = read_yaml(BASE_CONFIG)
    problems: list[str] = []
    if override_file is not None:
        path = override_file if override_file.is_file() else PROJECT_DIR / override_file
        if not path.is_file():
            available = ", ".join(path.name for path in shipped_configs())
            raise UserError(f"configuração não encontrada: {path}. Em configs/ há: {available}.")
        _merge(values, read_yaml(path))
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator:
            problems.append(f"`{item}`: esperava chave=valor, por exemplo training.seed=1")
            continue
        try:
            nested = _typed(key, text)
        except UserError as error:
            problems.append(f"`{item}`: o valor não é YAML válido: {error}")
            continue
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested)
    origin = f" (com {override_file})" if override_file else ""
    return _validated(values, f"configuração inválida{origin}", problems)


def shipped_configs() -> list[Path]:
    """Os arquivos de ajustes de configs/, sem os que são do accelerate."""
    found = sorted(BASE_CONFIG.parent.glob("*.yaml"))
    return [path for path in found if not path.name.startswith("accelerate")]


def save_effective(config: Config, folder: Path) -> None:
    """Grava a configuração completa ao lado do que ela produziu."""
    text = yaml.safe_dump(config.model_dump(), allow_unicode=True, sort_keys=False)
    write_text(folder / EFFECTIVE_NAME, text)


def load_effective(folder: Path) -> Config:
    """Lê a configuração gravada ao lado de um adaptador por `save_effective`."""
    path = folder / EFFECTIVE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} não tem {EFFECTIVE_NAME}: não é uma saída de train.py. Confira a pasta, ou "
            "treine antes: python train.py"
        )
    return _validated(read_yaml(path), f"{path} não serve (editado, ou de outra versão?)")


def trained_kind(folder: Path) -> Literal["lora", "full"] | None:
    """O que train.py deixou em `folder`: um adaptador, um modelo inteiro ou nada."""
    if (folder / "adapter_config.json").is_file():
        return "lora"
    return "full" if (folder / "config.json").is_file() else None


def with_trained(config: Config) -> Config:
    """A configuração cujo `output_dir` tem um treino: o do usuário ou o que vem com o repositório.

    O segundo, só para a loja e o modelo padrão, e dito em stderr; sem nenhum, volta `config`.

    Raises:
        UserError: o treino é de outro modelo base.
    """
    if trained_kind(config.output_dir):
        check_base(config, config.output_dir)
        return config
    shop = config.database.custom is None and config.model.name == "default"
    if not shop or trained_kind(SHIPPED) is None:
        return config
    print(f"Sem treino seu em {config.output_dir}: vai o que já vem, {SHIPPED}", file=sys.stderr)
    copied = config.model_copy(deep=True)
    copied.training.output_dir = str(SHIPPED)
    return copied


def check_base(config: Config, folder: Path) -> None:
    """UserError se a configuração pede um modelo base e o treino em `folder` é de outro."""
    trained = load_effective(folder)
    if config.model.name != "default" and config.model_path != trained.model_path:
        raise UserError(
            f"o treino em {folder} é do modelo {trained.model.name}, e não de {config.model.name}. "
            "Indique o treino dele com training.output_dir=PASTA, ou tire --model."
        )


def as_trained(config: Config, folder: Path) -> Config:
    """Uma cópia de `config` com o prompt e a base do treino, mesmo que ela diga outra coisa."""
    trained, copied = load_effective(folder), config.model_copy(deep=True)
    copied.prompt, copied.model = trained.prompt, trained.model
    return copied


def untrained(config: Config) -> Config:
    """Uma cópia de `config` para o modelo sem treino: instruções, esquema e o limite de tokens."""
    copied = config.model_copy(deep=True)
    copied.prompt = Prompt(
        system=UNTRAINED_SYSTEM,
        template="model",
        schema_in_prompt=True,
        value_hints=False,
        hint_exclude=[],
    )
    copied.generation.max_new_tokens = config.evaluation.base_max_new_tokens
    return copied


def _typed(key: str, text: str) -> object:
    """O valor de um par. Num campo de texto é o que se digitou, com `#` e datas."""
    section, _, name = key.partition(".")
    part = Config.model_fields.get(section)
    field = part and part.annotation.model_fields.get(name)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    quoted = text == "null" or text.startswith(("'", '"', "["))
    as_typed = (str in kinds or Text in kinds) and not quoted
    return text if as_typed else parse_yaml(text)


def _merge(base: dict, extra: dict) -> None:
    """Sobrepõe `extra` a `base`, seção a seção."""
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _validated(values: dict, title: str, problems: list[str] = ()) -> Config:
    problems = list(problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += dict.fromkeys(map(_explain, error.errors()))
    if problems:
        raise UserError("\n  - ".join([f"{title}:", *problems]))
    return config


MESSAGES = {
    "int_type": "esperava um número inteiro",
    "float_type": "esperava um número",
    "finite_number": "esperava um número finito",
    "bool_type": "esperava true ou false",
    "string_type": "esperava um texto",
    "list_type": "esperava uma lista",
    "invalid_key": "o nome de uma chave tem de ser um texto",
    "missing": "falta esta chave",
    "model_type": "esperava uma seção com chaves",
    "string_too_short": "não pode ser vazio",
    "string_pattern_mismatch": "tem um caractere nulo",
    "string_unicode": "tem um caractere inválido",
    "too_short": "a lista não pode ser vazia",
    "greater_than": "tem de ser maior que {gt}",
    "greater_than_equal": "tem de ser no mínimo {ge}",
    "less_than": "tem de ser menor que {lt}",
    "less_than_equal": "tem de ser no máximo {le}",
    "literal_error": "tem de ser {expected}",
}


def _explain(item: dict) -> str:
    context, place = item.get("ctx", {}), [str(part) for part in item["loc"]]
    if item["type"] == "value_error":
        return str(context["error"])
    if item["type"] == "extra_forbidden":
        return _unknown(*place)
    # Num campo de vários tipos, o terceiro nome é o de um deles, e não o que se escreveu.
    name = ".".join(place[:2]) or "configuração"
    message = MESSAGES.get(item["type"], item["msg"]).format(**context).replace(" or ", " ou ")
    return f"`{name}`: {message}; recebi {reprlib.repr(item['input'])}"


def _unknown(*place: str) -> str:
    """Uma chave que não existe, com a mais parecida das que há ao lado dela."""
    section = Config.model_fields[place[0]].annotation if len(place) > 1 else Config
    key, names = place[-1].lower(), section.model_fields
    initials = [name for name in names if "".join(word[0] for word in name.split("_")) == key]
    close = difflib.get_close_matches(key, names, n=1) or initials[:1]
    hint = f"; você quis dizer `{'.'.join([*place[:-1], *close])}`?" if close else ""
    return f"`{'.'.join(place)}`: chave desconhecida{hint}"
