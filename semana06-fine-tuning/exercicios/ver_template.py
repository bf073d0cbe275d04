"""Dia 3: uma conversa como o modelo a vê, e o que o template muda na resposta. Menos de 1 minuto.

    python semana06-fine-tuning/exercicios/ver_template.py

O que olhar: as marcas que o template põe; onde a máscara acaba; e as três continuações da mesma
pergunta. Um modelo base só conheceria a primeira forma, a do texto corrido; o instruct foi
treinado na terceira.
"""

import sys

from comum.conversations import DATA_DIR, encode, read_conversations, with_system
from comum.paths import DEFAULT_MODEL
from comum.terminal import Parser, banner, run_main


def main() -> None:
    from comum.models import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(str(DEFAULT_MODEL)), load_model(str(DEFAULT_MODEL))
    conversations = read_conversations(DATA_DIR / "atendimento_treino.jsonl")
    messages = min(conversations, key=lambda found: sum(len(m["content"]) for m in found))

    banner(1, "A conversa, com o template")
    row = encode(tokenizer, messages)
    print(tokenizer.decode(row["input_ids"]))

    banner(2, "Os tokens e a máscara")
    print("Cada token com o seu rótulo; -100 fica fora da perda: o modelo o lê, e não o aprende.\n")
    cells = [
        f"{tokenizer.decode(token)!r:<16}{label:>6}"
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    ]
    for start in range(0, len(cells), 3):
        print("    ".join(cells[start : start + 3]))

    banner(3, "A mesma pergunta de três formas")
    turns = with_system(messages)[:-1]
    closed, opened = (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asked)
        for asked in (False, True)
    )
    forms = {
        "texto corrido, como a um modelo base": messages[0]["content"],
        "com o template, sem a marca de que é a vez do modelo": closed,
        "com o template e a marca (add_generation_prompt=True)": opened,
    }
    for name, text in forms.items():
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        written = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
        print(f"\n{name}\n  o modelo lê:     …{text[-40:]!r}\n  o modelo escreve: {written!r}")


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    sys.exit(run_main(main))
