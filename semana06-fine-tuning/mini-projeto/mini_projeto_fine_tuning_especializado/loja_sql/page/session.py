"""O que os botões da página fazem, sem nada de interface: vale também para a API."""

import csv
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from loja_sql.config import Config, untrained
from loja_sql.model.assistant import Answer, Assistant, as_record, question_problem
from loja_sql.model.engines import has_llama_cpp, open_form
from loja_sql.model.exports import GGUF_FORMS, exported_forms
from loja_sql.page.feedback import FEEDBACK_NAME, record
from loja_sql.sql.database import QueryError, Result

UNTRAINED, TRAINED = "sem treino", "treinado"
CSV_LIFETIME_S = 3600


class Page:
    """Um assistente pronto e o que se faz com ele: perguntar, corrigir, guardar, comparar."""

    def __init__(self, config: Config, adapter: Path | None) -> None:
        self.config, self.adapter = config, adapter
        self.assistant = Assistant(config, adapter)
        self.feedback = config.data_dir / FEEDBACK_NAME
        self._folder = tempfile.TemporaryDirectory(prefix="loja-sql-")
        self._others: dict[str, Assistant] = {}
        self._loading = threading.Lock()

    def ask(self, question: str) -> dict:
        """A pergunta inteira de uma vez, para a API: SQL, colunas, linhas, erro e segundos."""
        return self._record(self.assistant.ask(question))

    def run_sql(self, sql: str) -> dict:
        """Executa um SQL qualquer, só para leitura, e devolve o mesmo que `ask`."""
        return self._record(self.assistant.execute(sql))

    def _record(self, answer: Answer) -> dict:
        spent = {"seconds": round(answer.seconds, 3), "engine": self.assistant.engine.name}
        return as_record(answer) | spent

    def save_csv(self, result: Result) -> str:
        """Grava as linhas num CSV que as planilhas abrem com acentos; apaga os velhos."""
        folder = Path(self._folder.name)
        for old in folder.glob("*.csv"):
            if time.time() - old.stat().st_mtime > CSV_LIFETIME_S:
                old.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(prefix="resultado-", suffix=".csv", dir=folder)
        with open(descriptor, "w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(result.columns)
            writer.writerows(result.rows)
        return path

    def save_opinion(self, question: str, model_sql: str, edited: str, good: bool) -> str:
        """Guarda a opinião sobre a última resposta e diz o que foi guardado."""
        if question_problem(question) or not model_sql:
            return "Ainda não há resposta para avaliar: faça uma pergunta."
        correction = edited.strip().rstrip(";").strip()
        fixed = not good and correction not in ("", model_sql)
        right = correction if fixed else model_sql if good else ""
        try:
            if fixed:
                self.assistant.run(correction)
            record(self.feedback, question, model_sql, right, good)
        except QueryError as error:
            return f"A correção não foi guardada: {error}."
        except OSError as error:
            return f"Não consegui guardar a opinião: {error}."
        if fixed:
            return "Obrigado! A correção foi guardada e pode entrar no próximo treino."
        wrong = "Guardado como errada. Se puder, corrija o SQL acima e clique em 👎 de novo."
        return "Obrigado! Guardado como resposta certa." if good else wrong

    @property
    def compared(self) -> list[str]:
        """Os modelos da aba Comparar que esta máquina pode abrir."""
        if self.adapter is None:
            return [UNTRAINED]
        forms = exported_forms(self.adapter)
        usable = [form for form in forms if form not in GGUF_FORMS or has_llama_cpp()]
        return [UNTRAINED, TRAINED, *(f"{TRAINED}, {form}" for form in usable)]

    def compare(self, question: str, names: list[str]) -> Iterator[dict[str, Answer]]:
        """A mesma pergunta a vários modelos, um depois do outro; produz o que já respondeu."""
        found: dict[str, Answer] = {}
        for name in names:
            for answer in self._assistant(name).stream(question):
                found[name] = answer
                yield found

    def _assistant(self, name: str) -> Assistant:
        """O modelo `name`, carregado na primeira vez que se precisa dele."""
        with self._loading:
            if name not in self._others:
                self._others[name] = self._open(name)
            return self._others[name]

    def _open(self, name: str) -> Assistant:
        config = self.config.model_copy(deep=True)
        config.generation.engine = "transformers"
        if name == UNTRAINED:
            return Assistant(untrained(config), None)
        if name == TRAINED:
            return Assistant(config, self.adapter)
        engine = open_form(config, self.adapter, name.removeprefix(f"{TRAINED}, "))
        return Assistant(config, self.adapter, engine)
