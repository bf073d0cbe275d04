"""O modelo exportado atrás de outro servidor (llama.cpp, vLLM, Ollama): o que mandar e o que ler.

    served = Served(config, adapter)
    prompt = served.prompt("clientes de blumenal")   # prompt.tokens, ou prompt.text, ao servidor
    served.sql(text)                                 # o que ele respondeu → a consulta

O prompt é o que `Assistant` monta, com os valores do banco que a pergunta nomeia. Os pesos não se
abrem: quem os tem é o servidor.
"""

from pathlib import Path
from typing import NamedTuple

from comum.terminal import UserError

from loja_sql.config import Config
from loja_sql.model.assistant import question_problem
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import declines, extract_sql, render
from loja_sql.questions import linking


class Prompt(NamedTuple):
    """O que se manda ao servidor, e os textos em que a resposta acaba.

    Prefira os tokens, onde o servidor os aceita: o texto, cada um o divide a seu modo.
    """

    text: str
    tokens: list[int]
    stop: list[str]


class Served:
    """O tokenizador de um treino e o banco sobre o qual se pergunta.

    Args:
        config: a do treino (`config.as_trained`).
        adapter: a pasta do treino; None é o modelo base.

    Raises:
        UserError: o tokenizador ou o banco não se abre.
    """

    def __init__(self, config: Config, adapter: Path | None) -> None:
        self.config, self.context = config, linking.context(config)
        self.tokenizer = load_tokenizer(config, adapter)
        self.stop = [self.tokenizer.eos_token]

    def prompt(self, question: str) -> Prompt:
        """O prompt de uma pergunta; UserError se ela não serve de pergunta."""
        if problem := question_problem(question):
            raise UserError(f"{problem}.")
        text = render(self.tokenizer, self.config, question, self.context)
        return Prompt(text, self.tokenizer(text, add_special_tokens=False).input_ids, self.stop)

    def sql(self, answer: str) -> str | None:
        """A consulta que há no texto da resposta; None se o modelo disse que não sabe.

        Os tokens fundidos não pedem nada: cada um é um texto, e o servidor já o escreveu.
        """
        sql = extract_sql(answer.partition(self.tokenizer.eos_token)[0])
        return None if declines(sql) else sql
