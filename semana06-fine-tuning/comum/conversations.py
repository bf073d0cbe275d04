"""As conversas do atendimento: ler, escrever o prompt, pôr em tokens, responder."""

import json
from pathlib import Path

from comum.files import lines
from comum.paths import WEEK_DIR
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

Messages = list[dict[str, str]]


def read_conversations(path: Path, limit: int | None = None) -> list[Messages]:
    """Lê um JSONL de conversas (`messages` com papéis user e assistant, a resposta por último).

    Raises:
        UserError: arquivo ausente, vazio ou com uma linha fora do formato (diz qual).
    """
    conversations = []
    for number, line in enumerate(lines(path), 1):
        try:
            messages = json.loads(line)["messages"]
            valid = messages[-1]["role"] == "assistant" and all(
                isinstance(m["content"], str) and m["content"].strip() for m in messages
            )
        except (ValueError, KeyError, TypeError, IndexError):
            valid = False
        if not valid:
            raise UserError(
                f"{path}, linha {number}: esperava um objeto JSON com `messages`, cada mensagem "
                "com `role` e `content`, e a última do assistant. Corrija ou apague a linha."
            )
        conversations.append(messages)
    if not conversations:
        raise UserError(f"{path} está vazio.")
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


def prompt_of(tokenizer, messages: Messages) -> str:
    """O texto que o modelo recebe: sistema, conversa e a marca de que é a vez dele."""
    turns = [{"role": "system", "content": SYSTEM}, *messages[:-1]]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def fixed_prompts(tokenizer) -> list[str]:
    """`PROMPTS` como o modelo as recebe."""
    return [prompt_of(tokenizer, [{"role": "user", "content": text}, {}]) for text in PROMPTS]


def encode(tokenizer, messages: Messages) -> dict[str, list[int]]:
    """A conversa em tokens, com -100 no que não entra na perda (a lição do dia 3 o faz à mão).

    Raises:
        UserError: o template do modelo não marca o fim da resposta: ele não aprenderia a parar.
    """
    from comum.training import encode_pair, masked

    turns = [{"role": "system", "content": SYSTEM}, *messages[:-1]]
    prompt, answer = encode_pair(tokenizer, turns, messages[-1]["content"])
    if answer[-1] != tokenizer.eos_token_id:
        raise UserError("o template de chat deste modelo não termina a resposta com o eos.")
    return masked(prompt, answer)
