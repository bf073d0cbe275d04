"""train.py de ponta a ponta num Llama minúsculo: auditoria, saídas, retomada, acumulação."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import comum  # noqa: F401  (antes do torch)
from comum.files import sha256, write_json
from comum.models import load_tokenizer
from comum.terminal import UserError, run_main
from comum.training import similar_lengths

import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from safetensors.torch import load_file, save_file

import train
from loja_sql.config import PROJECT_DIR, load_config, load_effective, trained_kind
from loja_sql.model import callbacks, run_folder
from loja_sql.model.loading import load_model
from loja_sql.model.run_folder import checkpoints, is_whole, read_run
from loja_sql.model.summary import read_summary
from loja_sql.model.trainer import (
    POOL,
    AnswerTrainer,
    SimilarLengths,
    audit,
    needs_forward,
    tokenized,
)
from loja_sql.questions import linking


def weights(folder):
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def assert_same_weights(left, right, atol):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor - right[name]).abs().max().item() <= atol, name


def measured(folder, key):
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def assert_learned(config, folder):
    """A perda desceu, o que se recarrega é o treinado (no início, B = 0), e está em float32."""
    losses = measured(folder, "eval_loss")
    assert losses[-1] < losses[0]
    assert read_summary(folder).best_eval_loss == pytest.approx(min(losses))
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    plain, tuned = load_model(config), load_model(config, folder)
    ids = load_tokenizer(config.model_path)("quantos", return_tensors="pt").input_ids
    before, after = plain(ids).logits, tuned(ids).logits
    assert (before - after[..., : before.shape[-1]]).abs().max() > 1e-3
    return tuned


@pytest.fixture
def interrupted(trained, tmp_path):
    """Faz (args, pasta) só com os checkpoints dados de `trained`, como se ele tivesse morrido."""
    args, folder = trained
    killed = tmp_path / "morto"

    def die_after(*steps):
        for step in steps:
            shutil.copytree(folder / f"checkpoint-{step}", killed / f"checkpoint-{step}")
        return [*args, f"training.output_dir={killed}"], killed

    return die_after


def test_without_patience_the_last_step_is_kept_even_if_it_got_worse(project):
    args, folder = project
    worse = ["training.learning_rate=0.3", "training.lr_scheduler_type=constant_with_warmup"]
    assert train.main([*args, *worse, "training.early_stopping_patience=null"]) == 0
    losses, summary = measured(folder / "lora", "eval_loss"), read_summary(folder / "lora")
    assert losses[-1] > losses[0]
    assert (summary.best_step, summary.best_eval_loss) == (6, losses[-1])
    assert_same_weights(folder / "lora", folder / "lora" / "checkpoint-6", atol=0)


def test_training_writes_everything_and_learns(trained):
    args, folder = trained
    for name in (
        "adapter_model.safetensors",
        "effective_config.yaml",
        "metrics.jsonl",
        "curva.png",
        "training.json",
        "tokenizer.json",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert load_effective(folder).training.learning_rate == 1e-2
    summary = read_summary(folder)
    assert summary.steps == 6 and summary.method == "lora" and not summary.resumed
    # Uma época são 6 lotes de 4: todos os tokens, e nenhum preenchimento.
    config = load_config(None, args)
    rows = [json.loads(x) for x in (config.data_dir / "train.jsonl").read_text().splitlines()]
    examples = tokenized(config, load_tokenizer(str(folder)), rows, linking.context(config))
    assert summary.tokens_seen == sum(len(ids) for ids in examples["input_ids"])
    assert measured(folder, "step")[-1] == 6
    assert_learned(config, folder)


def test_resume_after_a_kill_takes_the_same_path(interrupted, trained):
    (args, killed), folder = interrupted(3), trained[1]
    with pytest.raises(UserError, match="este mesmo treino, interrompido"):
        train.main(args)
    assert train.main([*args, "--resume"]) == 0
    assert_same_weights(killed / "checkpoint-6", folder / "checkpoint-6", atol=1e-6)
    assert_same_weights(killed, folder, atol=1e-6)
    summary, whole = read_summary(killed), read_summary(folder)
    assert summary.resumed and summary.steps == 6
    assert (summary.tokens_seen, summary.best_step) == (whole.tokens_seen, whole.best_step)
    assert summary.minutes > read_run(folder / "checkpoint-3").seconds / 60, "os dois trechos"
    assert measured(killed, "step") == measured(folder, "step")


@pytest.mark.parametrize(
    ("steps", "longer", "total"),
    [
        ((3,), ("training.max_steps=null", "training.epochs=1.5"), 9),
        ((), ("training.max_steps=10",), 10),
    ],
    ids=["interrompido", "acabado"],
)
def test_a_training_goes_farther_on_the_curve_of_the_new_total(
    interrupted, copied, monkeypatch, capsys, steps, longer, total
):
    args, folder = interrupted(*steps) if steps else copied
    rates = []

    def note(self, args, state, control, optimizer, **kwargs):
        rates.append((state.global_step, optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(callbacks.Progress, "on_step_begin", note)
    assert train.main([*args, *longer, "--resume"]) == 0
    start = max(steps, default=6)
    assert f"ia até o passo 6 e agora vai até o {total}" in capsys.readouterr().out
    assert [step for step, _ in rates] == list(range(start, total))
    cosine = [1e-2 * (1 + math.cos(math.pi * (step - 1) / (total - 1))) / 2 for step, _ in rates]
    assert [rate for _, rate in rates] == pytest.approx(cosine)
    summary = read_summary(folder)
    assert summary.resumed and summary.steps == total == measured(folder, "step")[-1]
    recipe = run_folder.total_steps(load_effective(folder), examples=24, processes=1)
    assert recipe == read_run(folder).steps == total
    assert len({read_run(path).started for path in checkpoints(folder)}) == 1
    assert train.main([*args, *longer, "--resume"]) == 0
    assert "já tinha acabado" in capsys.readouterr().out
    with pytest.raises(UserError, match="training.max_steps era .* e agora é 6"):
        train.main([*args, "--resume"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_a_checkpoint_to_resume_from(project, monkeypatch, number):
    args, folder = project
    args += ["training.max_steps=3"]
    original = callbacks.Progress.on_step_end

    def interrupt_at_two(self, arguments, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(number)
        original(self, arguments, state, control, **kwargs)

    monkeypatch.setattr(callbacks.Progress, "on_step_end", interrupt_at_two)
    with pytest.raises(KeyboardInterrupt):
        train.main(args)
    assert (folder / "lora" / "checkpoint-2").is_dir()
    monkeypatch.undo()
    assert train.main([*args, "--resume"]) == 0
    assert read_summary(folder / "lora").steps == 3


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def die_before_the_first_checkpoint(args):
    def die(self, args, state, control, **kwargs):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.Progress, "on_step_end", die)
        train.main(args)


def test_another_training_never_answers_with_the_first_ones_weights(copied, trained):
    """A treinado; B morre antes do primeiro checkpoint; `--resume` não chama A de B.

    E B acabado não deixa na pasta nada de A, nem volta a começar do que A deixou.
    """
    args, again = copied
    changes = {"learning_rate": "5.0e-3", "max_steps": 2, "eval_steps": 1}
    second = [*args, *(f"training.{key}={value}" for key, value in changes.items())]
    delivered = {n: digest for n, digest in contents(again).items() if "checkpoint-" not in n}
    die_before_the_first_checkpoint(second)
    assert read_run(again / "unfinished").identity["training.learning_rate"] == 5e-3
    assert delivered.items() <= contents(again).items()
    assert load_effective(again).training.learning_rate == 1e-2, "a configuração é a dos pesos"
    with pytest.raises(UserError, match="não há checkpoint deste treino.*learning_rate era 0.01"):
        train.main([*second, "--resume"])
    assert train.main(second) == 0
    assert load_effective(again).training.learning_rate == 5e-3
    assert read_run(again).identity["training.learning_rate"] == 5e-3
    old, moved = weights(trained[1]), weights(again)
    assert any(not torch.equal(moved[name], tensor) for name, tensor in old.items())
    assert not (again / "unfinished").exists() and not (again / "ready").exists()
    left = [path.name for path in checkpoints(again)]
    assert left == ["checkpoint-1", "checkpoint-2"], "ficou um do treino acabado"
    # Morto depois do último passo, no meio da passada, e antes de entregar: só falta entregar.
    for path in filter(Path.is_file, again.iterdir()):
        path.unlink()
    assert_only_delivers(second, again, 2)


def assert_only_delivers(args, folder, steps):
    assert train.main([*args, "--resume"]) == 0
    summary = read_summary(folder)
    assert summary.steps == steps and summary.tokens_seen > 0
    assert checkpoints(folder)[-1].name == f"checkpoint-{steps}"


def test_killed_before_delivering_only_delivers(interrupted):
    assert_only_delivers(*interrupted(3, 6), 6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.learning_rate=2.0e-3", "training.learning_rate era 0.01 e agora é 0.002"),
        ("lora.r=8", "lora.r era 4 e agora é 8"),
        ("training.batch_size=2", "training.batch_size era 4 e agora é 2"),
        ("training.max_steps=5", "training.max_steps era 6 e agora é 5"),
        ("training.epochs=9 training.seed=7", "training.epochs era 2.0 e .*; training.seed era 6"),
        ("model.name=ninguem/outro", "model.name era .* e agora é ninguem/outro"),
        ("data.curated_in_training=12", "os dados de treino era 24 linhas.* agora é 12 linhas"),
        ("prompt.system=Outro", "prompt.system era SQL e agora é Outro"),
    ],
)
def test_a_checkpoint_is_of_one_training(interrupted, change, told):
    args, killed = interrupted(3)
    with pytest.raises(UserError, match=f"checkpoint-3 é de outro treino: {told}"):
        train.main([*args, *change.split(), "--resume"])
    assert (killed / "checkpoint-3").is_dir()


def test_another_training_sets_the_interrupted_one_aside(interrupted, capsys):
    args, killed = interrupted(3)
    die_before_the_first_checkpoint([*args, "training.max_steps=1"])
    (aside,) = killed.glob("anterior-*/checkpoint-3")
    assert is_whole(aside) and str(aside.parent) in capsys.readouterr().out
    assert not checkpoints(killed)


def test_a_finished_training_is_not_resumed(copied, capsys):
    args, again = copied
    before = contents(again)
    assert train.main([*args, "--resume"]) == 0
    assert "já tinha acabado" in capsys.readouterr().out
    assert contents(again) == before


@pytest.mark.parametrize("cut", ["adapter_model.safetensors", "optimizer.pt", "run.json"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(interrupted, capsys, cut):
    _, killed = interrupted(3, 6)
    broken, before = killed / "checkpoint-6" / cut, killed / "checkpoint-3"
    broken.write_bytes(broken.read_bytes()[:100])
    assert run_folder.begin(killed, read_run(before), resume=True) == (read_run(before), before)
    assert "checkpoint-6: estragado" in capsys.readouterr().out


@pytest.mark.parametrize("moved", range(0, 12, 2))
def test_a_delivery_cut_short_is_never_a_mixture(trained, tmp_path, monkeypatch, moved):
    """O processo morre depois de trocar alguns arquivos; quem começa depois termina a troca."""
    args, folder = trained
    again, count = tmp_path / "meio", iter(range(moved))
    without = shutil.ignore_patterns("checkpoint-*", ".lock")
    shutil.copytree(folder, again, ignore=without)
    shutil.copytree(folder, again / "ready", ignore=without)
    new = read_run(folder).model_copy(update={"started": "depois"})
    write_json(again / "ready" / "run.json", new.model_dump())
    replace = os.replace

    def until_killed(source, target):
        if next(count, None) is None:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", until_killed)
        run_folder.deliver(again)
    assert trained_kind(again) is None, "nem o antigo, nem o novo"
    assert train.main([*args, f"training.output_dir={again}", "--resume"]) == 0
    assert read_run(again).started == "depois" and not (again / "ready").exists()
    assert contents(again).keys() == {n for n in contents(folder) if "checkpoint-" not in n}


def test_two_trainings_do_not_share_a_folder(project):
    args, folder = project
    code = "import os, sys, filelock as f; f.FileLock(sys.argv[1]).acquire(); os._exit(9)"
    (folder / "lora").mkdir()
    lock = str(folder / "lora" / ".lock")
    subprocess.run([sys.executable, "-c", code, lock], check=False)
    with FileLock(lock), pytest.raises(UserError, match="outro programa usa"):
        train.main(args)
    with run_folder.locked(folder / "lora"):
        pass  # a trava de um morto não prende


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "não há checkpoint em .* de onde continuar"),
        (["training.precision=fp16"], "training.precision=fp16 pede uma GPU"),
        (["model.name={trained}"], "é um adaptador LoRA.*largo"),
        (["model.name=ninguem/nao-existe"], "não consegui carregar o modelo.*preparar_modelo.py"),
        (["lora.target_modules=[q_proj, v_prj]"], "não tem camada linear chamada v_prj.*: q_proj"),
        (["lora.target_modules=q_prj"], "não tem camada linear chamada q_prj.* tem: q_proj"),
        (["lora.target_modules='*'"], "não tem camada linear chamada .* tem: q_proj"),
        (["training.method=full", "training.output_dir={trained}"], "treino de outro método"),
        (["training.method=full", "model.load_in_4bit=true"], "os de 4 bits não treinam"),
        (["training.tracking=wandb"], "pip install wandb"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    project, trained, options, message, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("comum.tracking.find_spec", lambda name: None)
    options = [option.format(trained=trained[1]) for option in options]
    assert run_main(train.main, [*project[0], *options]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") <= 2, error


def test_a_training_that_diverges_stops_and_delivers_nothing(project, tiny_llama):
    args, folder = project
    sick = folder / "doente"
    shutil.copytree(tiny_llama, sick)
    weights = load_file(sick / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, sick / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="divergiu: no passo 3, a perda .validação. deixou de ser"):
        train.main([*args, f"model.name={sick}"])
    assert trained_kind(folder / "lora") is None and not checkpoints(folder / "lora")


def test_a_place_that_cannot_be_written_is_said_before_the_work(project, monkeypatch):
    args, folder = project
    taken = folder / "arquivo"
    taken.write_text("", encoding="utf-8")
    for place in (taken, taken / "lora"):
        with pytest.raises(UserError, match="não consigo gravar em .*há um arquivo"):
            train.main([*args, f"training.output_dir={place}"])
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="0 MB livres, e este treino pode ocupar"):
        train.main(args)


@pytest.mark.parametrize("layers", ["fused_layers=true", "fused_layers=false"])
def test_training_in_bf16_learns_and_keeps_the_adapter_in_float32(project, layers):
    args, folder = project
    args += ["training.precision=bf16", "training.learning_rate=1.0e-2", f"training.{layers}"]
    train.main(args)
    assert_learned(load_config(None, args), folder / "lora")


def test_qlora_of_a_large_model_recomputes_activations(qlora):
    _, folder, shown = qlora
    assert read_summary(folder).method == "qlora"
    assert "ativações recalculadas na volta" in shown and "learning_rate 0,01 é alto" in shown
    assert_learned(load_effective(folder), folder)


def test_all_weights_are_trained_saved_whole_and_kept_in_float32(full):
    """Em bf16: as contas são nele, e os pesos, do primeiro ao último passo, em float32."""
    args, folder = full
    assert not (folder / "adapter_config.json").exists()
    tuned = assert_learned(load_config(None, args), folder)
    summary = read_summary(folder)
    assert summary.method == "full"
    assert summary.trainable_parameters == sum(p.numel() for p in tuned.parameters())


def test_length_batches_are_alike_inside_and_shuffled_outside():
    lengths = [(7 * i) % 101 for i in range(1003)]
    sampler = SimilarLengths(lengths, batch=8, seed=6)
    order = list(sampler)
    assert sorted(order) == list(range(1003)) and len(sampler) == 1003
    batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, 1000, 8)]
    spread = sum(max(b) - min(b) for b in batches) / len(batches)
    assert spread < 10, "dentro do lote, comprimentos parecidos"
    means = [sum(b) / len(b) for b in batches]
    rises = sum(right > left for left, right in zip(means, means[1:], strict=False))
    assert 0.35 < rises / len(means) < 0.65, "os lotes não desfilam em ordem de tamanho"
    assert list(sampler) == order, "a mesma época, a mesma ordem"
    sampler.set_epoch(1)
    assert list(sampler) != order
    shared = similar_lengths(lengths, 8, random.Random("6/0"), POOL, short_last=True)
    assert sum(shared, []) == order, "a ordem das lições"


@pytest.mark.parametrize(
    ("shared", "one", "other"),
    [
        ("fused_layers=true", "batch_size=8", "gradient_accumulation_steps=8"),
        ("fused_layers=false", "batch_size=8", "gradient_accumulation_steps=8"),
        ("method=full", "fused_layers=true", "fused_layers=false"),
    ],
    ids=["acumulação, rápidas", "acumulação, do peft", "todos os pesos"],
)
def test_two_ways_to_take_the_same_steps_end_in_the_same_weights(project, shared, one, other):
    """Um lote de 8 e 8 lotes acumulados; as camadas rápidas e as do modelo."""
    args, folder = project
    plan = [shared, "group_by_length=false", "max_steps=2"]
    plan += ["batch_size=1"] * other.startswith("gradient")
    for place, change in enumerate((one, other)):
        changes = (*plan, change, f"output_dir={folder / str(place)}")
        train.main([*args, *(f"training.{pair}" for pair in changes)])
    assert_same_weights(*(folder / place / "checkpoint-2" for place in "01"), atol=2e-5)


@pytest.mark.parametrize("fused", ["true", "false"], ids=["rápidas", "do peft"])
def test_a_long_batch_is_taken_in_parts_and_the_weights_are_the_same(project, monkeypatch, fused):
    args, folder = project
    plan = [
        *args,
        "training.max_steps=2",
        "training.batch_size=8",
        f"training.fused_layers={fused}",
    ]
    rows = []
    compute_loss = AnswerTrainer.compute_loss

    def counted(self, model, inputs, *rest, **named):
        rows.append(len(inputs["input_ids"]))
        return compute_loss(self, model, inputs, *rest, **named)

    monkeypatch.setattr(AnswerTrainer, "compute_loss", counted)
    for place, together in enumerate((10_000, 100)):
        monkeypatch.setattr("loja_sql.model.trainer.TOGETHER", together)
        train.main([*plan, f"training.output_dir={folder / str(place)}"])
    assert rows[:2] == [8, 8] and max(rows[-6:]) < 8, "no segundo treino, em partes"
    assert_same_weights(*(folder / place / "checkpoint-2" for place in "01"), atol=2e-5)


def test_labels_cover_the_answer_and_its_end_only(project):
    config = load_config(None, project[0])
    tokenizer = load_tokenizer(config.model_path)
    row = {"question": "quantos clientes?", "sql": "SELECT COUNT(*) FROM clientes"}
    (example,) = tokenized(config, tokenizer, [row], linking.context(config))
    learned = [t for t in example["labels"] if t != -100]
    assert tokenizer.decode(learned) == "SELECT COUNT(*) FROM clientes<|im_end|>"
    hidden = example["input_ids"][: len(example["input_ids"]) - len(learned)]
    assert tokenizer.decode(hidden).endswith("quantos clientes?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-100, -100, -100], "nenhum token na perda"),
        ([-100, 5, 6], "não ensina a parar"),
        ([-100, 5, 2] + [2] * 20, "seria cortado"),
    ],
)
def test_audit_stops_on_examples_that_teach_wrong(tiny_llama, labels, message):
    dataset = Dataset.from_list([{"input_ids": [3] * len(labels), "labels": labels}])
    with pytest.raises(UserError, match=message):
        audit(load_tokenizer(str(tiny_llama)), dataset, max_length=10)


def test_gpt2_without_template_or_pad_trains(project, tiny_gpt2):
    args, folder = project
    assert train.main([*args, f"model.name={tiny_gpt2}", "training.max_steps=1"]) == 0
    assert (folder / "lora" / "adapter_model.safetensors").is_file()


def test_trackio_keeps_the_run_on_this_machine(project, monkeypatch):
    """O acompanhamento sem conta nem rede."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train.main([*project[0], "training.tracking=trackio", "training.max_steps=1"]) == 0
    assert list(Path(os.environ["TRACKIO_DIR"]).glob("loja-sql*"))


