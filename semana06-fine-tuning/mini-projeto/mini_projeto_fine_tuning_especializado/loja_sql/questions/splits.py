"""As divisões: montá-las sem que nada do teste vaze para o treino, e lê-las.

As perguntas dos testes e da validação, com ou sem resposta no banco, foram escritas à parte, em
palavras livres, e nenhum molde delas aparece no treino. As geradas se dividem por esqueleto de SQL:
as formas de consulta de `generated_test` não ocorrem nas geradas do treino nem nas escritas à mão
(ocorrem, algumas, nas variações e recombinações destas).
"""

import random
import re
from pathlib import Path

from comum import labels
from comum.files import read_jsonl
from comum.terminal import UserError

from loja_sql.config import SPLITS, Config, resolve
from loja_sql.prompt import DECLINE
from loja_sql.questions.linking import column_values
from loja_sql.questions.noise import misspelt, noised
from loja_sql.questions.reading import Row, read_questions
from loja_sql.questions.sieve import Sieve
from loja_sql.questions.slots import wording
from loja_sql.shop import DATA_DIR
from loja_sql.sql.features import shape

# Os arquivos escritos à mão, pela fonte que as linhas de cada um levam.
WRITTEN = {
    "written": DATA_DIR / "perguntas_curadas.jsonl",
    "contrast": DATA_DIR / "perguntas_contraste.jsonl",
    "near": DATA_DIR / "perguntas_respondiveis_proximas.jsonl",
}
UNANSWERABLE = {"unanswerable": DATA_DIR / "perguntas_sem_resposta.jsonl"}
VALIDATION = {
    "validation": DATA_DIR / "perguntas_validacao.jsonl",
    "validation_unanswerable": DATA_DIR / "perguntas_sem_resposta_validacao.jsonl",
}
TEST = {"test": DATA_DIR / "perguntas_teste.jsonl"}
TEST_2 = {"test_2": DATA_DIR / "perguntas_teste_2.jsonl"}
TEST_3 = {"test_3": DATA_DIR / "perguntas_teste_3.jsonl"}
NAMES = labels.SPLITS | {
    "test_typos": "teste com erros",
    "test_2": "teste 2",
    "test_3": "teste 3",
    "generated_validation": "validação gerada",
    "generated_test": "teste gerado",
}
MADE = ("variation", "recombination")  # do que se fez de uma pergunta escrita, que vai junto
GENERATED_HELD_OUT = 0.1  # fração das geradas na validação e no teste delas
OWN_HELD_OUT = 0.15

NEEDED = ("id", "question", "sql", "source", "kind", "difficulty")

Splits = dict[str, list[Row]]


def load_split(config: Config, name: str) -> list[dict]:
    """Lê uma divisão gravada por data_prep.py, com as chaves de `Row`.

    Raises:
        UserError: ela ainda não foi gravada, está vazia ou não foi data_prep.py que a gravou; ou
            os dados são próprios, e não a têm.
    """
    path = config.data_dir / f"{name}.jsonl"
    if config.data.custom is not None and name not in labels.SPLITS:
        raise UserError(f"só as perguntas da loja têm {name}; as suas, {', '.join(labels.SPLITS)}.")
    if not path.is_file():
        raise UserError(f"{path} não existe. Prepare os dados antes: python data_prep.py")
    rows = read_jsonl(path)
    if not rows or not all(isinstance(row.get(key), str) for row in rows for key in NEEDED):
        again = "Refaça os dados: python data_prep.py --force (e os mesmos argumentos)"
        raise UserError(f"{path} está vazio ou estragado. {again}")
    return rows


def training_rows(config: Config) -> list[dict]:
    """As perguntas do treino, embaralhadas: escritas, variações delas, sem resposta e geradas.

    Raises:
        UserError: a configuração não deixa nenhuma.
    """
    rows = load_split(config, "train")
    generated = [r for r in rows if r["source"] == "generated"]
    unanswerable = [r for r in rows if r["sql"] == DECLINE]
    unanswerable = unanswerable[: config.data.unanswerable_in_training]
    written = [r for r in rows if r["source"] not in ("generated", *MADE)]
    written = [r for r in written if r["sql"] != DECLINE][: config.data.curated_in_training]
    names = {r["id"] for r in written}
    made = [r for r in rows if r["source"] in MADE and r["id"].rpartition("-")[0] in names]
    unanswerable *= config.data.unanswerable_repeats
    chosen = written + made + unanswerable + generated[: config.data.generated_in_training]
    random.Random(config.training.seed).shuffle(chosen)
    if not chosen:
        keys = "data.curated_in_training ou data.generated_in_training"
        raise UserError(f"nenhum exemplo de treino: aumente {keys}.")
    return chosen


