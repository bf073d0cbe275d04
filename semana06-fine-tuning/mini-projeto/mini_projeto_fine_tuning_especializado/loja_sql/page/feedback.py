"""As opiniões de quem usa a página, num JSONL que `data_prep.py` lê (`data.feedback`).

Uma opinião boa, ou ruim com correção, é um par `question`, `sql` pronto para o próximo treino. Uma
ruim sem correção fica com `sql` vazio: data_prep a põe nos rejeitados, à espera de quem a corrija.
"""

import json
import threading
from datetime import datetime
from pathlib import Path

MAX_BYTES = 20_000_000  # a página pode estar aberta a desconhecidos; o disco, não

_lock = threading.Lock()


def record(path: Path, question: str, model_sql: str, correct_sql: str | None, good: bool) -> None:
    """Acrescenta uma linha; `correct_sql` é o que valer como resposta certa, se houver.

    Raises:
        OSError: o arquivo passou de MAX_BYTES ou não pode ser escrito.
    """
    line = {
        "question": question,
        "sql": correct_sql or "",
        "sql_do_modelo": model_sql,
        "opiniao": "boa" if good else "ruim",
        "quando": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    text = json.dumps(line, ensure_ascii=False) + "\n"
    with _lock:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size + len(text.encode()) > MAX_BYTES:
            raise OSError(f"{path} passou de {MAX_BYTES // 1_000_000} MB")
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
