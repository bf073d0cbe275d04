"""Prepara os dados: bancos da loja, perguntas conferidas por execução, divisões e relatório.

    python data_prep.py                         # a loja
    python data_prep.py database.custom=meu.sqlite data.custom=minhas_perguntas.csv \\
        data.output_dir=dados/gerados/meu

Passos: gerar os bancos → ler as perguntas escritas à mão e gerar as demais → executar cada SQL em
todos os bancos → tirar duplicatas e tudo que se pareça com o teste → dividir → relatar. O que é
recusado fica em `rejeitados.jsonl`, com o motivo.

A divisão: as perguntas do teste e da validação foram escritas à parte, em palavras livres, e
nenhum molde delas aparece no treino. As geradas se dividem por esqueleto de SQL: as formas de
consulta de `teste_gerado` não ocorrem no treino.
"""

import csv
import hashlib
import io
import json
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from loja_sql.config import (
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    config_from_args,
    resolve,
    run_main,
    save_effective,
    write_atomic,
)
from loja_sql.questions.generator import generate
from loja_sql.questions.slots import mask, plain
from loja_sql.questions.variations import vary
from loja_sql.shop import DATA_DIR, create_shop
from loja_sql.sql.comparison import reference_problem
from loja_sql.sql.database import Database, DatabaseError
from loja_sql.sql.features import difficulty, kind, skeleton, tables
from tqdm import tqdm

CURATED = DATA_DIR / "perguntas_curadas.jsonl"
VALIDATION = DATA_DIR / "perguntas_validacao.jsonl"
TEST = DATA_DIR / "perguntas_teste.jsonl"
VARIATION = "variacao"
MAX_ATTEMPTS_PER_PAIR = 6
GENERATED_HELD_OUT = 0.1  # fração das geradas na validação e no teste de esqueletos inéditos
CUSTOM_HELD_OUT = 0.15
# O código de que os dados dependem: se ele muda, os dados são refeitos.
MAKERS = ("data_prep.py", "execution.py", "generator.py", "shop.py", "slots.py", "sql_features.py",
          "variations.py")  # fmt: skip
NEAR_DUPLICATE = 0.8  # Jaccard entre os conjuntos de palavras dos moldes


@dataclass
class Row:
    """Uma pergunta e o SQL de referência, com o que se sabe sobre eles."""

    id: str
    question: str
    sql: str
    source: str  # curada | variacao | gerada | validacao | teste | propria | opiniao
    wording: str = "livre"  # o ruído, nas geradas
    kind: str = ""
    difficulty: str = ""


@dataclass
class Rejected:
    """Uma linha recusada: de onde veio, o conteúdo e por quê."""

    where: str
    question: str
    sql: str
    reason: str


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Prepara os bancos, as perguntas e as divisões do mini-projeto."
    )
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="refaz mesmo que já esteja pronto")
    args = parser.parse_intermixed_args(argv)
    config = config_from_args(args)

    fingerprint = _fingerprint(config)
    if not args.force and _is_current(config, fingerprint):
        print(f"Os dados já estão prontos em {config.data_dir}")
        return 0
    databases = prepare_databases(config)
    try:
        splits, rejected = build_splits(config, databases)
    finally:
        for bank in databases:
            bank.close()
    write_outputs(config, splits, rejected, fingerprint)
    return 0


def prepare_databases(config: Config) -> list[Database]:
    """Gera as lojas (ou abre o banco do usuário) e devolve os bancos abertos."""
    if config.database.custom is None:
        for seed, path in zip(config.database.seeds, config.databases, strict=True):
            create_shop(path, seed)
            print(f"Loja da semente {seed}: {path}")
    try:
        return [Database(path, config.database.time_limit_s) for path in config.databases]
    except DatabaseError as error:
        raise UserError(str(error)) from error


