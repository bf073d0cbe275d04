"""Dia 6: de um arquivo sujo a dados em que se confia, e de respostas a números em que se confia.

Você vai consertar, julgar, dividir e conferir o atendimento bruto da loja; calcular cada medida à
mão e compará-la com a biblioteca; e ajustar o modelo em três formatos, ao lado de soluções mais
baratas, para ver quando um modelo de linguagem não vale a pena.

    python semana06-fine-tuning/exemplos/exemplo_04_dataset_preparation.py --quick   # 1 minuto
    python semana06-fine-tuning/exemplos/exemplo_04_dataset_preparation.py           # 10 minutos
    python …/exemplo_04_dataset_preparation.py --only prep       # ou metrics, ou train
    python …/exemplo_04_dataset_preparation.py --only prep --input meus.csv --output minha_pasta \\
        --message-column texto --reply-column none --label-column classe

O que olhar: o que foi consertado e o que foi recusado (passo 2) e `rejeitados.jsonl`, sem acreditar
em nenhum dos dois; o sorteio simples ao lado da divisão por grupos (passo 3); a tabela da
classificação (passo 6). Saídas: a pasta de `--output` (dados, ficha, manifesto, figuras) e
`resultados/dia6_*.json`.
"""

import time
from dataclasses import asdict
from pathlib import Path

import antes_depois
import classificadores
import datasets
import divisao
import entrega
import ficha
import formatos
import leitura
import metricas_a_mao
import utils  # antes do torch
from antes_depois import Plan
from banco import Options

RAW = utils.DATA_DIR / "atendimento_bruto.csv"
OFFICIAL_TEST = utils.DATA_DIR / "atendimento_teste.jsonl"
OUTPUT = utils.RESULTS_DIR / "dia6_dados"
PARTS = ("prep", "metrics", "train")
QUICK = {"train": 16, "test": 8, "new_tokens": 16, "labelled": 48, "label_epochs": 1.0,
         "head_epochs": 1.0}  # fmt: skip


def main() -> None:
    args = arguments()
    datasets.disable_progress_bars()
    chosen = [args.only] if args.only else list(PARTS)
    if "prep" in chosen:
        prepare(args)
    if "metrics" in chosen:
        measure(args)
    if "train" in chosen:
        train(args)


def arguments():
    parser = utils.Parser(__doc__)
    parser.add_argument("--only", choices=PARTS, help="só esta parte da lição")
    parser.add_argument("--quick", action="store_true", help="o caminho inteiro, com poucos dados")
    parser.add_argument("--model", default=str(utils.DEFAULT_MODEL), metavar="PASTA_OU_NOME",
                        help="pasta ou nome no hub (padrão: o SmolLM2 preparado)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="PASTA",
                        help="onde ficam os dados prontos (--only train os lê)")  # fmt: skip
    parser.add_argument("--format", choices=("all", *formatos.FORMATS), default="all",
                        help="só este formato")  # fmt: skip
    group = parser.add_argument_group("a fonte")
    group.add_argument("--input", default=str(RAW), metavar="ARQUIVO_OU_NOME",
                       help="CSV, TSV, JSONL, Parquet ou nome no hub (dono/nome)")  # fmt: skip
    for option, default, what in (
        ("message", "message", "com o texto de quem pergunta"),
        ("reply", "reply", "com a resposta"),
        ("label", "intent", "com o rótulo"),
        ("date", "date", "com a data"),
        ("group", "group", "que diz a conversa (ou o cliente) de cada linha"),
    ):
        group.add_argument(f"--{option}-column", default=default, metavar="NOME",
                           help=f"coluna {what}; {leitura.NONE} se não há ({default})")  # fmt: skip
    group.add_argument("--encoding", default="utf-8", help="codificação de um CSV ou JSONL")
    group.add_argument("--reserved", type=Path, metavar="JSONL",
                       help="teste oficial, em formato chat: o que é dele sai daqui")  # fmt: skip
    group = parser.add_argument_group("as decisões")
    group.add_argument("--seed", type=int, default=6)
    group.add_argument("--validation", type=float, default=0.1, help="fração da validação")
    group.add_argument("--test", type=float, default=0.15, help="fração do teste")
    group.add_argument("--max-held-out", type=int, default=5000, metavar="LINHAS",
                       help="máximo de linhas de validação e de teste")  # fmt: skip
    group.add_argument("--max-words", type=int, default=250, help="palavras por texto")
    group.add_argument("--labels", default="", metavar="A,B,C",
                       help="os rótulos certos (padrão: os que 1%% das linhas usam)")  # fmt: skip
    group.add_argument("--language", default="pt", choices=("pt", "es", "en", "it", "fr"))
    group.add_argument("--own-domains", default="aroeira.example", metavar="A,B",
                       help="domínios da empresa, cujos e-mails não se mascaram")  # fmt: skip
    group.add_argument("--keep-emoji", action="store_true", help="conta os emojis e os deixa")
    group.add_argument("--boilerplate", type=Path, metavar="ARQUIVO",
                       help="mais rodapés a tirar: uma expressão regular por linha")  # fmt: skip
    group.add_argument("--near", type=float, default=0.5,
                       help="Jaccard a partir do qual é o mesmo pedido")  # fmt: skip
    group.add_argument("--related", type=float, default=0.3,
                       help="Jaccard a partir do qual ficam na mesma parte")  # fmt: skip
    args = parser.parse_args()
    check(args, parser)
    return args


