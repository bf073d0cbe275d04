"""A configuração do mini-projeto: base.yaml + um arquivo de ajustes + `chave=valor`.

Tudo é conferido de uma vez, antes de carregar qualquer modelo: chaves desconhecidas (com "você
quis dizer …?"), tipos errados e valores impossíveis saem juntos, numa mensagem só.
"""

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import Literal

from comum.terminal import Parser, UserError, run_main

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROJECT_DIR = Path(__file__).resolve().parents[1]
WEEK_DIR = PROJECT_DIR.parents[1]
RESULTS_DIR = WEEK_DIR / "resultados"
BASE_CONFIG = PROJECT_DIR / "configs" / "base.yaml"
DEFAULT_MODEL = WEEK_DIR / "modelos" / "smollm2-135m-instruct"
EFFECTIVE_NAME = "config_efetiva.yaml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Model(_Section):
    """O modelo base: pasta ou nome no hub; `default` é o preparado por preparar_modelo.py."""

    name: str = Field(min_length=1)
    load_in_4bit: bool


class Prompt(_Section):
    """A mensagem de sistema; `schema_in_prompt` acrescenta o esquema do banco a ela."""

    system: str = Field(min_length=1)
    schema_in_prompt: bool


class DatabaseConfig(_Section):
    """`custom` é o SQLite do usuário; sem ele, a loja é gerada, uma vez por semente."""

    seeds: list[int] = Field(min_length=1)
    custom: str | None
    time_limit_s: float = Field(gt=0)


class Data(_Section):
    """`custom` é o CSV ou JSONL do usuário (`question`, `sql`); sem ele, os dados da loja.

    `feedback` é o JSONL das opiniões dadas na página (app.py), que se somam ao treino.
    """

    output_dir: str
    custom: str | None
    seed: int
    generated: int = Field(ge=0)
    generated_in_training: int = Field(ge=0)
    variations: int = Field(ge=0)
    curated_in_training: int | None = Field(ge=1)
    validation_size: int = Field(ge=1)
    feedback: str | None = None


class Lora(_Section):
    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: str | list[str]


