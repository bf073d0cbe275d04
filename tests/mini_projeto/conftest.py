"""Dados de 36 perguntas, e um modelo minúsculo treinado neles uma vez por sessão e por método."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import pytest

import export
import train
from loja_sql.model.engines import has_llama_cpp
from loja_sql.shop import DATA_DIR
from loja_sql.sql.features import shape

SPLITS = {"train": (0, 24), "validation": (24, 30), "test": (30, 36)}


@pytest.fixture(scope="session")
def small_data(tmp_path_factory, shop_11) -> Path:
    """As divisões de data_prep.py, com 24, 6 e 6 perguntas, e a loja da semente 11."""
    folder = tmp_path_factory.mktemp("dados")
    (folder / "loja_11.sqlite").symlink_to(shop_11)
    lines = (DATA_DIR / "perguntas_curadas.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if len(row["sql"]) < 90]
    for name, (start, end) in SPLITS.items():
        text = ""
        for place, row in enumerate(rows[start:end]):
            facts = {"kind": shape(row["sql"]).kind, "difficulty": shape(row["sql"]).difficulty}
            identity = {"id": f"{name}-{place}", "source": "written"}
            text += json.dumps({**identity, **facts, **row}) + "\n"
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _arguments(model: Path, data: Path, output: Path, tokens: int) -> list[str]:
    return [
        f"model.name={model}",
        f"data.output_dir={data}",
        "database.seeds=[11]",
        f"training.output_dir={output}",
        "training.max_steps=6",
        "training.eval_steps=3",
        "training.early_stopping_patience=9",
        "training.batch_size=4",
        "training.precision=fp32",  # a mesma conta em toda máquina; os testes de bf16 pedem bf16
        "lora.r=4",
        f"generation.max_new_tokens={tokens}",
        f"evaluation.base_max_new_tokens={tokens}",
    ]


@pytest.fixture
def project(tmp_path, tiny_llama, small_data) -> tuple[list[str], Path]:
    """Tudo pronto para treinar o Llama minúsculo em `tmp_path/lora`; devolve (args, tmp_path).

    `args` são os pares chave=valor a passar a qualquer script. Os dados são de toda a sessão: quem
    os muda copia a pasta antes (shutil.copytree, com symlinks=True).
    """
    return _arguments(tiny_llama, small_data, tmp_path / "lora", tokens=8), tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, wide_llama, small_data) -> tuple[list[str], Path]:
    """Um adaptador que mudou o modelo de verdade, treinado uma vez; devolve (args, pasta dele).

    Só para leitura: quem muda algo copia a pasta e acrescenta `training.output_dir=CÓPIA` a `args`.
    """
    folder = tmp_path_factory.mktemp("treinado") / "lora"
    args = _arguments(wide_llama, small_data, folder, tokens=16)
    args.append("training.learning_rate=1.0e-2")
    assert train.main(args) == 0
    return args, folder


@pytest.fixture
def copied(trained, tmp_path) -> tuple[list[str], Path]:
    """`trained` numa pasta que se pode mudar; devolve (args, pasta)."""
    args, folder = trained
    copy = shutil.copytree(folder, tmp_path / "lora")
    return [*args, f"training.output_dir={copy}"], copy


@pytest.fixture(scope="session")
def qlora(tmp_path_factory, wide_llama, small_data) -> tuple[list[str], Path, str]:
    """Um treino sobre 4 bits, com o modelo tomado por grande: (args, pasta, o que disse)."""
    folder = tmp_path_factory.mktemp("qlora") / "lora"
    args = _arguments(wide_llama, small_data, folder, tokens=8)
    args += ["model.load_in_4bit=true", "training.precision=bf16", "training.learning_rate=1.0e-2"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as shown:
        patch.setattr("comum.training.LARGE", 1)
        assert train.main(args) == 0
    return args, folder, shown.getvalue()


@pytest.fixture(scope="session")
def full(tmp_path_factory, tiny_llama, small_data) -> tuple[list[str], Path]:
    """Um treino de todos os pesos, com as contas em bf16; devolve (args, pasta), só para ler."""
    folder = tmp_path_factory.mktemp("todos") / "lora"
    args = _arguments(tiny_llama, small_data, folder, tokens=8)
    args += ["training.method=full", "training.precision=bf16", "training.learning_rate=1.0e-2"]
    assert train.main(args) == 0
    return args, folder


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> tuple[list[str], Path]:
    """Uma cópia de `trained` com as formas bf16 e, onde o llama.cpp roda, q8_0 exportadas."""
    args, folder = trained
    copy = tmp_path_factory.mktemp("exportado") / "lora"
    shutil.copytree(folder, copy)
    args = [*args, f"training.output_dir={copy}"]
    forms = "bf16,q8_0" if has_llama_cpp() else "bf16"
    assert export.main([*args, "--forms", forms]) == 0
    return args, copy
