"""Os três formatos em que uma conversa se escreve, e os nomes dos arquivos de cada parte."""

from collections.abc import Callable
from dataclasses import dataclass

import datasets
import utils

FILES = {"train": "treino", "validation": "validacao", "test": "teste"}
TEXT = datasets.Value("string")
PROMPT = "Mensagem do cliente: {message}\nResposta da loja:"


@dataclass(frozen=True)
class Format:
    """Um jeito de escrever a linha; `message_of` faz o caminho de volta, para as conferências."""

    needs: tuple[str, ...]
    features: datasets.Features
    build: Callable[[str, str, str], dict]  # (message, reply, intent)
    message_of: Callable[[dict], str]
    purpose: str


FORMATS = {
    "chat": Format(
        ("reply",),
        datasets.Features({"messages": [{"role": TEXT, "content": TEXT}]}),
        lambda message, reply, intent: {"messages": [{"role": "user", "content": message},
                                                     {"role": "assistant", "content": reply}]},
        lambda row: row["messages"][0]["content"],
        "conversar: o modelo responde no lugar do atendente",
    ),
    "classification": Format(
        ("intent",),
        datasets.Features({"text": TEXT, "label": TEXT}),
        lambda message, reply, intent: {"text": message, "label": intent},
        lambda row: row["text"],
        "classificar: dizer o assunto da mensagem",
    ),
    "generation": Format(
        ("reply",),
        datasets.Features({"prompt": TEXT, "completion": TEXT}),
        lambda message, reply, intent: {"prompt": PROMPT.format(message=message),
                                        "completion": f" {reply}"},
        lambda row: row["prompt"].removeprefix("Mensagem do cliente: ").rsplit("\n", 1)[0],
        "continuar um texto: prompt e resposta, sem papéis",
    ),
}  # fmt: skip


def usable(columns: dict[str, str], wanted: list[str]) -> list[str]:
    """Os formatos pedidos que as colunas permitem.

    Raises:
        utils.UserError: nenhum deles é possível.
    """
    found = [name for name in wanted if set(FORMATS[name].needs) <= set(columns)]
    if not found:
        needs = " ou ".join(sorted({FORMATS[name].needs[0] for name in wanted}))
        raise utils.UserError(
            f"para {', '.join(wanted)} é preciso a coluna {needs}, que as opções dizem não existir."
        )
    return found
