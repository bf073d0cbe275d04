"""config.py: todos os erros de uma vez, com sugestão; e a configuração efetiva relida igual."""

import argparse
from pathlib import Path

from comum.terminal import Parser, UserError, run_main

import pytest
import yaml

from loja_sql.config import (
    BASE_CONFIG,
    EFFECTIVE_NAME,
    PROJECT_DIR,
    Config,
    add_config_arguments,
    config_from_args,
    load_config,
    load_effective,
    resolve,
    save_effective,
    shipped_configs,
    untrained,
    with_trained,
)

CONFIGS = shipped_configs()


def error_of(override_file=None, *overrides):
    with pytest.raises(UserError) as caught:
        load_config(override_file, list(overrides))
    return str(caught.value)


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "ajustes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_configs_folder_has_more_than_the_base():
    """Há o que testar em configs/: base.yaml e pelo menos um ajuste."""
    assert BASE_CONFIG in CONFIGS
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path):
    """Todo arquivo de configs/ carrega sozinho sobre base.yaml."""
    config = load_config(None if path == BASE_CONFIG else path)
    assert isinstance(config, Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_reads_at_least_the_questions_it_trains_on(path):
    data = load_config(None if path == BASE_CONFIG else path).data
    assert data.curated is None or data.curated >= (data.curated_in_training or 10**6)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p != BASE_CONFIG], ids=lambda p: p.name)
def test_every_shipped_override_changes_something(path):
    """Um ajuste que não muda nada é um arquivo à toa."""
    assert load_config(path) != load_config()


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("training.learning_rat=0.1", "`training.learning_rate`"),
        ("training.batchsize=4", "`training.batch_size`"),
        ("lora.R=4", "`lora.r`"),
        ("lora.aplha=4", "`lora.alpha`"),
        ("trainning.seed=1", "`training`"),
        ("data.sed=1", "`data.seed`"),
        ("training.lr=1", "`training.learning_rate`"),
    ],
)
def test_unknown_key_comes_with_a_suggestion(override, suggestion):
    """Uma chave digitada errada sai com a mais parecida."""
    message = error_of(None, override)
    assert "chave desconhecida" in message
    assert f"você quis dizer {suggestion}?" in message


def test_unknown_key_without_a_neighbour_has_no_suggestion():
    """Sem chave parecida, não se inventa sugestão."""
    message = error_of(None, "zzzzz=1")
    assert "`zzzzz`: chave desconhecida" in message
    assert "quis dizer" not in message


def test_all_problems_come_in_one_message(tmp_path):
    """Chave errada, tipo errado, valor impossível e par malfeito saem juntos, um por linha."""
    path = yaml_file(tmp_path, "training: {epoch: 3, batch_size: dois}\nlora: {r: 0}\n")
    message = error_of(path, "training.precision=fp8", "semigual", "generation.max_new_tokens=-1")
    lines = message.splitlines()
    assert lines[0] == f"configuração inválida (com {path}):"
    assert len(lines) == 7
    expected = [
        "training.epoch`",
        "training.batch_size`",
        "lora.r`",
        "training.precision`",
        "`semigual`",
        "generation.max_new_tokens`",
    ]
    for part in expected:
        assert sum(part in line for line in lines[1:]) == 1, (part, message)
    assert "'bf16' ou 'fp16'" in message


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.0e-4", "0.0002", "+2e-4", "20e-5"])
def test_a_number_is_read_however_it_is_written(tmp_path, text):
    """O YAML 1.1 leria 2e-4 como texto; aqui, é um número na linha de comando e no arquivo."""
    path = yaml_file(tmp_path, f"training: {{learning_rate: {text}}}\n")
    assert load_config(path).training.learning_rate == 2e-4
    assert load_config(None, [f"training.learning_rate={text}"]).training.learning_rate == 2e-4


