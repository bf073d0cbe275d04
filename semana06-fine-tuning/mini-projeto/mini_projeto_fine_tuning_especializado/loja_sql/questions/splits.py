"""As divisões: montá-las sem que nada do teste vaze para o treino, e lê-las.

As perguntas do teste e da validação foram escritas à parte, em palavras livres, e nenhum molde
delas aparece no treino. As geradas se dividem por esqueleto de SQL: as formas de consulta de
`generated_test` não ocorrem no treino.
"""

import random

from comum import labels
from comum.files import read_jsonl
from comum.terminal import UserError

from loja_sql.config import Config, resolve
from loja_sql.questions.reading import Row, read_questions
from loja_sql.questions.sieve import Sieve
from loja_sql.shop import DATA_DIR
from loja_sql.sql.features import skeleton

WRITTEN = DATA_DIR / "perguntas_curadas.jsonl"
VALIDATION = DATA_DIR / "perguntas_validacao.jsonl"
TEST = DATA_DIR / "perguntas_teste.jsonl"
SPLITS = ("train", "validation", "generated_validation", "test", "generated_test")
NAMES = labels.SPLITS | {
    "generated_validation": "validação gerada",
    "generated_test": "teste gerado",
}
GENERATED_HELD_OUT = 0.1  # fração das geradas na validação e no teste de esqueletos inéditos
OWN_HELD_OUT = 0.15

Splits = dict[str, list[Row]]


def load_split(config: Config, name: str) -> list[dict]:
    """Lê uma divisão gravada por data_prep.py, com as chaves de `Row`.

    Raises:
        UserError: ela ainda não foi gravada.
    """
    path = config.data_dir / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} não existe. Prepare os dados antes: python data_prep.py")
    return read_jsonl(path)


def training_rows(config: Config) -> list[dict]:
    """As perguntas do treino: as escritas à mão, as variações delas e as geradas, embaralhadas.

    Raises:
        UserError: a configuração não deixa nenhuma.
    """
    rows = load_split(config, "train")
    generated = [r for r in rows if r["source"] == "generated"]
    written = [r for r in rows if r["source"] not in ("generated", "variation")]
    written = written[: config.data.curated_in_training]
    names = {r["id"] for r in written}
    varied = [r for r in rows if r["source"] == "variation" and r["id"].rsplit("-v")[0] in names]
    chosen = written + varied + generated[: config.data.generated_in_training]
    random.Random(config.training.seed).shuffle(chosen)
    if not chosen:
        keys = "data.curated_in_training ou data.generated_in_training"
        raise UserError(f"nenhum exemplo de treino: aumente {keys}.")
    return chosen


def shop_splits(config: Config, sieve: Sieve) -> Splits:
    """As divisões da loja, na ordem de `SPLITS`."""
    test = sieve.checked(read_questions(TEST, "test", sieve.rejected), "teste")
    validation = read_questions(VALIDATION, "validation", sieve.rejected)
    validation = sieve.checked(validation, "validação")
    written = read_questions(WRITTEN, "written", sieve.rejected) + _feedback(config, sieve)
    written = sieve.checked(written, "escritas à mão")
    # A ordem decide quem fica com um molde repetido: primeiro o teste, depois a validação.
    test, validation = sieve.unseen(test), sieve.unseen(validation)
    reserved = test + validation
    written = sieve.apart(sieve.unseen(written), reserved)
    generated = sieve.apart(sieve.generated(config.data.generated, config.data.seed), reserved)
    rng = random.Random(config.data.seed)
    taken = {skeleton(row.sql) for row in written}
    kept, *held_out = split_by_skeleton(generated, [GENERATED_HELD_OUT] * 2, rng, taken)
    rng.shuffle(written)
    varied = sieve.varied(written, config.data.variations, random.Random(config.data.seed + 1))
    train = written + sieve.apart(varied, reserved) + kept
    parts = (train, validation, held_out[0], test, held_out[1])
    return dict(zip(SPLITS, parts, strict=True))


def own_splits(config: Config, sieve: Sieve) -> Splits:
    """As divisões das perguntas do usuário; alguma pode ficar vazia, se são poucas."""
    rows = read_questions(resolve(config.data.custom), "own", sieve.rejected)
    rows = sieve.unseen(sieve.checked(rows + _feedback(config, sieve), "próprias"))
    rng = random.Random(config.data.seed)
    parts = split_by_skeleton(rows, [OWN_HELD_OUT] * 2, rng)
    return dict(zip(("train", "validation", "test"), parts, strict=True))


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
