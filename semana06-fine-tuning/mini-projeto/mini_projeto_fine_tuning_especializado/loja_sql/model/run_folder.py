"""A pasta de um treino: de quem ela é, os checkpoints, a entrega.

checkpoint-N/      um checkpoint inteiro; o run.json diz de que treino e o SHA-256 dos arquivos
unfinished/        o que o treino em andamento ainda grava
ready/             um treino acabado, a caminho da pasta
anterior-DATA/     checkpoints que não são do treino que começou depois deles
o resto            o último treino acabado, inteiro: pesos, configuração, figuras e run.json
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from comum import models, training
from comum.files import sha256, write_json
from comum.numbers import megabytes
from comum.results import Shape, library_versions
from comum.terminal import UserError, reason

from filelock import FileLock, Timeout
from pydantic import Field
from safetensors import SafetensorError
from transformers.trainer_utils import rotate_checkpoints

from loja_sql import prompt
from loja_sql.config import Config, trained_kind
from loja_sql.model import fused, loading, tokens
from loja_sql.model.summary import WORK
from loja_sql.questions import linking

RUN, READY = "run.json", "ready"
KEPT = 2  # checkpoints: o mais novo e o melhor
MARKERS = ("adapter_config.json", "config.json")  # sem eles, ninguém toma a pasta por um treino
PLACES = {"training.output_dir", "training.tracking"}  # não mudam o que se aprende
LENGTH = {"training.max_steps", "training.epochs"}  # um treino que se continua pode ir mais longe
CODE = (prompt, linking, loading, tokens, fused, models, training)
LOCK = ".lock"
ELSEWHERE = "escolha outra pasta com training.output_dir=…"


class Run(Shape):
    """Um treino: `identity` é o que, mudado, faria dele outro; `steps`, os passos a dar ao todo.

    Num checkpoint há também os segundos até ele, se era o último, e o SHA-256 de cada arquivo.
    """

    started: str
    identity: dict[str, str | int | float | bool | list[str] | None]
    steps: int = 0
    seconds: float = 0.0
    finished: bool = False
    files: dict[str, str] = Field(default_factory=dict)


def new_run(config: Config, rows: list[dict], validation: list[dict], processes: int) -> Run:
    """O treino que esta configuração, estes dados, este código e estas versões fazem."""
    sections = config.model_dump(include={"model", "prompt", "lora", "training"})
    identity = {
        f"{name}.{key}": value for name, part in sections.items() for key, value in part.items()
    }
    identity = {key: value for key, value in identity.items() if key not in PLACES}
    identity["training.precision"] = str(loading.precision(config))
    for name, found in (("os dados de treino", rows), ("os dados de validação", validation)):
        text = json.dumps(found, ensure_ascii=False, sort_keys=True)
        identity[name] = f"{len(found)} linhas, {_short(text.encode())}"
    sources = [Path(__file__).with_name("trainer.py"), *(Path(module.__file__) for module in CODE)]
    identity["o código"] = _short(b"".join(path.read_bytes() for path in sources))
    base = Path(config.model_path)
    found = sorted(base.glob("*")) if base.is_dir() else []
    weights = [p for p in found if p.suffix in (".json", ".jinja", ".safetensors")]
    identity |= {"o modelo base": _sampled(weights), "o banco": _sampled(config.databases[:1])}
    identity |= {"processos": processes, **library_versions()}
    steps = total_steps(config, len(rows), processes)
    return Run(started=datetime.now().astimezone().isoformat(), identity=identity, steps=steps)


def total_steps(config: Config, examples: int, processes: int) -> int:
    """Os passos do otimizador: `training.max_steps` ou, sem ele, os de `training.epochs`."""
    plan = config.training
    per_step = plan.batch_size * plan.gradient_accumulation_steps * processes
    return plan.max_steps or math.ceil(math.ceil(examples / per_step) * plan.epochs)


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _sampled(files: list[Path]) -> str | None:
    """O tamanho e 64 amostras de cada arquivo: ler 500 MB levaria segundos."""
    parts = []
    for path in files:
        size = path.stat().st_size
        parts.append(f"{path.name} {size}".encode())
        with path.open("rb") as stream:
            for place in range(0, size, max(1 << 12, size // 64)):
                stream.seek(place)
                parts.append(stream.read(1 << 12))
    return _short(b"".join(parts)) if parts else None


def differences(then: Run, now: Run) -> str:
    """O que distingue dois treinos, chave a chave; vazio se são o mesmo."""
    keys = _changed(then, now)
    shown = ((key, _shown(then.identity.get(key)), _shown(now.identity.get(key))) for key in keys)
    return "; ".join(f"{key} era {old} e agora é {new}" for key, old, new in shown)


def continues(then: Run, now: Run) -> bool:
    """Diz se `now` é o treino `then`, ou o mesmo com mais passos."""
    return LENGTH.issuperset(_changed(then, now)) and now.steps >= then.steps


def _changed(then: Run, now: Run) -> list[str]:
    keys = {**then.identity, **now.identity}
    return [key for key in keys if then.identity.get(key) != now.identity.get(key)]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_run(folder: Path) -> Run | None:
    """O treino de que é uma pasta; None se ela não o diz."""
    try:
        return Run.load(folder / RUN)
    except UserError:
        return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Cria a pasta e a guarda para este processo; o sistema solta a trava de quem morre.

    Raises:
        UserError: outro programa a usa, ou não se pode gravar nela.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"outro programa usa {folder}. Espere que acabe, ou {ELSEWHERE}") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(folder: Path, weights: int) -> Iterator[None]:
    """Confere antes se cabe na pasta um treino que aprende `weights` bytes, e o que se gravar nela.

    Raises:
        UserError: falta espaço, ou um arquivo não se grava.
    """
    checkpoint = 3 * weights  # os pesos e as duas médias do Adam
    free, missing = shutil.disk_usage(folder).free, max(1, KEPT + 1 - len(checkpoints(folder)))
    if free < (needed := weights + missing * checkpoint):
        raise UserError(
            f"o disco de {folder} tem {megabytes(free)} livres, e este treino pode ocupar "
            f"{megabytes(needed)}. Libere espaço, ou {ELSEWHERE}"
        )
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error
    except (RuntimeError, SafetensorError) as error:
        # O torch e o safetensors não dizem que foi o disco.
        if shutil.disk_usage(folder).free < checkpoint:
            raise _unwritable(folder, OSError(errno.ENOSPC, "")) from error
        raise


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"não consigo gravar em {folder} ({reason(error)}). Confira o caminho, o espaço e as "
        f"permissões, ou {ELSEWHERE}"
    )


def begin(folder: Path, run: Run, resume: bool) -> tuple[Run, Path | None]:
    """O treino a fazer, e o checkpoint de onde parte; tira da frente os de outros treinos.

    O que se retoma pode ir mais longe do que ia, também depois de acabado. Se não há mais passos a
    dar no que a pasta traz acabado, devolve-o, sem checkpoint.

    Raises:
        UserError: não há o que retomar, ou o que há é de outro treino; um treino novo
            desprezaria este mesmo, interrompido.
    """
    kind, method = trained_kind(folder), run.identity["training.method"]
    if kind not in (None, method):
        raise UserError(
            f"{folder} tem um treino de outro método ({kind}, e agora é {method}); {ELSEWHERE}"
        )
    deliver(folder)
    run, checkpoint = _resumed(folder, run) if resume else (_anew(folder, run), None)
    if checkpoint or not run.finished:
        shutil.rmtree(folder / WORK, ignore_errors=True)
        write_json(folder / WORK / RUN, run.model_dump())
    return run, checkpoint


def _resumed(folder: Path, run: Run) -> tuple[Run, Path | None]:
    delivered = read_run(folder)
    farther = delivered and continues(delivered, run) and run.steps > delivered.steps
    for path in reversed(checkpoints(folder)):
        owner = read_run(path)
        done = owner and delivered and owner.started == delivered.started
        if done and not farther:
            break
        if not is_whole(path):
            _set_aside(folder, [path], "estragado, ou de outra versão deste programa")
        elif not continues(owner, run):
            raise UserError(
                f"{path} é de outro treino: {differences(owner, run)}. Para continuá-lo, desfaça a "
                "diferença; para começar este, tire o --resume (o outro fica guardado ao lado)."
            )
        else:
            _lengthen(folder, owner, run)
            return read_run(path), path
    if delivered is None:
        raise UserError(f"não há checkpoint em {folder} de onde continuar; rode sem --resume.")
    if farther or not continues(delivered, run):
        raise UserError(
            f"não há checkpoint deste treino em {folder}; o que está pronto nela é outro: "
            f"{differences(delivered, run)}. Para começar este, rode sem --resume."
        )
    return delivered, None


def _lengthen(folder: Path, owner: Run, run: Run) -> None:
    """Passa a `run`, que vai mais longe, os checkpoints de `owner`; nada, se são o mesmo treino."""
    if not _changed(owner, run):
        return
    farther = run.steps > owner.steps
    changes = run.model_dump(include={"started", "identity", "steps"})
    for path in reversed(checkpoints(folder)):
        found = read_run(path)
        if found and found.started == owner.started:
            finished = found.finished and not farther
            found = found.model_copy(update=changes | {"finished": finished})
            write_json(path / RUN, found.model_dump())
    if farther:
        print(
            f"O treino ia até o passo {owner.steps} e agora vai até o {run.steps}; daqui em diante "
            "o learning_rate segue a curva do novo total."
        )


def _anew(folder: Path, run: Run) -> Run:
    delivered = read_run(folder)
    owners = {path: read_run(path) for path in checkpoints(folder)}
    done = [p for p, r in owners.items() if r and delivered and r.started == delivered.started]
    left = [path for path in owners if path not in done]
    if any(owners[path] and not differences(owners[path], run) for path in left):
        raise UserError(
            f"{folder} tem este mesmo treino, interrompido. Continue-o com --resume; para começar "
            f"do zero, apague as pastas checkpoint-* dela, ou {ELSEWHERE}"
        )
    for path in done:  # o que ficou deles já foi entregue
        shutil.rmtree(path)
    if left:
        _set_aside(folder, left, "de outro treino")
    return run


def checkpoints(folder: Path) -> list[Path]:
    """Os checkpoints da pasta, do mais antigo ao mais novo."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def _set_aside(folder: Path, paths: list[Path], why: str) -> None:
    aside = folder / f"anterior-{datetime.now():%Y%m%d-%H%M%S}"
    aside.mkdir(exist_ok=True)
    for path in paths:
        os.replace(path, aside / path.name)
    print(f"{', '.join(path.name for path in paths)}: {why}; guardo em {aside}.")