def shop_splits(config: Config, sieve: Sieve) -> Splits:
    """As divisões da loja, na ordem de `SPLITS`."""
    # A ordem decide quem fica com um molde repetido: primeiro os testes, depois a validação.
    test = sieve.unseen(_read(TEST, sieve, "teste"))
    test_2 = sieve.unseen(_read(TEST_2, sieve, "teste 2"))
    test_3 = sieve.unseen(_read(TEST_3, sieve, "teste 3"))
    validation = sieve.unseen(_read(VALIDATION, sieve, "validação"))
    reserved = test + test_2 + test_3 + validation
    rows = _read(WRITTEN, sieve, "escritas à mão", config.data.curated)
    rows += _read(UNANSWERABLE, sieve, "sem resposta")
    rows += sieve.checked(_feedback(config, sieve), "opiniões")
    rows = sieve.apart(sieve.unseen(rows), reserved)
    written = [row for row in rows if row.answerable]
    unanswerable = [row for row in rows if not row.answerable]
    rng = random.Random(config.data.seed)
    generated = sieve.apart(sieve.generated(config.data.generated, config.data.seed), reserved)
    generated = noised(generated, random.Random(config.data.seed + 2))
    taken = {shape(row.sql).skeleton for row in written}
    kept, *held_out = split_by_skeleton(generated, [GENERATED_HELD_OUT] * 2, rng, taken)
    # O começo de cada arquivo, que um treino curto usa sozinho, tem de tudo.
    for rows in (written, unanswerable, validation):
        rng.shuffle(rows)
    made = random.Random(config.data.seed + 1)
    new = sieve.varied(written, config.data.variations, made)
    new += sieve.recombined(written, config.data.recombined, made)
    clean = written + unanswerable + sieve.apart(new, reserved)
    train = sieve.apart(noised(clean, made) + kept, reserved)
    tests = (test, misspelt(test), test_2, test_3, held_out[1])
    parts = (train, validation, held_out[0], *tests)
    return dict(zip(SPLITS, parts, strict=True))


def _read(files: dict[str, Path], sieve: Sieve, label: str, limit: int | None = None) -> list[Row]:
    """As linhas dos arquivos que servem; nos dos testes, uma pergunta pode ter várias leituras.

    Conferir é o que demora: com `limit`, só tantas, sorteadas.
    """
    rows = []
    for source, path in files.items():
        graded = source.startswith(("test", "validation"))
        rows += read_questions(path, source, sieve.rejected, readings=graded)
    if limit is not None and limit < len(rows):
        rows = random.Random(limit).sample(rows, limit)
    return sieve.checked(rows, label)


def own_splits(config: Config, sieve: Sieve) -> Splits:
    """As divisões das perguntas do usuário; alguma pode ficar vazia, se são poucas."""
    rows = read_questions(resolve(config.data.custom), "own", sieve.rejected)
    rows = sieve.unseen(sieve.checked(rows + _feedback(config, sieve), "próprias"))
    rng = random.Random(config.data.seed)
    train, *held_out = split_by_skeleton(rows, [OWN_HELD_OUT] * 2, rng)
    if all(held_out) and (versions := config.data.variations):
        values = column_values(config.databases[0])
        answerable = [row for row in train if row.answerable]
        train += sieve.varied_own(answerable, versions, rng, values)
    return dict(zip(labels.SPLITS, (train, *held_out), strict=True))


def _feedback(config: Config, sieve: Sieve) -> list[Row]:
    """As opiniões dadas na página, se há; as ruins sem correção ficam entre as recusadas."""
    if config.data.feedback is None:
        return []
    return read_questions(resolve(config.data.feedback), "feedback", sieve.rejected)


def split_by_skeleton(
    rows: list[Row], fractions: list[float], rng: random.Random, taken: set[str] = frozenset()
) -> list[list[Row]]:
    """Divide sem repartir um esqueleto de SQL entre as partes; a primeira parte é o que sobra.

    Os esqueletos em `taken` já ocorrem no treino e ficam nele.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        # Das sem resposta não há SQL que vaze: o que têm em comum são as palavras.
        words = re.sub(r"\d+", "", wording(row.question))
        groups.setdefault(shape(row.sql).skeleton if row.answerable else words, []).append(row)
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
