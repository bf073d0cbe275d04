"""O que os botões da página fazem, sem nenhum componente: vale também para a API."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from comum.files import read_jsonl
from comum.terminal import UserError, reason

from loja_sql.config import Config, untrained
from loja_sql.model.assistant import Answer, Assistant, as_record, question_problem
from loja_sql.model.engines import has_llama_cpp, open_form
from loja_sql.model.exports import GGUF_FORMS, exported_forms
from loja_sql.page.explain import one_line
from loja_sql.prompt import DECLINE, declines
from loja_sql.questions.reading import read_questions
from loja_sql.questions.retrieval import Bm25
from loja_sql.questions.splits import load_split
from loja_sql.scores.variants import Variant
from loja_sql.shop import DATA_DIR
from loja_sql.sql.comparison import judge, reference_problem, same_rows
from loja_sql.sql.database import Database
from loja_sql.sql.features import shape

EXAMPLES = [
    "quantos clientes temos em Minas Gerais?",
    "quais os 3 produtos mais caros?",
    "faturamento por forma de pagamento em 2024",
    "quais produtos estão esgotados?",
    "quantos pedidos por status?",
]
UNTRAINED, TRAINED = "sem treino", "treinado"
SHORT = 60  # o Gradio corta uma sugestão mais comprida
SUGGESTIONS = 2  # perguntas parecidas, quando a resposta é "não sei"
MAX_OPEN = 3  # modelos abertos na aba Comparar
MAX_FEEDBACK_BYTES = 5_000_000  # a página pode estar aberta a desconhecidos; o disco, não


class Page:
    """Um assistente pronto e o que se faz com ele: perguntar, corrigir, guardar, comparar."""

    def __init__(self, config: Config, adapter: Path | None) -> None:
        self.config, self.adapter = config, adapter
        self.assistant = Assistant(config, adapter)
        self.feedback = config.data_dir / "feedback.jsonl"
        self._others: dict[str, Assistant] = {}  # do aberto há mais tempo ao de agora
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

    def similar(self, question: str) -> list[str]:
        """As duas perguntas mais parecidas que se sabe responder, de consultas diferentes."""
        found: dict[str, str] = {}
        for place in self._index.nearest(question, 30):
            row = self._answerable[place]
            if len(row["question"]) <= SHORT:
                found.setdefault(row["sql"], row["question"])
        return list(found.values())[:SUGGESTIONS]

    @property
    def examples(self) -> list[str]:
        """Perguntas com que começar: as da loja ou, do banco de quem usa, algumas do treino."""
        if self.config.database.custom is None:
            return EXAMPLES
        asked = [row["question"] for row in self._answerable]
        return [text for text in asked if len(text) <= SHORT][: len(EXAMPLES)]

    @cached_property
    def _index(self) -> Bm25:
        return Bm25([row["question"] for row in self._answerable])

    @cached_property
    def _answerable(self) -> list[dict]:
        """As perguntas escritas à mão; do banco de quem usa, as do treino."""
        if self.config.database.custom is None:
            return read_jsonl(DATA_DIR / "perguntas_curadas.jsonl")
        try:
            rows = load_split(self.config, "train")
        except UserError:
            return []  # o banco é de quem usa, e os dados não estão nesta máquina
        return [row for row in rows if row["sql"] != DECLINE]

    def save_opinion(self, question: str, model_sql: str, edited: str, good: bool) -> str:
        """Guarda a opinião sobre a última resposta e diz o que foi guardado.

        Uma opinião boa, ou com correção, é um par `question`, `sql` pronto para o próximo treino,
        conferido como `data_prep.py` o confere. Numa ruim sem correção o `sql` fica vazio, e ela
        vai para os rejeitados. Quem edita o SQL e diz que está certo fala do que editou.
        """
        if question_problem(question) or not model_sql:
            return "Ainda não há resposta para avaliar: faça uma pergunta."
        correction = one_line(edited.strip().rstrip(";"))
        fixed = correction not in ("", one_line(model_sql))
        right = correction if fixed else model_sql if good else ""
        problem = right and not declines(right) and reference_problem(right, self._banks())
        if problem:
            what = "A correção não foi guardada" if fixed else "Não guardei como exemplo"
            return f"{what}: {problem}."
        row = {"question": question, "model_sql": model_sql, "sql": right}
        row["opinion"] = "good" if good and not fixed else "bad"
        try:
            if not self._append(row):
                return "Essa opinião já estava guardada. Obrigado!"
        except OSError as error:
            return f"Não consegui guardar a opinião: {reason(error)}."
        if fixed:
            return "Obrigado! A correção foi guardada e pode entrar no próximo treino."
        wrong = "Guardado como resposta errada. Se puder, corrija o SQL e clique em 👎 de novo."
        return "Obrigado! Guardado como resposta certa." if good else wrong

    def _banks(self) -> list[Database]:
        limit = self.config.database.time_limit_s
        return [Database(path, limit) for path in self.config.databases if path.is_file()]

    def _append(self, row: dict) -> bool:
        """Acrescenta uma linha; não, se ela já está lá. OSError se o arquivo está cheio."""
        self.feedback.parent.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        same = json.dumps(row, ensure_ascii=False)[:-1].encode()
        # Em bytes: quem o edita à mão pode tê-lo gravado noutra codificação, ou sem o \n do fim.
        with self._writing, self.feedback.open("ab+") as stream:
            if stream.tell() > MAX_FEEDBACK_BYTES:
                raise OSError(f"{self.feedback} passou do tamanho máximo")
            stream.seek(0)
            lines = stream.readlines()
            if any(line.startswith(same) for line in lines):
                return False
            gap = b"\n" if lines and not lines[-1].endswith(b"\n") else b""
            stream.write(gap + same + f', "when": "{stamp}"}}\n'.encode())
        return True

    @property
    def compared(self) -> list[str]:
        """Os modelos da aba Comparar que esta máquina pode abrir."""
        if self.adapter is None:
            return [UNTRAINED]
        forms = exported_forms(self.adapter)
        usable = [form for form in forms if form not in GGUF_FORMS or has_llama_cpp()]
        return [UNTRAINED, TRAINED, *(f"{TRAINED}, {form}" for form in usable)]

    def compare(self, question: str, names: list[str]) -> Iterator[dict[str, "Compared"]]:
        """A mesma pergunta a vários modelos, um depois do outro; produz o que já respondeu."""
        found: dict[str, Compared] = {}
        for name in names:
            # Abrir um modelo leva segundos.
            found[name] = Compared(Answer(question, "", None, None, 0.0))
            yield found
            try:
                model = self._opened(name)
            except UserError as error:  # a exportação mudou com a página aberta, por exemplo
                why = str(error).rstrip(".")
                found[name] = Compared(Answer(question, "", None, why, 0.0))
                yield found
                continue
            for answer in model.stream(question):
                found[name] = Compared(answer)
                yield found
            found[name] = Compared(answer, self._verdict(question, name, found), self._size(name))
            yield found

    def _verdict(self, question: str, name: str, found: dict[str, "Compared"]) -> str:
        """Certa ou errada, se a pergunta é do teste; senão, se deu as linhas do treinado."""
        answer = found[name].answer
        if gold := self.tests.get(question):
            right = answer.sql and any(judge(sql, answer.sql, self._banks())[0] for sql in gold)
            return "✓ certa" if right else "✗ errada"
        trained = found.get(TRAINED)
        if name == TRAINED or trained is None or not trained.answer.result:
            return ""
        same = answer.result and same_rows(trained.answer.result, answer.result)
        return "= as mesmas linhas do treinado" if same else "≠ outra resposta que a do treinado"

    @cached_property
    def tests(self) -> dict[str, list[str]]:
        """As perguntas difíceis do teste da loja e as consultas certas de cada uma."""
        if self.config.database.custom is not None:
            return {}
        rows = read_questions(DATA_DIR / "perguntas_teste.jsonl", "test", [], readings=True)
        hard = (row for row in rows if row.answerable and shape(row.sql).difficulty == "difícil")
        return {row.question: [row.sql, *row.also_right] for row in hard}

    def _opened(self, name: str) -> Assistant:
        """O modelo de uma coluna; só os últimos ficam abertos. Uma pessoa por vez: sem trava."""
        found = self._others.pop(name, None) or self._open(name)
        self._others[name] = found
        for oldest in list(self._others)[:-MAX_OPEN]:
            self._others.pop(oldest).engine.close()
        return found

    def _open(self, name: str) -> Assistant:
        config = self.config.model_copy(deep=True)
        config.generation.engine = "transformers"
        if name == UNTRAINED:
            return Assistant(untrained(config), None)
        if name == TRAINED:
            return Assistant(config, self.adapter)
        engine = open_form(config, self.adapter, name.removeprefix(f"{TRAINED}, "))
        return Assistant(config, self.adapter, engine)

    def _size(self, name: str) -> int | None:
        form = name.removeprefix(f"{TRAINED}, ") if name.startswith(f"{TRAINED},") else None
        adapter = None if name == UNTRAINED else self.adapter
        return Variant(name, "", self.config, adapter, form).weights_bytes


@dataclass(frozen=True)
class Compared:
    """A resposta de um modelo, o veredito e os bytes dos pesos; enquanto escreve, só a primeira."""

    answer: Answer
    verdict: str = ""
    size: int | None = None
