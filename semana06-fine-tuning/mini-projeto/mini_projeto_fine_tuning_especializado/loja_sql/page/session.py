"""O que os botões da página fazem, sem nenhum componente: vale também para a API."""

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from comum.terminal import reason

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from loja_sql.config import Config, untrained
from loja_sql.model.assistant import Answer, Assistant, as_record, question_problem
from loja_sql.model.engines import has_llama_cpp, open_form
from loja_sql.model.exports import GGUF_FORMS, exported_forms
from loja_sql.prompt import declines
from loja_sql.sql.database import Result

UNTRAINED, TRAINED = "sem treino", "treinado"
MAX_FEEDBACK_BYTES = 20_000_000  # a página pode estar aberta a desconhecidos; o disco, não


class Page:
    """Um assistente pronto e o que se faz com ele: perguntar, corrigir, guardar, comparar."""

    def __init__(self, config: Config, adapter: Path | None) -> None:
        self.config, self.adapter = config, adapter
        self.assistant = Assistant(config, adapter)
        self.feedback = config.data_dir / "feedback.jsonl"
        self._others: dict[str, Assistant] = {}
        self._writing = threading.Lock()

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
        """Grava as linhas num CSV que as planilhas abrem com acentos; o Gradio apaga os velhos."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([result.columns, *result.rows])
        content = text.getvalue().encode("utf-8-sig")
        return save_bytes_to_cache(content, "resultado.csv", get_upload_folder())

    def save_opinion(self, question: str, model_sql: str, edited: str, good: bool) -> str:
        """Guarda a opinião sobre a última resposta e diz o que foi guardado.

        Uma opinião boa, ou ruim com correção, é um par `question`, `sql` pronto para o próximo
        treino. Numa ruim sem correção o `sql` fica vazio: data_prep a põe nos rejeitados.
        """
        if question_problem(question) or not model_sql:
            return "Ainda não há resposta para avaliar: faça uma pergunta."
        correction = edited.strip().rstrip(";").strip()
        fixed = not good and correction not in ("", model_sql)
        run = fixed and not declines(correction)
        problem = self.assistant.execute(correction).error if run else None
        if problem:
            return f"A correção não foi guardada: {problem}."
        right = correction if fixed else model_sql if good else ""
        row = {"question": question, "model_sql": model_sql, "sql": right}
        row["opinion"] = "good" if good else "bad"
        row["when"] = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self._append(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            return f"Não consegui guardar a opinião: {reason(error)}."
        if fixed:
            return "Obrigado! A correção foi guardada e pode entrar no próximo treino."
        wrong = "Guardado como errada. Se puder, corrija o SQL acima e clique em 👎 de novo."
        return "Obrigado! Guardado como resposta certa." if good else wrong

    def _append(self, line: str) -> None:
        self.feedback.parent.mkdir(parents=True, exist_ok=True)
        with self._writing, self.feedback.open("a", encoding="utf-8") as stream:
            if stream.tell() > MAX_FEEDBACK_BYTES:
                raise OSError(f"{self.feedback} passou do tamanho máximo")
            stream.write(line)

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
            if name not in self._others:  # sem trava: a aba Comparar atende uma pessoa por vez
                self._others[name] = self._open(name)
            for answer in self._others[name].stream(question):
                found[name] = answer
                yield found

    def _open(self, name: str) -> Assistant:
        config = self.config.model_copy(deep=True)
        config.generation.engine = "transformers"
        if name == UNTRAINED:
            return Assistant(untrained(config), None)
        if name == TRAINED:
            return Assistant(config, self.adapter)
        engine = open_form(config, self.adapter, name.removeprefix(f"{TRAINED}, "))
        return Assistant(config, self.adapter, engine)
