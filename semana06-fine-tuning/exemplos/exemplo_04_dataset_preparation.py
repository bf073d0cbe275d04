"""Dia 6: de um arquivo sujo a dados em que se confia, e de respostas a números em que se confia.

Você vai consertar, dividir e conferir o atendimento bruto da loja; calcular cada medida à mão e ao
lado da biblioteca; e ajustar o modelo em três formatos, para ver se ele vale o que custa.

    python semana06-fine-tuning/exemplos/exemplo_04_dataset_preparation.py --quick   # 1 minuto
    python semana06-fine-tuning/exemplos/exemplo_04_dataset_preparation.py           # 10 minutos
    python …/exemplo_04_dataset_preparation.py --only prep       # ou metrics, ou train
    python …/exemplo_04_dataset_preparation.py --only prep --input meus.csv --output minha_pasta \\
        --message-column texto --reply-column none --label-column classe

O que olhar: o que foi consertado e o que foi recusado (passo 5) e `rejeitados.jsonl`, sem acreditar
em nenhum dos dois; o sorteio simples ao lado da divisão por grupos; a tabela da classificação.
"""

import sys
from pathlib import Path

from comum import conversations
from comum.paths import DEFAULT_MODEL, RESULTS_DIR
from comum.terminal import Parser, UserError, above_zero, banner, run_main, seed

