"""O prompt, num lugar só: treino, avaliação, terminal e página usam estas funções.

Um espaço de diferença entre o treino e o uso basta para piorar as respostas sem erro nenhum.
"""

from config import Config


def messages(config: Config, question: str, schema: str) -> list[dict[str, str]]:
    """As mensagens que antecedem a resposta: sistema e usuário."""
    system = config.prompt.system
    if config.prompt.schema_in_prompt:
        system = f"{system}\n\n{schema}"
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": question.strip()},
    ]


def training_example(config: Config, question: str, sql: str, schema: str) -> dict:
    """Um exemplo no formato prompt/completion da TRL: a perda incide só na resposta."""
    return {
        "prompt": messages(config, question, schema),
        "completion": [{"role": "assistant", "content": sql}],
    }


def render(tokenizer, config: Config, question: str, schema: str) -> str:
    """O texto exato que o modelo recebe, até o início da resposta."""
    return tokenizer.apply_chat_template(
        messages(config, question, schema), tokenize=False, add_generation_prompt=True
    )
