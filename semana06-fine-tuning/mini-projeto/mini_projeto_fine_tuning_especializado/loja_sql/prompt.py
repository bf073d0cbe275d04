"""O prompt e a leitura da resposta: treino, avaliação, terminal e página usam estas funções.

Um espaço de diferença entre o treino e o uso basta para piorar as respostas sem erro nenhum.
"""

import re
from collections.abc import Sequence

from loja_sql.config import Config

Examples = Sequence[tuple[str, str]]  # pares (pergunta, SQL) mostrados antes da pergunta


def messages(
    config: Config, question: str, schema: str, examples: Examples = ()
) -> list[dict[str, str]]:
    """As mensagens que antecedem a resposta: sistema, exemplos (few-shot) e a pergunta."""
    system = config.prompt.system
    if config.prompt.schema_in_prompt:
        system = f"{system}\n\n{schema}"
    turns = [{"role": "system", "content": system}]
    for shown, sql in examples:
        turns.append({"role": "user", "content": shown.strip()})
        turns.append({"role": "assistant", "content": sql})
    return [*turns, {"role": "user", "content": question.strip()}]


def render(tokenizer, config: Config, question: str, schema: str, examples: Examples = ()) -> str:
    """O texto exato que o modelo recebe, até o início da resposta."""
    return tokenizer.apply_chat_template(
        messages(config, question, schema, examples), tokenize=False, add_generation_prompt=True
    )


def encode_pair(
    tokenizer, config: Config, question: str, sql: str, schema: str, examples: Examples = ()
) -> tuple[list[int], list[int]]:
    """Tokens do prompt e da resposta, esta com o fim de turno: os do treino e os da avaliação.

    Raises:
        UserError: o template do modelo escreve o prompt de um jeito no treino e de outro no uso.
    """
    from comum import training  # traz o torch, de que o resto deste arquivo não precisa

    return training.encode_pair(tokenizer, messages(config, question, schema, examples), sql)


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
