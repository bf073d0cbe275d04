"""O prompt e a leitura da resposta: treino, avaliação, terminal e página usam estas funções.

Um espaço de diferença entre o treino e o uso basta para piorar as respostas sem erro nenhum.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from comum.template import chat_text
from comum.text import fold

from loja_sql.config import Config

DECLINE = "NÃO SEI"  # a resposta, aprendida no treino, a uma pergunta que o banco não responde
Examples = Sequence[tuple[str, str]]  # pares (pergunta, SQL) mostrados antes da pergunta


class Link(NamedTuple):
    """Um valor do banco, escrito como lá, que a pergunta nomeia."""

    table: str
    column: str
    value: str


@dataclass(frozen=True)
class Context:
    """O que o prompt diz do banco: o esquema e os valores que `links` acha numa pergunta.

    Quem a faz de um banco é `questions.linking.context`. Sem ela não se monta prompt nenhum: as
    dicas do treino não faltam no uso.
    """

    schema: str
    links: Callable[[str], Iterable[Link]]


def with_hints(question: str, links: Iterable[Link]) -> str:
    """A pergunta como o modelo a lê, com os valores do banco que ela nomeia.

    >>> with_hints("clientes de blumenau", [Link("clientes", "cidade", "Blumenau")])
    'clientes de blumenau [clientes.cidade=Blumenau]'
    """
    hints = "; ".join(f"{table}.{column}={value}" for table, column, value in links)
    return f"{question.strip()} [{hints}]" if hints else question.strip()


def messages(
    config: Config, question: str, context: Context, examples: Examples = ()
) -> list[dict[str, str]]:
    """As mensagens que antecedem a resposta: sistema, exemplos (few-shot) e a pergunta."""
    system = config.prompt.system
    if config.prompt.schema_in_prompt:
        system = f"{system}\n\n{context.schema}"
    turns = [{"role": "system", "content": system}]
    for shown, sql in examples:
        turns.append({"role": "user", "content": with_hints(shown, context.links(shown))})
        turns.append({"role": "assistant", "content": sql})
    return [*turns, {"role": "user", "content": with_hints(question, context.links(question))}]


def render(
    tokenizer, config: Config, question: str, context: Context, examples: Examples = ()
) -> str:
    """O texto exato que o modelo recebe, até o início da resposta."""
    turns = messages(config, question, context, examples)
    return chat_text(tokenizer, turns, add_generation_prompt=True)


def encode_pair(
    tokenizer, config: Config, question: str, sql: str, context: Context, examples: Examples = ()
) -> tuple[list[int], list[int]]:
    """Tokens do prompt e da resposta, esta com o fim de turno: os do treino e os da avaliação.

    Raises:
        UserError: o template do modelo escreve o prompt de um jeito no treino e de outro no uso.
    """
    from comum import training  # traz o torch, de que o resto deste arquivo não precisa

    return training.encode_pair(tokenizer, messages(config, question, context, examples), sql)


# O que encerra uma consulta, se não estiver num texto, num nome entre aspas ou num comentário.
_END = re.compile(r"""(?s)'[^']*(?:'|$)|"[^"]*(?:"|$)|--[^\n]*|/\*.*?(?:\*/|$)|(?P<end>;|```)""")
_BARE_QUERY = re.compile(r"\s*(?:select|with|values)\b", re.IGNORECASE)


def extract_sql(answer: str) -> str:
    """A consulta que há na resposta: sem cerca de código (modelos sem treino a usam) nem o `;`.

    >>> extract_sql("Aqui está: ```sql SELECT group_concat(nome, '; ') FROM produtos; ```")
    "SELECT group_concat(nome, '; ') FROM produtos"
    """
    if not _BARE_QUERY.match(answer) and "```" in answer:
        answer = re.sub(r"(?i)\A(?:sqlite|sql)\b", "", answer.partition("```")[2])
    end = next((m.start() for m in _END.finditer(answer) if m["end"]), None)
    return answer[:end].strip()


def declines(answer: str) -> bool:
    """Diz se a resposta é `DECLINE`, sem olhar caixa, acentos, espaços nem ponto final.

    >>> declines("não sei."), declines("SELECT 'NÃO SEI'")
    (True, False)
    """
    return fold(answer).strip(" \t\r\n.!") == fold(DECLINE)
