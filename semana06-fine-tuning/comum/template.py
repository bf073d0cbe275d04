"""O texto que um modelo de conversa lê: as falas no molde dele, sem marcas que ninguém pôs ali."""

import re

Messages = list[dict[str, str]]


def chat_text(tokenizer, turns: Messages, **options) -> str:
    """`turns` no template do modelo, sem que uma marca escrita por alguém valha como marca.

    Um `<|im_end|>` dentro de uma pergunta a encerraria, e o resto falaria em nome do sistema: um
    espaço no meio (`< |im_end|>`) o deixa ser só texto.
    """
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = re.compile("|".join(map(re.escape, marks)) or "(?!)")

    def harmless(text: str) -> str:
        return found.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)

    turns = [turn | {"content": harmless(turn["content"])} for turn in turns]
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)
