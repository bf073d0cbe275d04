"""O que train.py deixa dito de um treino, ao lado dele."""

from pathlib import Path

from comum.files import read_json
from comum.results import TrainingSummary
from comum.terminal import UserError

from pydantic import ValidationError

SUMMARY = "training.json"
METRICS = "metrics.jsonl"
WORK = "unfinished"  # na pasta do treino, o que ele grava até acabar


def read_summary(folder: Path) -> TrainingSummary | None:
    """O resumo do treino que está em `folder`; None se não há.

    Raises:
        UserError: o arquivo foi editado, ou é de outra versão.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        return TrainingSummary.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} não tem a forma esperada; treine de novo.") from error