def build_splits(
    config: Config, databases: list[Database]
) -> tuple[dict[str, list[Row]], list[Rejected]]:
    """Monta as divisões; nada some sem um registro em `rejected`."""
    rejected: list[Rejected] = []
    if config.data.custom is not None:
        return _custom_splits(config, databases, rejected), rejected
    test = _checked(read_questions(TEST, "teste", rejected), databases, rejected, "teste")
    validation = _checked(
        read_questions(VALIDATION, "validacao", rejected), databases, rejected, "validação"
    )
    written = read_questions(CURATED, "curada", rejected) + _feedback(config, rejected)
    curated = _checked(written, databases, rejected, "escritas à mão")
    # A ordem decide quem fica com um molde repetido: primeiro o teste, depois a validação.
    seen: dict[str, str] = {}
    test = _drop_duplicates(test, seen, rejected)
    validation = _drop_duplicates(validation, seen, rejected)
    curated = _drop_duplicates(curated, seen, rejected)
    curated = _drop_near_duplicates(curated, test + validation, rejected)
    generated = _generated(config, databases, seen, rejected)
    generated = _drop_near_duplicates(generated, test + validation, rejected)
    rng = random.Random(config.data.seed)
    written = {skeleton(row.sql) for row in curated}
    parts = _split_by_skeleton(generated, [GENERATED_HELD_OUT] * 2, rng, written)
    generated_train, generated_validation, generated_test = parts
    rng.shuffle(curated)
    varied = _variations(config, databases, curated, rejected)
    varied = _drop_near_duplicates(varied, test + validation, rejected)
    return {
        "treino": curated + varied + generated_train,
        "validacao": validation,
        "validacao_gerada": generated_validation,
        "teste": test,
        "teste_gerado": generated_test,
    }, rejected


def _feedback(config: Config, rejected: list[Rejected]) -> list[Row]:
    """As opiniões dadas na página, se há; as ruins sem correção vão para `rejected`."""
    if config.data.feedback is None:
        return []
    return read_questions(resolve(config.data.feedback), "opiniao", rejected)


def _custom_splits(config: Config, databases: list[Database], rejected: list[Rejected]) -> dict:
    rows = read_questions(resolve(config.data.custom), "propria", rejected)
    rows += _feedback(config, rejected)
    rows = _drop_duplicates(_checked(rows, databases, rejected, "próprias"), {}, rejected)
    rng = random.Random(config.data.seed)
    train, validation, test = _split_by_skeleton(rows, [CUSTOM_HELD_OUT, CUSTOM_HELD_OUT], rng)
    parts = {"treino": train, "validação": validation, "teste": test}
    empty = [name for name, part in parts.items() if not part]
    if empty:
        path = write_rejected(config, rejected)
        raise UserError(
            f"{config.data.custom} tem {len(rows)} perguntas aproveitáveis, poucas para dividir: "
            f"ficou vazio: {', '.join(empty)}. Acrescente perguntas com formas de SQL variadas. "
            f"As {len(rejected)} recusadas estão, com o motivo, em {path}."
        )
    return {"treino": train, "validacao": validation, "teste": test}


def read_questions(path: Path, source: str, rejected: list[Rejected]) -> list[Row]:
    """Lê CSV ou JSONL com `question` e `sql`; linhas ruins vão para `rejected`, com o número.

    Raises:
        UserError: arquivo ausente, em formato desconhecido ou sem as colunas.
    """
    if not path.is_file():
        raise UserError(f"arquivo de perguntas não encontrado: {path}.")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".csv":
        records = _csv_records(path, text)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        records = _jsonl_records(text)
    else:
        raise UserError(f"{path}: formato desconhecido; use .csv ou .jsonl.")
    rows = []
    for line, record, problem in records:
        question, sql = (record or {}).get("question"), (record or {}).get("sql")
        if problem is None and not (isinstance(question, str) and isinstance(sql, str)):
            problem = "faltam os campos de texto `question` e `sql`"
        elif problem is None and not (question.strip() and sql.strip()):
            problem = "`question` ou `sql` em branco"
        elif problem is None and "\ufffd" in question + sql:
            problem = "a linha não está em UTF-8"
        elif problem is None and _printable(question + sql) != question + sql:
            problem = "texto com caractere inválido (meio par Unicode)"
        if problem:
            shown = json.dumps(record, ensure_ascii=False) if record is not None else ""
            texts = _printable(str(question or shown)), _printable(str(sql or ""))
            rejected.append(Rejected(f"{path.name}:{line}", *texts, problem))
            continue
        clean = sql.strip().rstrip(";").strip()
        rows.append(Row(f"{source}-{line:05}", question.strip(), clean, source))
    return rows