def check(args, parser) -> None:
    """Recusa valores impossíveis antes de começar."""
    if min(args.validation, args.test) <= 0 or args.validation + args.test >= 1:
        parser.error("--validation e --test são frações positivas, e juntas menos que 1")
    if not 0 < args.related <= args.near <= 1:
        parser.error("é preciso 0 < --related <= --near <= 1")
    if args.max_held_out < 1 or args.max_words < 1:
        parser.error("--max-held-out e --max-words são inteiros positivos")


# --- preparo --------------------------------------------------------------------------------------


def prepare(args) -> None:
    """Passos 1 a 3: ler, consertar, dividir, conferir, gravar."""
    utils.banner(1, f"O arquivo: {args.input}")
    options = options_of(args)
    show_source(options)
    wanted = list(formatos.FORMATS) if args.format == "all" else [args.format]
    formats = formatos.usable(options.columns, wanted)
    tokenizer = utils.load_tokenizer(args.model)

    utils.banner(2, "Consertar, julgar, achar parentes")
    started = time.perf_counter()
    numbers = entrega.build(options, args.output, formats, tokenizer)
    minutes = (time.perf_counter() - started) / 60
    show_dirt(numbers)
    # Os exemplos mostram textos como vieram, com dados pessoais: ficam na tela.
    del numbers["exemplos"], numbers["recusadas"]

    utils.banner(3, "Dividir e conferir")
    show_splits(numbers)
    print(f"\nDados, ficha, manifesto e figuras: {args.output}")
    path = utils.save_result(
        "dia6_dados" + ("_quick" if args.quick else ""),
        {"semente": args.seed, "minutos": minutes, "entrada": Path(args.input).name, **numbers},
    )
    print(f"Resultados: {path}")


def options_of(args) -> Options:
    reserved = args.reserved
    if reserved is None and Path(args.input).resolve() == RAW:
        reserved = OFFICIAL_TEST
    return Options(
        source=args.input, columns=leitura.columns_of(args), encoding=args.encoding,
        seed=args.seed, shares=divisao.Shares(args.validation, args.test, args.max_held_out),
        max_words=args.max_words, language=args.language, labels=names(args.labels),
        own_domains=names(args.own_domains), keep_emoji=args.keep_emoji,
        boilerplate=args.boilerplate, reserved=reserved, near=args.near, related=args.related,
    )  # fmt: skip


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def show_source(options: Options) -> None:
    print("As primeiras linhas, como vieram:\n")
    rows = leitura.read(options.source, options.columns, options.encoding)
    for row, _ in zip(rows, range(4), strict=False):
        print(f"  {row.line:>4}: {row.problem or ' | '.join(row.values.values())[:150]}")


