"""O que as lições dividem sem ser o assunto de nenhuma: conversas, respostas, resultados."""

import json
from pathlib import Path

from comum.files import lines
from comum.paths import MODELS_DIR, RECORD_COMMAND, RESULTS_DIR
from comum.results import Result, Score
from comum.terminal import UserError, progress

DATA_DIR = Path(__file__).resolve().parent / "dados"
SYSTEM = "Você atende os clientes da Loja Aroeira."
# As perguntas feitas a todo modelo, antes e depois, para comparar a olho nu.
PROMPTS = [
    "Comprei uma jaqueta e ficou apertada. Tenho quanto tempo pra trocar?",
    "moro em recife, a partir de quanto o frete sai de graça?",
    "paguei no pix e me arrependi, quando o dinheiro volta?",
]

Messages = list[dict[str, str]]


def read_conversations(path: Path, limit: int | None = None) -> list[Messages]:
    """Lê um JSONL de conversas (`messages` com papéis user e assistant, a resposta por último).

    Raises:
        UserError: arquivo ausente, vazio ou com uma linha fora do formato (diz qual).
    """
    if not path.is_file():
        raise UserError(f"o arquivo de dados {path} não existe.")
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


def model_folder(day: int, quick: bool, output: Path | None, name: str | None = None) -> Path:
    """Onde o dia salva o modelo; o curto não apaga o inteiro, que o dia 5 quantiza."""
    return output or MODELS_DIR / (f"dia{day}" + "-curto" * quick + (f"-{name}" if name else ""))


def result_name(stem: str, quick: bool, name: str | None = None) -> str:
    """O nome do JSON e da figura: cada `--name` guarda os seus."""
    return stem + "_quick" * quick + (f"_{name}" if name else "")


def greedy_answers(
    model, tokenizer, prompts: list[str], max_new_tokens: int, batch_size: int = 90
) -> list[str]:
    """A resposta gulosa a cada prompt já escrito pelo template, na ordem deles."""
    from comum.decoding import generate

    model.eval()
    answers = [""] * len(prompts)
    with progress(None, "Respondendo", "conversa", len(prompts)) as bar:
        for batch in generate(model, tokenizer, prompts, max_new_tokens, batch_size):
            for index, text in batch:
                answers[index] = text
            bar.update(len(batch))
    return answers


def prompt_of(tokenizer, messages: Messages, system: str = SYSTEM) -> str:
    """O texto que o modelo recebe: sistema, conversa e a marca de que é a vez dele."""
    turns = [{"role": "system", "content": system}, *messages[:-1]]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def encode(tokenizer, messages: Messages, system: str = SYSTEM) -> dict[str, list[int]]:
    """A conversa em tokens, com -100 no que não entra na perda (a lição do dia 3 o faz à mão).

    Raises:
        UserError: o template do modelo não marca o fim da resposta: ele não aprenderia a parar.
    """
    from comum.training import encode_pair, masked

    turns = [{"role": "system", "content": system}, *messages[:-1]]
    prompt, answer = encode_pair(tokenizer, turns, messages[-1]["content"])
    if answer[-1] != tokenizer.eos_token_id:
        raise UserError("o template de chat deste modelo não termina a resposta com o eos.")
    return masked(prompt, answer)


def save_result(result: Result, name: str) -> Path:
    """Grava o resultado e diz onde está e como levá-lo ao caderno."""
    path = result.save(name)
    print(f"\nResultados: {path}")
    print(f"Para levar os números ao caderno: make experimentos (ou {RECORD_COMMAND})")
    return path


def save_figure(figure, name: str) -> Path:
    """Grava a figura do matplotlib em `resultados/NOME.png` e a fecha."""
    from matplotlib import pyplot

    figure.tight_layout()
    path = RESULTS_DIR / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def scores_table(columns: dict[str, dict[str, Score]], keys: list[str]) -> None:
    """Imprime as notas pedidas, uma coluna por modelo, com os intervalos de 95%."""
    from comum import tables
    from comum.labels import SCORES
    from comum.numbers import interval

    rows = []
    for key in keys:
        label, places, scale = SCORES[key]
        rows.append([label, *(interval(found[key], places, scale) for found in columns.values())])
    tables.show(["(intervalos de 95%)", *columns], rows)