RAW = conversations.DATA_DIR / "atendimento_bruto.csv"
OFFICIAL = conversations.DATA_DIR / "atendimento_teste.jsonl"
FORMATS = {"chat": "reply", "generation": "reply", "classification": "label"}  # o que cada um pede
COLUMNS = {name: name for name in ("message", "reply", "date", "group")} | {"label": "intent"}


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def arguments(argv: list[str] | None = None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--only", choices=("prep", "metrics", "train"), help="só esta parte da lição")
    add("--quick", action="store_true", help="o caminho inteiro, com poucos dados")
    add("--model", default=str(DEFAULT_MODEL), help="pasta ou nome no hub")
    add("--output", type=Path, default=RESULTS_DIR / "dia6_dados", help="os dados prontos")
    add("--format", choices=("all", *FORMATS), default="all", help="só este formato")
    add("--input", default=str(RAW), help="CSV, TSV, JSON, JSONL, Parquet ou hub (dono/nome)")
    for name, default in COLUMNS.items():
        add(f"--{name}-column", default=default, help=f"({default}); none se não há")
    add("--encoding", default="auto", help="a de um CSV ou JSONL (padrão: reconhecê-la)")
    add("--reserved", type=Path, help="teste oficial, em formato chat: o que é dele sai daqui")
    add("--seed", type=seed, default=6, help="da divisão em partes (padrão: 6)")
    share = above_zero(float, most=1)
    add("--validation", type=share, default=0.1, help="fração da validação")
    add("--test", type=share, default=0.15, help="fração do teste")
    count = above_zero(int)
    add("--max-held-out", type=count, default=5000, help="máximo de linhas de validação e teste")
    add("--max-words", type=count, default=250, help="palavras por texto")
    add("--labels", type=names, default=(), help="os certos, com vírgulas (padrão: os frequentes)")
    add("--language", default="pt", choices=("pt", "es", "en", "it", "fr"), help="a das mensagens")
    add("--own-domains", type=names, default=("aroeira.example",), help="e-mails que ficam")
    add("--keep-emoji", action="store_true", help="conta os emojis e os deixa")
    add("--boilerplate", type=Path, help="mais rodapés a tirar: uma expressão regular por linha")
    add("--near", type=share, default=0.5, help="Jaccard a partir do qual é o mesmo pedido")
    add("--related", type=share, default=0.3, help="Jaccard a partir do qual ficam na mesma parte")
    args = parser.parse_args(argv)
    if args.validation + args.test >= 1:
        parser.error("--validation e --test, juntas, têm de ser menos que 1")
    if args.related > args.near:
        parser.error("--related não pode ser maior que --near")
    if args.reserved is None and Path(args.input).resolve() == RAW:
        args.reserved = OFFICIAL
    return args


if __name__ == "__main__":
    ARGS = arguments()  # antes dos imports pesados: --help responde na hora

import math
import random
import time
from collections import Counter, defaultdict
from types import SimpleNamespace

from comum import files, labels, models
from comum.adapters import fit, lora
from comum.labels import SPLITS
from comum.results import BeforeAfter, Day6Metrics, Day6Training, MetricCheck
from comum.scoring import answer_scores

import datasets
import numpy
import pandas

from dia6 import dataset, measures, texts


def main(args) -> None:
    datasets.disable_progress_bars()
    for part, work in {"prep": prepare, "metrics": measure, "train": train}.items():
        if args.only in (None, part):
            work(args)
    print("Sua vez: python semana06-fine-tuning/exercicios/conferir.py dia6")
    print("A seguir: os seus dados, com --only prep --input; depois, o mini-projeto (make demo).")


# --- preparar -----------------------------------------------------------------------------------


def prepare(args) -> None:
    """Do arquivo bruto à pasta pronta, que só toma o lugar da antiga depois de conferida."""
    started = time.perf_counter()
    named = {ours: getattr(args, f"{ours}_column") for ours in COLUMNS}
    columns = {ours: theirs for ours, theirs in named.items() if theirs != "none"}
    wanted = [name for name in FORMATS if args.format in ("all", name)]
    formats = [name for name in wanted if FORMATS[name] in columns]
    if not formats:
        raise UserError(f"para {', '.join(wanted)} é preciso a coluna {FORMATS[wanted[0]]}.")
    tokenizer = models.load_tokenizer(args.model)  # já: um nome errado não custa o preparo
    with files.building(args.output, "manifesto.json") as folder:
        banner(1, f"O arquivo: {args.input}")
        rows = dataset.load(args.input, columns, args.encoding, folder.parent)
        banner(2, "Consertar e julgar")
        rows = clean(rows, columns, args)
        facts = dataset.judge(rows, columns, args)  # os textos ficam no disco; os juízos, aqui
        banner(3, "Achar as quase iguais")
        facts, relatives = drop_duplicates(rows, facts, args)
        banner(4, "Dividir por grupos")
        facts = split(rows, facts, relatives, args)
        banner(5, "Gravar os formatos, conferir e descrever")
        written = {name: write(rows, facts, folder / name, name) for name in formats}
        check_leaks(folder / formats[0])  # antes de a pasta nova tomar o lugar da antiga
        naive = naive_leaks(rows, args)
        result = dataset.report(rows, facts, folder, args, written, naive, tokenizer)
    result.minutes = (time.perf_counter() - started) / 60
    print(f"\nDados, ficha, manifesto e figuras: {args.output}")
    result.announce("dia6_dados" + "_quick" * args.quick)


def clean(rows: datasets.Dataset, columns: dict[str, str], args) -> datasets.Dataset:
    """Conserta os textos de cada linha e diz por que ela, sozinha, não serve (`reason`)."""
    options = texts.boilerplate(args.boilerplate), args.own_domains, args.keep_emoji

    def change(row: dict) -> dict:
        message, kinds = texts.repair(row["message"], *options)
        reply, more = texts.repair(row["reply"], *options)
        said = [message, reply] if "reply" in columns else [message]
        reason = texts.fault(said, args.language, args.max_words)
        reason = "unreadable" if row["problem"] else reason
        kinds = [*kinds, *more, *texts.date_faults(row["date"]), *reason.split()]
        # O texto antigo fica ao lado: um conserto que não se pode rever não é de confiança.
        found = {
            "before": f"{row['message']}\n{row['reply']}",
            "kinds": " ".join(dict.fromkeys(kinds)),
        }
        normal = "" if reason else texts.normal(message)
        return found | {"message": message, "reply": reply, "reason": reason, "normal": normal}

    # É o `map` do datasets: lê e grava Arrow em disco, e o milhão de linhas não passa pela memória.
    return dataset.step(rows, change, "Consertando")


# --- achar as quase iguais ----------------------------------------------------------------------

ALL_PAIRS = 2000  # até aqui comparam-se todas com todas, em segundos; um milhão levaria semanas


def drop_duplicates(rows: datasets.Dataset, facts: pandas.DataFrame, args):
    """Tira as repetidas e as que são do teste oficial; devolve também os pares de parentes."""
    alive = dataset.alive(rows, facts, args.output)
    exact = dataset.repeated(facts, alive)  # linha -> a primeira igual a ela em tudo
    removed = {row: ("duplicate_exact", first) for row, first in exact.items()}
    conflicts, relatives, replaced = set(), [], set()
    official = [texts.normal(message) for message in dataset.reserved(args.reserved)]
    pool = [datasets.Dataset.from_dict({"normal": official}), rows.select(alive)]
    pool = datasets.concatenate_datasets([part.select_columns("normal") for part in pool])
    row_of = numpy.concatenate([numpy.arange(-len(official), 0), alive])  # negativas: o oficial
    for first, second, likeness in near_pairs(pool, args.related):
        first, second = int(row_of[first]), int(row_of[second])
        if first >= 0:
            relatives.append((first, second))
        # Só a primeira de cada grupo fica: quem parece com uma que já saiu não sai por causa dela.
        if second < 0 or likeness < args.near or replaced & {first, second}:
            continue
        kind = "test_leak" if first < 0 else "duplicate_near"
        if kind == "duplicate_near" and second in exact:
            continue
        same = likeness == 1 and first >= 0 and rows[first]["normal"] == rows[second]["normal"]
        if same and len({facts.intent[first], facts.intent[second]} - {""}) == 2:
            # Um dos dois rótulos está errado, e não se sabe qual: nenhum serve para classificar.
            kind = "conflict"
            conflicts.add(first)
        removed[second] = (kind, first)  # sai, e diz por causa de quem
        replaced.add(second)
    return dataset.mark(facts, removed, exact, conflicts), relatives


def near_pairs(pool: datasets.Dataset, least: float):
    """Os pares (antes, depois, Jaccard) de mensagens ao menos `least` parecidas, em ordem."""
    if len(pool) > ALL_PAIRS:
        # O MinHash só compara de verdade quem coincide numa faixa da assinatura: acha quase todos
        # os pares com um tempo que cresce com as linhas, e não com o quadrado delas.
        return dataset.minhash_pairs(pool, least)
    started = time.perf_counter()
    grams = [texts.shingles(text) for text in pool["normal"]]
    found = []
    for second, right in enumerate(grams):
        for first, left in enumerate(grams[:second]):
            # O Jaccard, com uma operação de conjuntos e não duas: são 305 mil pares.
            shared = len(left & right)
            likeness = shared / (len(left) + len(right) - shared)
            if likeness >= least:
                found.append((first, second, likeness))
    # Preveja quantos destes o MinHash acharia; a conferência está na tabela.
    dataset.predict_minhash(pool, found, time.perf_counter() - started)
    return found


# --- dividir ------------------------------------------------------------------------------------

NGRAM, MAX_OVERLAP = 4, 0.6  # de uma mensagem reservada, quanto pode estar numa só do treino
ROUNDS = 8  # divisões tentadas até que nenhum parente fique separado


def split(rows: datasets.Dataset, facts: pandas.DataFrame, relatives: list, args):
    """Parentes e conversas inteiras vão para a mesma parte: treino, validação ou teste."""
    alive, normal = dataset.alive(rows, facts, args.output), rows.select_columns("normal")
    together = [dataset.same_conversation(facts), numpy.array(relatives, int).reshape(-1, 2)]
    for _ in range(ROUNDS):
        # O grupo é o dos parentes, e o dos parentes dos parentes.
        groups = dataset.connected(numpy.concatenate(together), len(rows))[alive]
        parts = dataset.draw(facts.iloc[alive], groups, args)
        held = numpy.flatnonzero(parts)  # as de validação e de teste
        found = leaks(*(dataset.texts_of(normal.select(some)) for some in (alive[held], alive)))
        # O MinHash não acha todos os parentes distantes: o que a conferência ainda acha é juntado,
        # e a divisão, refeita.
        apart = [(held[i], j) for i, j in found if parts[held[i]] != parts[j]]
        if not apart:
            break
        together.append(alive[numpy.array(apart)])
    else:
        raise UserError(
            f"depois de {ROUNDS} divisões ainda há {len(apart)} pares de mensagens parecidas em "
            "partes diferentes. Aumente --max-held-out ou mude --related."
        )
    print(f"{len(alive)} linhas em {len(set(groups))} grupos; {len(held)} reservadas.")
    part_of = pandas.Series("", facts.index)  # "": a linha não está em parte nenhuma
    part_of.iloc[alive] = numpy.array([*SPLITS])[parts]
    return facts.assign(split=part_of)


def leaks(held_out, others) -> list[tuple[int, int]]:
    """As reservadas que outra mensagem contém em boa parte: (reservada, outra)."""
    where, sizes, found = defaultdict(list), [], []
    for number, text in enumerate(held_out):
        sizes.append(len(grams := word_ngrams(text)))
        for gram in grams:
            where[gram].append(number)
    for other, text in enumerate(others):
        # Um índice das sequências reservadas: cada mensagem custa o seu tamanho, e não o do teste.
        shared = Counter(number for gram in word_ngrams(text) for number in where.get(gram, ()))
        found += [(n, other) for n, hits in shared.items() if hits >= MAX_OVERLAP * sizes[n]]
    return found


def word_ngrams(text: str) -> set[str]:
    """As sequências de `NGRAM` palavras; um texto mais curto é uma só."""
    words = text.split()
    return {" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


def check_leaks(folder: Path) -> None:
    """Confere o que se gravou, e não o que se acha que se gravou.

    Raises:
        UserError: há vazamento; mostra os primeiros.
    """
    for held_out, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        held, rest = list(dataset.messages(folder, held_out)), dataset.messages(folder, other)
        found = leaks(map(texts.normal, held), map(texts.normal, rest))
        if leaked := sorted({number for number, _ in found}):
            worst = "; ".join(f"{held[number][:60]!r}" for number in leaked[:3])
            raise UserError(
                f"vazamento: {len(leaked)} mensagens de {SPLITS[held_out]} estão em "
                f"{SPLITS[other]} ({worst}). Nada foi gravado. Diminua --related."
            )


def naive_leaks(rows: datasets.Dataset, args) -> tuple[int, int]:
    """O que vazaria num sorteio simples das linhas brutas: (vazadas, reservadas)."""
    said = [text for text in rows.select(range(min(5000, len(rows))))["message"] if len(text) > 1]
    random.Random(args.seed).shuffle(said)  # o erro comum: sortear linhas, e não grupos
    size, said = round(args.test * len(said)), [texts.normal(text) for text in said]
    return len({number for number, _ in leaks(said[:size], said[size:])}), size


# --- os formatos --------------------------------------------------------------------------------


def write(rows: datasets.Dataset, facts, folder: Path, name: str) -> dict[str, int]:
    """Grava um formato, em JSONL e em Arrow; devolve as linhas de cada parte."""

    def formatted(row: dict) -> dict:
        message, reply = row["message"], row["reply"]
        if name == "classification":
            return {"text": message, "label": facts.intent[row["number"]]}
        if name == "generation":
            # O espaço é da resposta: o tokenizador o junta à primeira palavra dela.
            return {"prompt": dataset.PROMPT.format(message), "completion": f" {reply}"}
        turns = (("user", message), ("assistant", reply))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    parts = {}
    for part in SPLITS:
        # As sem rótulo certo servem para conversar, não para classificar.
        fit = (facts.unfit == "") | (name != "classification")
        ready = rows.select(numpy.flatnonzero(fit & (facts.split == part)))
        # O nome no lugar do hash que o datasets calcularia: os mesmos bytes em toda máquina.
        options = {"remove_columns": rows.column_names, "new_fingerprint": f"{name}-{part}"}
        ready = dataset.step(ready, formatted, f"Gravando {name}, {SPLITS[part]}", **options)
        parts[part] = ready.select_columns([*formatted(rows[0])]) if len(ready) else ready
    dataset.save(parts, folder)
    return {part: len(ready) for part, ready in parts.items()}


# --- medir --------------------------------------------------------------------------------------


def measure(args) -> None:
    """Cada medida à mão, ao lado da biblioteca; para se alguma discorda."""
    banner(6, "Medidas: à mão, depois pela biblioteca")
    found = measures.checks()
    # Discordar da biblioteca não é um detalhe: uma medida errada decide errado por nós.
    wrong = [c.name for c in found if not math.isclose(c.ours, c.library, rel_tol=1e-6)]
    measures.show_checks(found, wrong)
    if wrong:
        raise UserError(f"medida diferente da biblioteca: {', '.join(wrong)}.")
    saved = {c.name: MetricCheck(ours=c.ours, library=c.library) for c in found}
    Day6Metrics(checks=saved).announce("dia6_metricas" + "_quick" * args.quick)


# --- antes e depois -----------------------------------------------------------------------------

# Os learning_rate e os lotes foram escolhidos na validação; o teste só serviu para as tabelas. Com
# 1e-3 em vez de 4e-3, a perplexidade de validação era 17 em vez de 13.
TEXTS = {"train": 160, "test": 40, "new_tokens": 60, "epochs": 1.0, "learning_rate": 4e-3}
LABELS = {"labelled": None, "label_epochs": 2.0, "label_learning_rate": 2e-3, "head_epochs": 2.0}
HEAD = {"adapter_learning_rate": 2e-4, "head_learning_rate": 2e-2}
PLAN = {**TEXTS, **LABELS, **HEAD, "batch_size": 8, "r": 16, "seed": 6}
FEW = {"train": 16, "test": 8, "new_tokens": 16, "labelled": 48}
QUICK = {**PLAN, **FEW, "label_epochs": 1.0, "head_epochs": 1.0}
# Sem papéis nem marcas: o prompt, a resposta e o fim dela.
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


def train(args) -> None:
    """Um ajuste curto em cada formato, ao lado de soluções mais baratas."""
    plan = SimpleNamespace(model=args.model, **(QUICK if args.quick else PLAN))
    ready = [n for n in FORMATS if args.format in ("all", n) and (args.output / n).is_dir()]
    if not ready:
        raise UserError(f"{args.output} não tem dados prontos. Prepare-os: --only prep.")
    started = time.perf_counter()
    known = vars(plan)
    result = Day6Training(model=args.model, seed=plan.seed, settings=known, minutes=0, texts={})
    stem = "dia6_treino" + "_quick" * args.quick
    for number, name in enumerate(ready, 7):
        banner(number, f"Antes e depois: {labels.FORMATS[name]} ({name}/)")
        if name == "classification":
            # A pergunta do dia: o modelo vale o que custa diante de uma contagem de palavras?
            result.classification = measures.classify(args.output / name, plan, lora, fit)
        else:
            result.texts[name] = before_after(args.output / name, name, plan)
        result.minutes = (time.perf_counter() - started) / 60
        result.save(stem)  # a cada formato: interrompida, a lição guarda o que já mediu
    result.announce(stem)


def before_after(folder: Path, name: str, plan: SimpleNamespace) -> BeforeAfter:
    """Um formato é só um template: o mesmo laço, as mesmas medidas; muda o texto em volta."""
    tokenizer = models.load_tokenizer(plan.model)
    if name == "generation":
        tokenizer.chat_template = PLAIN  # a mesma linha, sem papéis
    taught = dataset.conversations(folder, "train", plan.train)
    asked = dataset.conversations(folder, "test", plan.test)
    prompts = [conversations.prompt_of(tokenizer, messages) for messages in asked]
    right = [messages[-1]["content"] for messages in asked]
    rows = [conversations.encode(tokenizer, messages) for messages in asked]
    model, found, seconds = lora(plan), {}, 0.0
    for when in ("before", "after"):
        if when == "after":
            taught_rows = [conversations.encode(tokenizer, messages) for messages in taught]
            # O laço é o do dia 3, só com o adaptador: o que se compara aqui são os dados.
            seconds = fit(model, taught_rows, {"": plan.learning_rate}, plan.epochs, plan)
        # Duas perguntas diferentes: quanto o modelo espera a resposta certa, e o que ele diz.
        scores = answer_scores(model, tokenizer, rows, right)
        answers = conversations.greedy_answers(model, tokenizer, prompts, plan.new_tokens)
        found[when] = scores | measures.similarity(answers, right), answers
    return measures.before_after(asked, found, len(taught), seconds)


if __name__ == "__main__":
    sys.exit(run_main(main, ARGS))
