"""As opiniões de quem usa a página, num JSONL que `data_prep.py` lê (`data.feedback`).

Uma opinião boa, ou ruim com correção, é um par `question`, `sql` pronto para o próximo treino. Uma
ruim sem correção fica com `sql` vazio: data_prep a põe nos rejeitados, à espera de quem a corrija.
"""

import json
import threading
from datetime import datetime
from pathlib import Path

FEEDBACK_NAME = "feedback.jsonl"
MAX_BYTES = 20_000_000  # a página pode estar aberta a desconhecidos; o disco, não

_lock = threading.Lock()


def record(path: Path, question: str, model_sql: str, sql: str, good: bool) -> None:
    """Acrescenta uma linha; `sql` é o que valer como resposta certa, ou vazio.

    Raises:
        OSError: o arquivo passou de MAX_BYTES ou não pode ser escrito.
    """
    row = {
        "question": question,
        "model_sql": model_sql,
        "sql": sql,
        "opinion": "good" if good else "bad",
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    text = json.dumps(row, ensure_ascii=False) + "\n"
    with _lock:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size + len(text.encode()) > MAX_BYTES:
            raise OSError(f"{path} passou de {MAX_BYTES // 1_000_000} MB")
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
