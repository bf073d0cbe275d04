"""O que data_prep.py grava em `data.output_dir`, e como sabe que já está pronto."""

import hashlib
import json
from pathlib import Path

from comum.files import read_json, sha256, write_json, write_jsonl, write_text
from comum.terminal import UserError

from loja_sql.config import Config, resolve, save_effective
from loja_sql.questions.reading import Rejected
from loja_sql.questions.report import build_report, report_markdown
from loja_sql.questions.splits import Splits
from loja_sql.shop import DATA_DIR

REPORT, REJECTED = "report.json", "rejected.jsonl"
# Quanto dos dados o treino usa: mudá-lo não muda os dados.
USED_IN_TRAINING = {
    *("generated_in_training", "curated_in_training", "unanswerable_in_training"),
    *("unanswerable_repeats", "validation_size"),
}
PACKAGE = Path(__file__).resolve().parents[1]


def write_outputs(config: Config, splits: Splits, rejected: list[Rejected], mark: str) -> dict:
    """Grava divisões, recusadas e relatório, que devolve; o JSON dele, por último, marca o fim.

    Args:
        mark: `fingerprint` de antes de ler as perguntas: o que se acrescenta a elas enquanto os
            dados se preparam fica para a próxima vez.
    """
    # Interrompida daqui em diante, a pasta já não é a que o relatório antigo diz.
    (config.data_dir / REPORT).unlink(missing_ok=True)
    for name, rows in splits.items():
        write_jsonl(config.data_dir / f"{name}.jsonl", map(vars, rows))
    write_rejected(config, rejected)
    save_effective(config, config.data_dir)
    report = build_report(config, splits, rejected) | {"fingerprint": mark}
    write_text(config.data_dir / "report.md", report_markdown(report))
    write_json(config.data_dir / REPORT, report)
    return report


def write_rejected(config: Config, rejected: list[Rejected]) -> Path:
    """Grava as recusadas, uma por linha, e devolve o caminho."""
    path = config.data_dir / REJECTED
    write_jsonl(path, map(vars, rejected))
    return path


def fingerprint(config: Config) -> str:
    """Muda quando mudam a configuração dos dados, as perguntas ou o código que os faz."""
    settings = [config.data.model_dump(exclude=USED_IN_TRAINING), config.database.model_dump()]
    sources = [PACKAGE / "shop.py", *PACKAGE.glob("questions/*.py"), *PACKAGE.glob("sql/*.py")]
    sources += [path for kind in ("yaml", "sql", "jsonl") for path in DATA_DIR.glob(f"*.{kind}")]
    given = (config.data.feedback, config.data.custom, config.database.custom)
    sources += [resolve(path) for path in given if path]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in sorted(sources):
        digest.update((sha256(path) if path.is_file() else "ausente").encode())
    return digest.hexdigest()


def is_current(config: Config) -> bool:
    """Diz se o que está gravado é o que se gravaria agora."""
    try:
        report = read_json(config.data_dir / REPORT)
    except UserError:  # não há, ou se estragou
        return False
    if report.get("fingerprint") != fingerprint(config):
        return False
    splits = [config.data_dir / f"{name}.jsonl" for name in report["splits"]]
    return all(path.is_file() for path in [*config.databases, *splits])