def _printable(text: str) -> str:
    """Troca por `?` o que o UTF-8 não sabe gravar (JSON aceita meio par: `"\\ud800"`)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _csv_records(path: Path, text: str):
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = {"question", "sql"} - set(reader.fieldnames or [])
    except csv.Error as error:
        raise UserError(f"{path}: a primeira linha não é CSV ({error}).") from error
    if missing:
        raise UserError(
            f"{path}: falta a coluna {' e '.join(sorted(missing))} na primeira linha; "
            "o CSV precisa de question,sql."
        )
    while True:
        first = reader.reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = reader.reader.line_num
            span = f"das linhas {first} a {last}, " if last > first else ""
            yield first, None, f"não é CSV: {span}{error} (aspas sem par?)"
            continue
        extra = "campos demais (aspas faltando?)" if None in record else None
        yield reader.line_num, {k: v for k, v in record.items() if k is not None}, extra


def _jsonl_records(text: str):
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, None, f"não é JSON ({getattr(error, 'msg', error)}): {line[:200]}"
            continue
        if not isinstance(record, dict):
            yield number, None, f"esperava um objeto JSON: {line[:200]}"
            continue
        yield number, record, None


def _checked(
    rows: list[Row], databases: list[Database], rejected: list[Rejected], label: str
) -> list[Row]:
    """Executa cada SQL em todos os bancos e preenche tipo e dificuldade."""
    kept = []
    for row in tqdm(rows, desc=f"Conferindo: {label}", unit="pergunta", file=sys.stdout):
        problem = reference_problem(row.sql, databases)
        if problem:
            rejected.append(Rejected(row.id, row.question, row.sql, problem))
        else:
            kept.append(_with_features(row))
    return kept


def _with_features(row: Row) -> Row:
    row.kind, row.difficulty = kind(row.sql), difficulty(row.sql)
    return row


def _drop_duplicates(
    rows: list[Row], seen: dict[str, str], rejected: list[Rejected]
) -> list[Row]:
    kept = []
    for row in rows:
        key = mask(row.question)
        if key in seen:
            reason = f"mesmo molde de {seen[key]}"
            rejected.append(Rejected(row.id, row.question, row.sql, reason))
            continue
        seen[key] = row.id
        kept.append(row)
    return kept


def _drop_near_duplicates(
    rows: list[Row], held_out: list[Row], rejected: list[Rejected]
) -> list[Row]:
    """Tira o que usa quase as mesmas palavras de uma pergunta reservada (Jaccard dos moldes)."""
    reserved = [(set(mask(row.question).split()), row.id) for row in held_out]
    kept = []
    for row in rows:
        words = set(mask(row.question).split())
        similar = (id_ for other, id_ in reserved if _jaccard(words, other) >= NEAR_DUPLICATE)
        twin = next(similar, None)
        if twin:
            rejected.append(Rejected(row.id, row.question, row.sql, f"quase igual a {twin}"))
        else:
            kept.append(row)
    return kept


def _jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right)


def _generated(
    config: Config, databases: list[Database], seen: dict[str, str], rejected: list[Rejected]
) -> list[Row]:
    wanted = config.data.generated
    rows: list[Row] = []
    stream = generate(config.data.seed)
    bar = tqdm(total=wanted, desc="Gerando e conferindo", unit="par", file=sys.stdout)
    for attempt in range(wanted * MAX_ATTEMPTS_PER_PAIR):
        if len(rows) == wanted:
            break
        pair = next(stream)
        row = Row(f"gerada-{attempt:05}", pair.question, pair.sql, "gerada", pair.noise)
        key = mask(row.question)
        if key in seen:
            rejected.append(Rejected(row.id, row.question, row.sql, f"mesmo molde de {seen[key]}"))
            continue
        problem = reference_problem(row.sql, databases)
        if problem:
            rejected.append(Rejected(row.id, row.question, row.sql, problem))
            continue
        seen[key] = row.id
        rows.append(_with_features(row))
        bar.update()
    bar.close()
    return rows


def _variations(
    config: Config, databases: list[Database], rows: list[Row], rejected: list[Rejected]
) -> list[Row]:
    """`data.variations` versões de cada pergunta, com outros valores, conferidas por execução."""
    rng = random.Random(config.data.seed + 1)
    varied: list[Row] = []
    originals = [(row, turn) for turn in range(config.data.variations) for row in rows]
    for row, turn in tqdm(originals, desc="Variando valores", unit="pergunta", file=sys.stdout):
        for attempt in range(MAX_ATTEMPTS_PER_PAIR):
            question, sql, noise = vary(row.question, row.sql, rng)
            name = f"{row.id}-v{turn + 1}"
            problem = None if sql == row.sql else reference_problem(sql, databases)
            if problem is None:
                new = Row(name, question, sql, VARIATION, noise)
                varied.append(_with_features(new))
                break
            rejected.append(Rejected(f"{name}, tentativa {attempt + 1}", question, sql, problem))
    return varied


def _split_by_skeleton(
    rows: list[Row],
    fractions: list[float],
    rng: random.Random,
    taken: set[str] = frozenset(),
) -> list[list[Row]]:
    """Divide sem repartir um esqueleto de SQL entre as partes; a primeira parte é o que sobra.

    Os esqueletos em `taken` já ocorrem no treino e ficam nele.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(skeleton(row.sql), []).append(row)
    names = sorted(groups)
    rng.shuffle(names)
    parts: list[list[Row]] = [[] for _ in fractions]
    rest: list[Row] = []
    for name in names:
        for part, fraction in zip(parts, fractions, strict=True):
            # Um esqueleto muito comum fica no treino: fora dele, seria metade do teste.
            fits = len(groups[name]) <= max(1, fraction * len(rows) / 4) and name not in taken
            if fits and len(part) + len(groups[name]) <= fraction * len(rows):
                part.extend(groups[name])
                break
        else:
            rest.extend(groups[name])
    rng.shuffle(rest)
    return [rest, *parts]


