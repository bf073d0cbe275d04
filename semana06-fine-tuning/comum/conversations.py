"""As conversas do atendimento: ler, escrever o prompt, pôr em tokens, responder."""

from pathlib import Path

from comum.paths import WEEK_DIR
from comum.tabular import read_table, unwritable
from comum.template import Messages, chat_text
from comum.terminal import UserError, progress

DATA_DIR = WEEK_DIR / "exemplos" / "dados"
SYSTEM = "Você atende os clientes da Loja Aroeira."
# As perguntas feitas a todo modelo, antes e depois, para comparar a olho nu.
PROMPTS = [
    "Comprei uma jaqueta e ficou apertada. Tenho quanto tempo pra trocar?",
    "moro em recife, a partir de quanto o frete sai de graça?",
    "paguei no pix e me arrependi, quando o dinheiro volta?",
]
AT_ONCE = 90  # conversas respondidas juntas
SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}


def turns_of(row: dict) -> Messages:
    """As falas de uma linha: as seguidas do mesmo lado se juntam.

    Lê o formato de chat (`messages`, `role`, `content`) e o ShareGPT (`conversations`, `from`,
    `value`).

    Raises:
        ValueError: falta a lista delas, ou uma não é texto de system, user ou assistant.
    """
    said = row.get("messages", row.get("conversations"))
    if not (isinstance(said, list) and said and all(isinstance(turn, dict) for turn in said)):
        raise ValueError("não há uma lista de falas em `messages` nem em `conversations`")
    turns: Messages = []
    for turn in said:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = SHAREGPT.get(str(role), role)
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise ValueError(f"uma fala de {role!r} não é texto de system, user nem assistant")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n" + content
        else:
            turns.append({"role": role, "content": content})
    return turns


def read_conversations(path: Path, limit: int | None = None) -> list[Messages]:
    """Lê conversas (veja `turns_of`) que terminam numa resposta.

    Raises:
        UserError: arquivo ausente, vazio ou com uma linha fora do formato (diz qual).
    """
    conversations = []
    for line, values, problem in read_table(path):
        try:
            if problem:
                raise ValueError(problem)
            messages = turns_of(values)
            said = [turn["content"] for turn in messages]
            problem = next(filter(None, map(unwritable, said)), None)
            if messages[-1]["role"] != "assistant" or not all(map(str.strip, said)):
                problem = "a última fala tem de ser do assistant, e nenhuma pode ser vazia"
            if problem or any("\ufffd" in text for text in said):
                raise ValueError(problem or "há letras perdidas (U+FFFD): grave-o em UTF-8")
        except ValueError as error:
            raise UserError(
                f"{path}, linha {line}: {error}. Esperava um objeto JSON com `messages`, cada uma "
                "com `role` e `content`, e a última do assistant. Corrija ou apague a linha."
            ) from error
        conversations.append(messages)
    return conversations[:limit]


def greedy_answers(model, tokenizer, prompts: list[str], max_new_tokens: int) -> list[str]:
    """A resposta gulosa a cada prompt já escrito pelo template, na ordem deles."""
    from comum.decoding import generate

    model.eval()
    answers = [""] * len(prompts)
    with progress(None, "Respondendo", "conversa", len(prompts)) as bar:
        for batch in generate(model, tokenizer, prompts, max_new_tokens, AT_ONCE):
            for index, text in batch:
                answers[index] = text
            bar.update(len(batch))
    return answers


def with_system(messages: Messages) -> Messages:
    """A conversa com o sistema da loja na frente, se ela não traz o seu."""
    own = messages[0].get("role") == "system"
    return messages if own else [{"role": "system", "content": SYSTEM}, *messages]


def prompt_of(tokenizer, messages: Messages) -> str:
    """O texto que o modelo recebe: sistema, conversa e a marca de que é a vez dele."""
    return chat_text(tokenizer, with_system(messages)[:-1], add_generation_prompt=True)


def fixed_prompts(tokenizer) -> list[str]:
    """`PROMPTS` como o modelo as recebe."""
    return [prompt_of(tokenizer, [{"role": "user", "content": text}, {}]) for text in PROMPTS]


def encode(tokenizer, messages: Messages) -> dict[str, list[int]]:
    """A conversa em tokens, com -100 no que não entra na perda (a lição do dia 3 o faz à mão).

    Raises:
        UserError: o template do modelo não marca o fim da resposta: ele não aprenderia a parar.
    """
    from comum.training import encode_pair, masked

    turns = with_system(messages)
    prompt, answer = encode_pair(tokenizer, turns[:-1], turns[-1]["content"])
    if answer[-1] != tokenizer.eos_token_id:
        raise UserError("o template de chat deste modelo não termina a resposta com o eos.")
    return masked(prompt, answer)