def is_whole(checkpoint: Path) -> bool:
    """Diz se o que está no checkpoint é o que se gravou nele."""
    run = read_run(checkpoint)
    return run is not None and all(
        (checkpoint / name).is_file() and sha256(checkpoint / name) == digest
        for name, digest in run.files.items()
    )


def keep(checkpoint: Path, run: Run, best: Path) -> None:
    """Assina um checkpoint de `unfinished/` e o põe na pasta; saem os que passam de `KEPT`."""
    sign(checkpoint, run)
    folder = checkpoint.parents[1]
    os.replace(checkpoint, folder / checkpoint.name)
    rotate_checkpoints(str(folder), KEPT, str(best))


def hand_over(folder: Path, run: Run) -> None:
    """Dá por acabado o que está em `unfinished/` e o entrega."""
    sign(folder / WORK, run.model_copy(update={"finished": True}))
    os.replace(folder / WORK, folder / READY)
    deliver(folder)


def sign(folder: Path, run: Run) -> None:
    """Grava em `folder` de que treino são os arquivos dela, e o SHA-256 de cada um."""
    (folder / RUN).unlink(missing_ok=True)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    signed = run.model_copy(update={"files": {name: sha256(p) for name, p in files.items()}})
    write_json(folder / RUN, signed.model_dump())


def deliver(folder: Path) -> None:
    """Troca o treino da pasta pelo de `ready/`, se há; uma troca interrompida continua daqui.

    A marca do antigo sai primeiro e a do novo entra por último: no meio não há treino nenhum.

    Raises:
        UserError: um arquivo não se troca.
    """
    ready = folder / READY
    if not ready.is_dir():
        return
    order = sorted(ready.iterdir(), key=lambda p: (p.name == RUN, p.name in MARKERS))
    try:
        if run := read_run(ready):
            stale = {p for p in folder.glob("*.safetensors*") if p.name not in run.files}
            for path in stale | {folder / p.name for p in order if p.name in MARKERS}:
                path.unlink(missing_ok=True)
        for path in order:
            os.replace(path, folder / path.name)
        ready.rmdir()
    except OSError as error:
        raise _unwritable(folder, error) from error