def write_outputs(
    config: Config, splits: dict[str, list[Row]], rejected: list[Rejected], fingerprint: str
) -> None:
    """Grava divisões, rejeitados e relatório; o JSON do relatório, por último, marca o fim."""
    for name, rows in splits.items():
        lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
        write_atomic(config.data_dir / f"{name}.jsonl", "\n".join(lines) + "\n")
    write_rejected(config, rejected)
    save_effective(config, config.data_dir)
    report = build_report(config, splits, rejected)
    report["impressao_digital"] = fingerprint
    write_atomic(config.data_dir / "relatorio.md", report_markdown(report))
    write_atomic(
        config.data_dir / "relatorio.json", json.dumps(report, ensure_ascii=False, indent=2)
    )
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    print(f"Perguntas: {counts}; rejeitadas: {len(rejected)} (motivos em rejeitados.jsonl).")
    print(f"Relatório: {config.data_dir / 'relatorio.md'}")


def write_rejected(config: Config, rejected: list[Rejected]) -> Path:
    """Grava `rejeitados.jsonl` e devolve o caminho."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) for item in rejected]
    path = config.data_dir / "rejeitados.jsonl"
    write_atomic(path, "".join(line + "\n" for line in lines))
    return path


def build_report(config: Config, splits: dict[str, list[Row]], rejected: list[Rejected]) -> dict:
    """Contagens, tamanhos em tokens, rejeições, sobreposição e hashes das divisões."""
    report: dict = {"divisoes": {}, "sobreposicao": {}, "rejeitadas": {}}
    lengths = _token_lengths(config, splits)
    for name, rows in splits.items():
        path = config.data_dir / f"{name}.jsonl"
        report["divisoes"][name] = {
            "perguntas": len(rows),
            "por_fonte": dict(Counter(r.source for r in rows).most_common()),
            "por_tipo": dict(Counter(r.kind for r in rows).most_common()),
            "por_dificuldade": dict(Counter(r.difficulty for r in rows).most_common()),
            "por_redacao": dict(Counter(r.wording for r in rows).most_common()),
            "esqueletos": len({skeleton(r.sql) for r in rows}),
            "tabelas_por_consulta": dict(sorted(Counter(len(tables(r.sql)) for r in rows).items())),
            "tokens": lengths.get(name),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    train = splits["treino"]
    questions = {plain(r.question) for r in train}
    moulds = {mask(r.question) for r in train}
    skeletons = {skeleton(r.sql) for r in train}
    for name, rows in splits.items():
        if name != "treino":
            report["sobreposicao"][name] = {
                "perguntas_iguais": sum(plain(r.question) in questions for r in rows),
                "mesmo_molde": sum(mask(r.question) in moulds for r in rows),
                "mesmo_esqueleto_sql": sum(skeleton(r.sql) in skeletons for r in rows),
            }
    reasons = Counter(
        "mesmo molde de outra" if r.reason.startswith("mesmo molde")
        else "quase igual a uma reservada" if r.reason.startswith("quase igual")
        else "SQL inválido" if r.reason.startswith("SQL inválido")
        else r.reason
        for r in rejected
    )  # fmt: skip
    report["rejeitadas"] = dict(reasons.most_common())
    return report


def _token_lengths(config: Config, splits: dict[str, list[Row]]) -> dict[str, dict]:
    """Mediana, percentil 95 e máximo de tokens de pergunta e SQL, se o tokenizador existir."""
    if not Path(config.model_path).is_dir():
        return {}
    from tokenizers import Tokenizer

    path = Path(config.model_path) / "tokenizer.json"
    if not path.is_file():
        return {}
    tokenizer = Tokenizer.from_file(str(path))
    result = {}
    for name, rows in splits.items():
        result[name] = {}
        for field in ("question", "sql"):
            texts = [getattr(r, field) for r in rows]
            sizes = sorted(len(e.ids) for e in tokenizer.encode_batch(texts))
            if sizes:
                at95 = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
                result[name][field] = {
                    "mediana": sizes[len(sizes) // 2], "p95": at95, "maximo": sizes[-1]
                }  # fmt: skip
    return result


def report_markdown(report: dict) -> str:
    """O relatório em Markdown, para gente ler."""
    lines = ["# Relatório dos dados", ""]
    lines += [
        "| divisão | perguntas | fontes | esqueletos | SQL em tokens (mediana / p95) |",
        "|---|---|---|---|---|",
    ]
    for name, part in report["divisoes"].items():
        sources = ", ".join(f"{k} {v}" for k, v in part["por_fonte"].items())
        size = (part["tokens"] or {}).get("sql")
        shown = f"{size['mediana']} / {size['p95']}" if size else "–"
        cells = [name, str(part["perguntas"]), sources, str(part["esqueletos"]), shown]
        lines.append(f"| {' | '.join(cells)} |")
    for title, key in (("tipo", "por_tipo"), ("dificuldade", "por_dificuldade")):
        names = list(report["divisoes"])
        lines += ["", f"## Por {title}", "", f"| {title} | " + " | ".join(names) + " |",
                  "|---|" + "---|" * len(names)]  # fmt: skip
        labels = sorted({k for p in report["divisoes"].values() for k in p[key]})
        for label in labels:
            cells = [str(report["divisoes"][n][key].get(label, 0)) for n in names]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "## O que as outras divisões têm em comum com o treino", "",
              "| divisão | perguntas iguais | mesmo molde | mesmo esqueleto de SQL |",
              "|---|---|---|---|"]  # fmt: skip
    for name, part in report["sobreposicao"].items():
        lines.append(f"| {name} | {part['perguntas_iguais']} | {part['mesmo_molde']} "
                     f"| {part['mesmo_esqueleto_sql']} |")  # fmt: skip
    lines += ["", "## Rejeitadas", "", "| motivo | linhas |", "|---|---|"]
    lines += [f"| {reason} | {count} |" for reason, count in report["rejeitadas"].items()]
    lines += ["", "## Arquivos (SHA-256)", ""]
    lines += [f"- `{n}.jsonl`: `{p['sha256']}`" for n, p in report["divisoes"].items()]
    return "\n".join(lines) + "\n"


def _fingerprint(config: Config) -> str:
    """Muda quando mudam a configuração dos dados, as perguntas ou o código que os faz."""
    digest = hashlib.sha256()
    digest.update(json.dumps([config.data.model_dump(), config.database.model_dump()]).encode())
    sources = [CURATED, VALIDATION, TEST, *(Path(__file__).parent / name for name in MAKERS)]
    inputs = ("gramatica.yaml", "loja_catalogo.yaml", "loja_schema.sql")
    sources += [DATA_DIR / name for name in inputs]
    if config.data.feedback:
        sources.append(resolve(config.data.feedback))
    if config.data.custom:
        sources += [resolve(config.data.custom), resolve(config.database.custom)]
    for path in sources:
        digest.update(path.read_bytes() if path.is_file() else b"ausente")
    return digest.hexdigest()


def _is_current(config: Config, fingerprint: str) -> bool:
    path = config.data_dir / "relatorio.json"
    if not path.is_file() or not all(p.is_file() for p in config.databases):
        return False
    report = json.loads(path.read_text(encoding="utf-8"))
    splits = [config.data_dir / f"{name}.jsonl" for name in report["divisoes"]]
    return report.get("impressao_digital") == fingerprint and all(p.is_file() for p in splits)


def load_split(config: Config, name: str) -> list[dict]:
    """Lê uma divisão gravada por este script."""
    path = config.data_dir / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} não existe. Prepare os dados antes: python data_prep.py")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(run_main(main))