def test_two_processes_take_the_same_path_as_one(project):
    """O mesmo lote global, dividido em dois: as mesmas perdas e pesos, e um só registro.

    A de validação pode diferir na quarta casa: o Trainer faz a média por lote, e os lotes mudam.
    """
    args, folder = project
    args += ["training.max_steps=5", "training.eval_steps=5", "training.fused_layers=false"]
    one, two = folder / "1", folder / "2"
    assert train.main([*args, "training.batch_size=8", f"training.output_dir={one}"]) == 0
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --mixed_precision no"
    command = [sys.executable, *launch.split(), "--num_machines", "1", "--dynamo_backend", "no"]
    command += [train.__file__, *args, "training.batch_size=4", f"training.output_dir={two}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Pronto em") == 1
    assert read_summary(two).processes == 2
    assert measured(two, "loss") == pytest.approx(measured(one, "loss"), abs=1e-4)
    assert read_summary(two).tokens_seen == read_summary(one).tokens_seen
    assert_same_weights(one / "checkpoint-5", two / "checkpoint-5", atol=2e-5)


def test_fused_layers_stay_out_of_fsdp(project, monkeypatch):
    """O accelerate só faz FSDP em GPU: aqui se confere que o treino o reconhece."""
    assert not needs_forward()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # como o põe `accelerate launch`
    assert needs_forward()
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setattr("loja_sql.model.trainer.needs_forward", lambda: True)
    monkeypatch.setattr(
        "loja_sql.model.fused.accelerate_layers", lambda model: pytest.fail("entrou")
    )
    assert train.main([*project[0], "training.max_steps=1"]) == 0


def test_a_finished_training_without_its_summary_says_so(copied):
    args, folder = copied
    (folder / "training.json").unlink()
    with pytest.raises(UserError, match="training.json"):
        train.main([*args, "--resume"])


def test_the_fsdp_file_is_one_accelerate_understands():
    """O accelerate recusa chaves que não conhece; as do FSDP são opções de `accelerate launch`."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(PROJECT_DIR / "configs" / "accelerate_fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.mixed_precision == "bf16"
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options