@pytest.mark.parametrize(
    "text",
    [
        "training: {seed: 1}\ntraining: {seed: 2}\n",
        "training:\n  seed: 1\n  epochs: 1.0\n  seed: 2\n",
    ],
)
def test_a_repeated_key_is_refused(tmp_path, text):
    """O PyYAML ficaria com a última, em silêncio."""
    message = error_of(yaml_file(tmp_path, text))
    assert "aparece mais de uma vez" in message
    assert "ajustes.yaml" in message and "linha" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batch_size=0", "no mínimo 1"),
        ("training.epochs=0", "maior que 0"),
        ("training.epochs=-1", "maior que 0"),
        ("training.learning_rate=1", "menor que 1"),
        ("training.learning_rate=0", "maior que 0"),
        ("training.warmup_ratio=1.0", "menor que 1"),
        ("training.max_length=4", "no mínimo 16"),
        ("training.max_steps=0", "no mínimo 1"),
        ("lora.dropout=1.0", "menor que 1"),
        ("lora.r=-8", "no mínimo 1"),
        ("database.time_limit_s=0", "maior que 0"),
        ("database.seeds=[]", "a lista não pode ser vazia"),
        ("model.name=''", "não pode ser vazio"),
        ("training.batch_size=2.5", "número inteiro"),
        ("training.batch_size=true", "número inteiro"),
        ("training.batch_size=null", "número inteiro"),
        ("training.group_by_length=1", "true ou false"),
        ("training.group_by_length='sim'", "true ou false"),
        ("lora.alpha=muito", "esperava um número"),
        ("prompt.system=[3]", "esperava um texto"),
        ("prompt.system=null", "esperava um texto"),
        ("training.output_dir=", "não pode ser vazio"),
        ("data.output_dir='  '", "não pode ser vazio"),
        ("data.feedback=''", "não pode ser vazio"),
        ("training.seed=-1", "no mínimo 0"),
        ("data.seed=4294967296", "menor que 4294967296"),
        ("database.seeds=[-1]", "no mínimo 0"),
        ("training.seed=2024-01-01", "número inteiro"),
        ("training.epochs=1:30", "esperava um número"),
        ("training.batch_size=010", "número inteiro"),
        ("training.group_by_length=no", "true ou false"),
        ("lora.target_modules=[]", "a lista não pode ser vazia"),
        ("lora={[a]: 1}", "linha 1, coluna 2: falta um nome"),
        ("database.seeds=11", "uma lista"),
        ("database.seeds=[11, onze]", "número inteiro"),
        ("training.lr_scheduler_type=cossine", "'cosine'"),
        ("training.epochs=.inf", "número finito"),
        ("training.epochs=.nan", "número finito"),
        ("training.learning_rate=1e999", "número finito"),
        ("database.time_limit_s=-.inf", "número finito"),
        ("training.tracking=mlflow", "'trackio'"),
        ("training.learning_rate=2e-4x", "esperava um número"),
        ("training=3", "esperava uma seção"),
        ("training.seed=[1", "não é YAML válido"),
        ("training.seed", "esperava chave=valor"),
    ],
)
def test_impossible_values_are_refused_in_portuguese(override, words):
    """Limites, tipos e listas: cada recusa nomeia a chave e diz o que se esperava."""
    message = error_of(None, override)
    assert words in message
    assert override.split("=")[0].split("[")[0] in message


@pytest.mark.parametrize(
    "text", ["/tmp/x #1/lora", "2024-01-01", "1e-3", "no", "models/a: b", r"C:\modelos", "*x"]
)
def test_a_text_is_what_was_typed(text):
    """Na linha de comando, o YAML leria nestes um comentário, uma data, um número ou um mapa."""
    assert load_config(None, [f"training.output_dir={text}"]).training.output_dir == text


def test_a_date_in_a_file_is_a_text_too(tmp_path):
    config = load_config(yaml_file(tmp_path, "training: {output_dir: 2024-01-01}\n"))
    assert config.training.output_dir == "2024-01-01"


def test_overrides_win_over_the_file_and_the_file_over_the_base(tmp_path):
    """A ordem: base.yaml, depois o arquivo, depois chave=valor; o que não se cita fica."""
    path = yaml_file(tmp_path, "training: {seed: 1, batch_size: 3}\n")
    config = load_config(path, ["training.seed=2", "training.seed=7", "lora.alpha=64"])
    assert (config.training.seed, config.training.batch_size) == (7, 3)
    assert config.lora.alpha == 64.0
    assert isinstance(config.lora.alpha, float), "um inteiro serve onde se espera um real"
    assert config.training.epochs == load_config().training.epochs


def test_value_may_hold_an_equals_sign():
    """Só o primeiro `=` separa a chave do valor."""
    config = load_config(None, ["prompt.system=Responda a=b", "data.output_dir=x=y"])
    assert (config.prompt.system, config.data.output_dir) == ("Responda a=b", "x=y")


