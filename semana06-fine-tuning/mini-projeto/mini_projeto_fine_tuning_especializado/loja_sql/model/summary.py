"""O que train.py deixa dito de um treino, ao lado dele."""

from pathlib import Path

from comum.results import TrainingSummary

SUMMARY = "training.json"
METRICS = "metrics.jsonl"
WORK = "unfinished"  # na pasta do treino, o que ele grava até acabar


def read_summary(folder: Path) -> TrainingSummary | None:
    """O resumo do treino que está em `folder`; None se não há.

    Raises:
        UserError: o arquivo foi editado, ou é de outra versão.
    """
    path = folder / SUMMARY
    return TrainingSummary.load(path) if path.is_file() else None
