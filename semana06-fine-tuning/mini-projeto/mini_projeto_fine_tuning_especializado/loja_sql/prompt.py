"""O prompt e a leitura da resposta: treino, avaliação, terminal e página usam estas funções.

Um espaço de diferença entre o treino e o uso basta para piorar as respostas sem erro nenhum.
"""

from collections.abc import Sequence

from loja_sql.config import Config, UserError

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


def render(
    tokenizer, config: Config, question: str, schema: str, examples: Examples = ()
) -> str:
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
    prompt = render(tokenizer, config, question, schema, examples)
    answer_turn = {"role": "assistant", "content": sql}
    full = tokenizer.apply_chat_template(
        [*messages(config, question, schema, examples), answer_turn], tokenize=False
    )
    if not full.startswith(prompt):
        raise UserError(
            "o template de chat deste modelo escreve o prompt de um jeito no treino e de outro "
            "na geração; escolha outro modelo ou corrija o template."
        )
    answer = full[len(prompt) :].rstrip("\n")
    return tuple(tokenizer([prompt, answer], add_special_tokens=False).input_ids)


def extract_sql(answer: str) -> str:
    """Tira a cerca de código e o que vier depois do primeiro `;` (modelos sem treino as usam)."""
    text = answer.strip()
    if "```" in text:
        text = text.split("```")[1]
        text = text.removeprefix("sqlite").removeprefix("sql")
    return text.split(";")[0].strip()