def test_empty_override_file_changes_nothing(tmp_path):
    """Um arquivo só de comentários vale como nenhum."""
    assert load_config(yaml_file(tmp_path, "# nada\n")) == load_config()


def test_missing_file_lists_what_exists(tmp_path):
    """Arquivo ausente: a mensagem diz qual e o que há em configs/."""
    message = error_of(tmp_path / "rapdo.yaml")
    assert "não encontrada" in message
    assert "rapdo.yaml" in message
    assert "base.yaml" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"training: [1, 2", "não é um YAML válido"),
        (b"training:\n\tseed: 1\n", "não é um YAML válido"),
        (b"a: b: c\n", "não é um YAML válido"),
        (b"training:\n  seed: 1\n seed: 2\n", "linha 3, coluna 2: não entendi `seed: 2`"),
        (b"? [a]\n: 1\n", "falta um nome"),
        (b"training: !!python/object:os.system x\n", "linha 1, coluna 11: não entendi"),
        (b"a: " + b"[" * 5000, "não é um YAML válido"),
        (b"a: \x01", "não é um YAML válido"),
        (b"\xff\xfe\x00t", "não está em UTF-8"),
        ("prompt: {system: ação}".encode("latin-1"), "não está em UTF-8, a partir do byte 18"),
        (b"- training\n- lora\n", "tem de ser um mapa"),
        (b"training", "tem de ser um mapa"),
        (b"training: 3\n", "esperava uma seção"),
        (b"training:\n", "esperava uma seção"),
    ],
)
def test_broken_files_are_a_user_error(tmp_path, content, words):
    """YAML inválido, em outra codificação ou sem seções: uma frase com o nome do arquivo."""
    path = tmp_path / "quebrado.yaml"
    path.write_bytes(content)
    message = error_of(path)
    assert words in message
    assert "quebrado.yaml" in message


def test_relative_config_is_also_searched_in_the_project(tmp_path, monkeypatch):
    """`configs/x.yaml` funciona de qualquer pasta."""
    monkeypatch.chdir(tmp_path)
    name = next(p.name for p in CONFIGS if p != BASE_CONFIG)
    assert load_config(Path("configs") / name) == load_config(BASE_CONFIG.parent / name)


@pytest.mark.parametrize("override", ["database.custom=meu.sqlite", "data.custom=meu.csv"])
def test_custom_database_and_questions_go_together(override):
    """Um sem o outro é erro; a mensagem cita os dois."""
    message = error_of(None, override)
    assert "database.custom e data.custom andam juntos" in message


def test_custom_database_replaces_the_shops(tmp_path):
    """Com os dois, o banco é só o do usuário; sem eles, uma loja por semente."""
    custom = tmp_path / "meu.sqlite"
    config = load_config(None, [f"database.custom={custom}", "data.custom=meu.csv"])
    assert config.databases == [custom]
    shops = load_config(None, [f"data.output_dir={tmp_path}", "database.seeds=[4, 5]"]).databases
    assert shops == [tmp_path / "loja_4.sqlite", tmp_path / "loja_5.sqlite"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["training.learning_rate=2.0e-4", "training.max_steps=10", "lora.target_modules=[q_proj]"],
        ["database.custom=a.sqlite", "data.custom='ação: é.csv'", "lora.alpha=8"],
        ["prompt.system=\"Só SQL: 'aspas', \\n quebra e #cerquilha\"", "evaluation.limit=3"],
    ],
)
def test_effective_config_is_written_and_read_back_equal(tmp_path, overrides):
    """O que se grava ao lado do adaptador volta idêntico, e nada mais fica na pasta."""
    config = load_config(None, overrides)
    folder = tmp_path / "nova" / "pasta"
    save_effective(config, folder)
    assert load_effective(folder) == config
    assert [p.name for p in folder.iterdir()] == [EFFECTIVE_NAME]
    assert set(yaml.safe_load((folder / EFFECTIVE_NAME).read_text("utf-8"))) == set(
        Config.model_fields
    )


def test_effective_config_missing_is_explained(tmp_path):
    """Uma pasta que não é saída de train.py é um erro do usuário."""
    with pytest.raises(UserError, match="não tem effective_config.yaml"):
        load_effective(tmp_path)


