"""Antes e depois de um ajuste curto com LoRA, nos três formatos que o preparo gravou.

Um formato é só um template: o mesmo laço, as mesmas medidas, o mesmo modelo; muda o texto em volta
da mensagem.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import corrida
import medidas
import metricas_a_mao
import utils  # antes do torch
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

# Sem papéis nem marcas: o prompt, a resposta e o fim dela.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
SCORES = (
    ("perplexidade por token", "perplexidade_token", 2, 1),
    ("perplexidade por byte", "perplexidade_byte", 3, 1),
    ("BLEU", "bleu", 1, 1),
    ("chrF", "chrf", 1, 1),
    ("ROUGE-1 (%)", "rouge1", 1, 100),
    ("ROUGE-2 (%)", "rouge2", 1, 100),
    ("ROUGE-L (%)", "rougeL", 1, 100),
)


@dataclass(frozen=True)
class Plan:
    """Quanto se treina e se mede: a lição inteira e o `--quick` só diferem nisto.

    Os learning_rate e os lotes foram escolhidos na validação; o teste só serviu para as tabelas.
    """

    model: str
    train: int = 160  # linhas de treino em chat e geração
    test: int = 40  # linhas de teste em chat e geração
    new_tokens: int = 60
    labelled: int | None = None  # linhas de treino da classificação; None: todas
    epochs: float = 1.0
    label_epochs: float = 2.0
    head_epochs: float = 2.0
    learning_rate: float = 4e-3  # com 1e-3, perplexidade de validação 17 em vez de 13
    batch_size: int = 8
    label_batch_size: int = 8  # 16 rende mais por segundo, mas dá metade dos passos
    label_learning_rate: float = 2e-3
    adapter_learning_rate: float = 2e-4  # do LoRA debaixo da cabeça de classificação
    head_learning_rate: float = 2e-2  # da cabeça, que parte de pesos sorteados
    r: int = 16
    seed: int = 6

    def run(self, learning_rate: float, epochs: float, batch_size: int) -> corrida.Run:
        """A corrida de LoRA correspondente."""
        return corrida.Run(
            model=self.model, learning_rate=learning_rate, epochs=epochs, r=self.r,
            alpha=2 * self.r, batch_size=batch_size, seed=self.seed,
        )  # fmt: skip


def read_part(folder: Path, name: str, part: str, limit: int | None = None) -> list[dict]:
    """Linhas de `folder/name/part.jsonl`, no máximo `limit`, espalhadas pelo arquivo.

    Raises:
        utils.UserError: o preparo ainda não gravou esse arquivo, ou ele está vazio.
    """
    path = folder / name / f"{part}.jsonl"
    if not path.is_file():
        raise utils.UserError(f"{path} não existe. Prepare os dados antes: --only prep.")
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if not rows:
        raise utils.UserError(f"{path} está vazio: há linhas de menos para treinar e medir.")
    step = max(1.0, len(rows) / limit) if limit else 1.0
    return [rows[int(place * step)] for place in range(min(limit or len(rows), len(rows)))]


def conversations_of(rows: list[dict]) -> list[medidas.Messages]:
    """As linhas de qualquer formato de texto, como conversas de duas mensagens."""
    return [
        row["messages"] if "messages" in row
        else [{"role": "user", "content": row["prompt"]},
              {"role": "assistant", "content": row["completion"]}]
        for row in rows
    ]  # fmt: skip


def tokenizer_for(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """O tokenizador com o template do formato: o de chat do modelo, ou o texto puro."""
    if name == "chat":
        return tokenizer
    plain = copy.copy(tokenizer)
    plain.chat_template = PLAIN
    return plain


def fine_tune(
    conversations: list[medidas.Messages], tokenizer: PreTrainedTokenizerBase, run: corrida.Run
) -> tuple[PeftModel, float]:
    """LoRA sobre o modelo de `run`; devolve o modelo ajustado e os segundos de treino."""
    medidas.fix_seeds(run.seed)
    rows = [medidas.encode(tokenizer, messages) for messages in conversations]
    steps = math.ceil(len(rows) / run.batch_size * run.epochs)
    model = corrida.prepare(run, steps)
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=medidas.IGNORED)
    _, seconds, _ = corrida.train(model, collator, rows, steps, run)
    return model, seconds


def compare(folder: Path, name: str, plan: Plan) -> dict:
    """Um formato de texto, antes e depois: notas, respostas e diferenças pareadas."""
    tokenizer = tokenizer_for(utils.load_tokenizer(plan.model), name)
    train = conversations_of(read_part(folder, name, "treino", plan.train))
    test = conversations_of(read_part(folder, name, "teste", plan.test))
    run = plan.run(plan.learning_rate, plan.epochs, plan.batch_size)
    before = score(corrida.prepare(run, 1).eval(), tokenizer, test, plan)
    model, seconds = fine_tune(train, tokenizer, run)
    after = score(model, tokenizer, test, plan)
    pairs = list(zip(before.pop("linhas"), after.pop("linhas"), strict=True))
    gain = metricas_a_mao.bootstrap(
        lambda rows: metricas_a_mao.mean([new - old for old, new in rows]), pairs
    )
    return {
        "treino": len(train), "teste": len(test), "segundos_de_treino": seconds,
        "antes": before["notas"], "depois": after["notas"], "ganho_rougeL": gain,
        "exemplos": [
            {"mensagem": m[0]["content"], "referencia": m[-1]["content"].strip(), "antes": b,
             "depois": a}
            for m, b, a in list(zip(test, before["respostas"], after["respostas"],
                                    strict=True))[:3]
        ],
    }  # fmt: skip


def score(model: PeftModel, tokenizer, test: list[medidas.Messages], plan: Plan) -> dict:
    """Perplexidade das respostas certas e semelhança das geradas, com intervalos."""
    scores = medidas.answer_scores(model, tokenizer, test)
    answers = medidas.greedy_answers(model, tokenizer, test, plan.new_tokens)
    references = [messages[-1]["content"].strip() for messages in test]
    rouge = [metricas_a_mao.rouge(a, r) for a, r in zip(answers, references, strict=True)]
    counts = [metricas_a_mao.chrf_counts(a, r) for a, r in zip(answers, references, strict=True)]
    scores["bleu"] = medidas.bleu(answers, references)
    scores["chrf"] = metricas_a_mao.bootstrap(metricas_a_mao.chrf_of, counts)
    for kind in metricas_a_mao.ROUGE:
        scores[kind] = metricas_a_mao.bootstrap(metricas_a_mao.mean, [r[kind] for r in rouge])
    return {"notas": scores, "respostas": answers, "linhas": [r["rougeL"] for r in rouge]}


def show(name: str, found: dict) -> None:
    """Tabela e exemplos de um formato."""
    print(f"\n{name}: {found['treino']} linhas de treino, {found['teste']} de teste, "
          f"{found['segundos_de_treino'] / 60:.1f} min de treino".replace(".", ","))  # fmt: skip
    print(f"\n{'(intervalos de 95%)':<26}{'antes':>26}{'depois':>26}")
    for label, key, decimals, scale in SCORES:
        cells = (medidas.show(found[when][key], decimals, scale) for when in ("antes", "depois"))
        print(f"{label:<26}" + "".join(f"{cell:>26}" for cell in cells))
    gain = medidas.show(found["ganho_rougeL"], 1, 100)
    print(f"ganho de ROUGE-L nas mesmas perguntas (bootstrap pareado): {gain} pontos")
    for example in found["exemplos"][:2]:
        print(f"\n> {' '.join(example['mensagem'].split())}")
        for key in ("referencia", "antes", "depois"):
            print(f"  {key + ':':<12} {' '.join(example[key].split())}")