class Training(_Section):
    """`method` tem padrão aqui para que um adaptador treinado antes dela ainda abra."""

    method: Literal["lora", "full"] = "lora"
    output_dir: str
    epochs: float = Field(gt=0)
    max_steps: int | None = Field(ge=1)
    learning_rate: float = Field(gt=0, lt=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    warmup_ratio: float = Field(ge=0, lt=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"]
    max_length: int = Field(ge=16)
    eval_steps: int = Field(ge=1)
    early_stopping_patience: int = Field(ge=1)
    precision: Literal["auto", "fp32", "bf16"]
    group_by_length: bool
    gradient_checkpointing: bool
    fused_layers: bool
    seed: int
    tracking: Literal["none", "wandb", "tensorboard"]


class Generation(_Section):
    """`engine` tem padrão aqui para que um adaptador treinado antes dela ainda abra."""

    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    engine: Literal["auto", "transformers", "llamacpp"] = "auto"


class Evaluation(_Section):
    """`limit` usa só uma parte do teste, espaçada; null usa todo. `timed`: as cronometradas."""

    limit: int | None = Field(ge=1)
    base_max_new_tokens: int = Field(ge=1)
    timed: int = Field(ge=1, default=20)


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
    def _custom_needs_both(self) -> "Config":
        if (self.database.custom is None) != (self.data.custom is None):
            raise ValueError(
                "database.custom e data.custom andam juntos: as perguntas precisam do banco delas"
            )
        return self

    @model_validator(mode="after")
    def _full_needs_full_precision(self) -> "Config":
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


def argument_parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Um ArgumentParser cujos erros e cuja ajuda saem em português."""
    return Parser(description, epilog)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Acrescenta `--config` e os pares `chave=valor`, iguais em todos os scripts."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="ajustes sobre configs/base.yaml, por exemplo configs/rapido.yaml",
    )
    parser.add_argument(
        "--model",
        metavar="PASTA_OU_NOME",
        help="modelo base: pasta local ou nome no hub (o mesmo que model.name=…)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="chave=valor",
        help="ajustes avulsos, por exemplo training.learning_rate=5.0e-4",
    )


def config_from_args(args: argparse.Namespace) -> Config:
    """Carrega a configuração a partir dos argumentos de `add_config_arguments`."""
    overrides = list(args.overrides)
    if args.model:
        overrides.append(f"model.name={args.model}")
    return load_config(args.config, overrides)


def load_config(override_file: Path | None = None, overrides: list[str] | None = None) -> Config:
    """Junta base.yaml, o arquivo de ajustes e os pares, e valida o resultado.

    Raises:
        UserError: com todos os problemas encontrados, um por linha.
    """
    values = _read_yaml(BASE_CONFIG)
    problems: list[str] = []
    if override_file is not None:
        path = override_file if override_file.is_file() else PROJECT_DIR / override_file
        _merge(values, _read_yaml(path), str(override_file), problems)
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator:
            problems.append(f"`{item}`: esperava chave=valor, por exemplo training.seed=1")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(f"`{item}`: o valor não é YAML válido")
            continue
        nested: object = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested, "linha de comando", problems)
    try:
        config = Config.model_validate(_ints_as_floats(values))
    except ValidationError as error:
        problems += [_explain(item) for item in error.errors()]
    if problems:
        raise UserError("configuração inválida:\n  - " + "\n  - ".join(problems))
    return config


def shipped_configs() -> list[Path]:
    """Os arquivos de ajustes de configs/, sem os que são do accelerate."""
    found = sorted(BASE_CONFIG.parent.glob("*.yaml"))
    return [path for path in found if not path.name.startswith("accelerate")]


def load_effective(folder: Path) -> Config:
    """Lê a configuração gravada ao lado de um adaptador por `save_effective`."""
    path = folder / EFFECTIVE_NAME
    if not path.is_file():
        raise UserError(f"{folder} não tem {EFFECTIVE_NAME}: não é uma saída de train.py.")
    try:
        return Config.model_validate(_ints_as_floats(_read_yaml(path)))
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        raise UserError(
            f"{path} não serve (editado à mão ou de outra versão?):\n  - " + "\n  - ".join(problems)
        ) from error


def trained_kind(folder: Path) -> Literal["lora", "full"] | None:
    """O que train.py deixou em `folder`: um adaptador, um modelo inteiro ou nada."""
    if (folder / "adapter_config.json").is_file():
        return "lora"
    return "full" if (folder / "config.json").is_file() else None


def as_trained(config: Config, folder: Path) -> Config:
    """Uma cópia de `config` com o prompt e a base do treino, mesmo que ela diga outra coisa."""
    trained, copied = load_effective(folder), config.model_copy(deep=True)
    copied.prompt, copied.model = trained.prompt, trained.model
    return copied


def save_effective(config: Config, folder: Path) -> None:
    """Grava a configuração completa ao lado do que ela produziu."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(), allow_unicode=True, sort_keys=False)
    write_atomic(folder / EFFECTIVE_NAME, text)


def write_atomic(path: Path, text: str) -> None:
    """Grava um texto sem nunca deixar um arquivo pela metade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        available = ", ".join(path.name for path in shipped_configs())
        raise UserError(f"configuração não encontrada: {path}. Em configs/ há: {available}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} não é um YAML válido: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} tem de ser um mapa de seções (model:, data:, …).")
    return values


def _merge(base: dict, extra: object, origin: str, problems: list[str], prefix: str = "") -> None:
    """Sobrepõe `extra` a `base`; o que não existe em base.yaml vira um problema."""
    if not isinstance(extra, dict):
        problems.append(f"`{prefix.rstrip('.')}` ({origin}): esperava uma seção com chaves")
        return
    for key, value in extra.items():
        name = f"{prefix}{key}"
        if key not in base:
            close = difflib.get_close_matches(str(key).lower(), list(base), n=1)
            hint = f"; você quis dizer `{prefix}{close[0]}`?" if close else ""
            problems.append(f"`{name}` ({origin}): chave desconhecida{hint}")
        elif isinstance(base[key], dict):
            _merge(base[key], value, origin, problems, f"{name}.")
        else:
            base[key] = value


def _ints_as_floats(values: dict) -> dict:
    """YAML lê `alpha: 64` como inteiro; onde se espera um número real, isso basta."""
    for name, field in Config.model_fields.items():
        section = values.get(name)
        if not isinstance(section, dict):
            continue
        for key, info in field.annotation.model_fields.items():
            if info.annotation is float and type(section.get(key)) is int:
                section[key] = float(section[key])
    return values


_MESSAGES = {
    "int_type": "esperava um número inteiro",
    "float_type": "esperava um número (escreva 2.0e-4; o YAML lê 2e-4 como texto)",
    "bool_type": "esperava true ou false",
    "string_type": "esperava um texto",
    "list_type": "esperava uma lista",
    "missing": "falta esta chave",
    "extra_forbidden": "chave desconhecida",
    "model_type": "esperava uma seção com chaves",
    "string_too_short": "não pode ser vazio",
    "too_short": "a lista não pode ser vazia",
}
_LIMITS = {"ge": "no mínimo", "gt": "maior que", "le": "no máximo", "lt": "menor que"}


def _explain(item: dict) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "configuração"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "literal_error":
        expected = item["ctx"]["expected"].replace(" or ", " ou ")
        return f"`{name}`: {item['input']!r} não serve; use {expected}"
    for key, words in _LIMITS.items():
        if key in item.get("ctx", {}):
            return f"`{name}`: {item['input']!r} não serve; tem de ser {words} {item['ctx'][key]}"
    message = _MESSAGES.get(item["type"], item["msg"])
    return f"`{name}`: {message}; recebi {item['input']!r}"