@pytest.mark.parametrize(
    "text", ["training: {epochs: 1}\n", "modelo: x\n", "model: 3\n", "- 1\n", "a: ["]
)
def test_damaged_effective_config_is_a_user_error(tmp_path, text):
    """Uma configuração efetiva estragada, ou de outra versão, vira uma frase, não um traceback."""
    (tmp_path / EFFECTIVE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=EFFECTIVE_NAME) as caught:
        load_effective(tmp_path)
    assert "input_value" not in str(caught.value)
    assert not any(english in str(caught.value) for english in ("required", "Input", "Extra"))


def test_the_untrained_model_has_one_prompt_and_one_limit():
    """Instruções em inglês, o esquema e o limite de tokens dela; a de origem não muda."""
    config = load_config(None, ["evaluation.base_max_new_tokens=77"])
    copied = untrained(config)
    assert copied.prompt.schema_in_prompt and "SQLite" in copied.prompt.system
    assert copied.generation.max_new_tokens == 77
    assert config == load_config(None, ["evaluation.base_max_new_tokens=77"])


def test_resolve_prefers_the_current_folder_then_the_project(tmp_path, monkeypatch):
    """Um caminho relativo vale na pasta atual se existir nela; senão, no mini-projeto."""
    monkeypatch.chdir(tmp_path)
    assert resolve("dados/gerados") == PROJECT_DIR / "dados/gerados"
    (tmp_path / "meu.csv").touch()
    assert resolve("meu.csv") == tmp_path / "meu.csv"
    assert resolve(str(tmp_path / "nada")) == tmp_path / "nada"


def test_command_line_arguments_reach_the_config():
    """`--config`, `--model` e os pares chegam à configuração; `--model` vence o arquivo."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    args = parser.parse_args(["--model", "org/modelo", "training.seed=9", "lora.r=4"])
    config = config_from_args(args)
    assert (config.model.name, config.training.seed, config.lora.r) == ("org/modelo", 9, 4)
    assert config.model_path == "org/modelo"


def test_a_training_of_another_base_is_not_used_in_silence(tmp_path):
    """Com `--model`, o treino da pasta tem de ser desse modelo; sem ele, vale o do treino."""
    folder = [f"training.output_dir={tmp_path}"]
    trained = load_config(None, [*folder, "model.name=org/um"])
    save_effective(trained, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert with_trained(load_config(None, folder)).output_dir == tmp_path
    assert with_trained(trained) == trained
    with pytest.raises(UserError, match="é do modelo org/um, e não de org/dois"):
        with_trained(load_config(None, [*folder, "model.name=org/dois"]))


def _raise(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "words"),
    [
        (lambda argv: None, 0, ""),
        (lambda argv: len(argv), 1, ""),
        (_raise(UserError("falta o arquivo x")), 2, "Erro: falta o arquivo x\n"),
        (_raise(KeyboardInterrupt()), 130, "Interrompido"),
    ],
)
def test_run_main_turns_user_errors_into_a_sentence(capsys, main, code, words):
    """Erro do usuário: uma frase em stderr e código 2, sem traceback; Ctrl-C: 130."""
    assert run_main(main, ["um"]) == code
    assert words in capsys.readouterr().err


def test_run_main_does_not_hide_bugs():
    """Um erro de programação não vira frase: o traceback tem de aparecer."""
    with pytest.raises(ZeroDivisionError):
        run_main(_raise(ZeroDivisionError()), [])


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--confg", "argumento desconhecido: --confg"),
        ("--config", "--config: falta o valor desta opção"),
        ("--cor=azul", "valor inválido: 'azul' (escolha entre"),
        ("--vezes=muitas", "valor inválido: 'muitas' (esperado: int)"),
        ("--help", "mostra esta ajuda e sai"),
    ],
)
def test_command_line_speaks_portuguese(capsys, argument, sentence):
    parser = Parser("Um script qualquer.")
    add_config_arguments(parser)
    parser.add_argument("--cor", choices=["verde", "roxa"])
    parser.add_argument("--vezes", type=int)
    with pytest.raises(SystemExit) as caught:
        parser.parse_intermixed_args([argument])
    shown = "".join(capsys.readouterr())
    assert sentence in shown and "uso:" in shown
    assert caught.value.code == (0 if argument == "--help" else 2)
    for english in ("usage", "error", "argument -", "expected", "options:"):
        assert english not in shown