def show_dirt(numbers: dict) -> None:
    """O que se achou, com um antes e depois de cada conserto, e o que ficou de fora."""
    print(f"\n{numbers['lidas']} linhas lidas, {numbers['aceitas']} aceitas\n")
    print(f"{'sujeira achada':<32} {'linhas':>6} {'fora':>6}")
    for kind, count in numbers["sujeira"].items():
        print(f"{ficha.KINDS[kind]:<32} {count:>6} {numbers['fora'].get(kind, 0) or '':>6}")
    print("\nUma linha pode ter mais de um defeito; sai pelo primeiro que a condena. As de rótulo "
          "desconhecido\nsó saem da classificação; de cada par em conflito, a segunda sai de "
          "tudo.\n")  # fmt: skip
    for kind, (before, after) in numbers["exemplos"].items():
        print(f"{ficha.KINDS[kind]}:\n  antes:  {before!r}\n  depois: {after!r}")

    print("\nUma recusada de cada motivo, e a resposta dela (ou a linha que ficou no lugar):")
    for kind, (message, other) in numbers["recusadas"].items():
        print(f"{ficha.KINDS[kind]}:\n  {message!r}\n  {other!r}")


def show_splits(numbers: dict) -> None:
    print(f"{'formato':<16}" + "".join(f"{name:>12}" for name in ficha.PART_NAMES.values()))
    for name, counts in numbers["formatos"].items():
        print(f"{name:<16}" + "".join(f"{counts[split]:>12}" for split in divisao.SPLITS))
    naive = numbers["vazamentos_sem_grupos"]
    print(f"\nvazamentos nos arquivos gravados: 0 (mais que isso e nada teria sido gravado)\n"
          f"com um sorteio simples das linhas brutas: {naive['vazamentos']} das "
          f"{naive['reservadas']} reservadas estariam no treino")  # fmt: skip
    for split, name in ficha.PART_NAMES.items():
        if split in numbers["tokens"]:
            q = numbers["tokens"][split]
            print(f"tokens por linha, {name}: de {q['minimo']} a {q['maximo']}, mediana "
                  f"{q['mediana']}, 95% até {q['p95']}")  # fmt: skip
    coverage = numbers["cobertura_do_vocabulario"]
    if coverage is not None:
        print(f"palavras do teste que o treino já mostrou: {ficha.percent(coverage)}")


# --- medidas --------------------------------------------------------------------------------------


def measure(args) -> None:
    """Passo 4: cada medida num exemplo de lápis e papel, ao lado da biblioteca."""
    utils.banner(4, "Medidas: à mão, depois pela biblioteca")
    found = metricas_a_mao.checks()
    print(metricas_a_mao.table(found))
    metricas_a_mao.require_agreement(found)
    default, kept = metricas_a_mao.accent_trap()
    print("\nROUGE-1 de “é a avó” contra “é o avô”: "
          f"{default:.2f} com o tokenizador da biblioteca, que apaga as letras com acento, e "
          f"{kept:.2f} com o nosso.".replace("0.", "0,"))  # fmt: skip
    path = utils.save_result(
        "dia6_metricas" + ("_quick" if args.quick else ""),
        {"conferencias": {check.name: {"nossa": float(check.ours),
                                       "biblioteca": float(check.library)} for check in found}},
    )  # fmt: skip
    print(f"Resultados: {path}")


# --- antes e depois -------------------------------------------------------------------------------


def train(args) -> None:
    """Passos 5 e 6: um ajuste curto em cada formato, ao lado de soluções mais baratas."""
    plan = Plan(args.model, **(QUICK if args.quick else {}))
    wanted = list(formatos.FORMATS) if args.format == "all" else [args.format]
    ready = [name for name in wanted if (args.output / name).is_dir()]
    if not ready:
        raise utils.UserError(f"{args.output} não tem dados prontos. Prepare-os: --only prep.")
    started = time.perf_counter()
    found: dict[str, dict] = {}

    def save() -> Path:
        # A cada formato: interrompida, a lição guarda o que já mediu.
        return utils.save_result(
            "dia6_treino" + ("_quick" if args.quick else ""),
            {"modelo": args.model, "semente": plan.seed, "configuracao": asdict(plan),
             "minutos": (time.perf_counter() - started) / 60, "formatos": found},
        )  # fmt: skip

    texts = [name for name in ready if name != "classification"]
    if texts:
        utils.banner(5, "Antes e depois: " + " e ".join(texts))
    for name in texts:
        found[name] = antes_depois.compare(args.output, name, plan)
        antes_depois.show(name, found[name])
        save()
    if "classification" in ready:
        utils.banner(6, "Classificar: um modelo de linguagem vale a pena?")
        found["classification"] = classificadores.compare(args.output, plan)
        classificadores.show(found["classification"])
    print(f"\nResultados: {save()}")


if __name__ == "__main__":
    utils.run_main(main)
