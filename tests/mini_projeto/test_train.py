"""train.py de ponta a ponta num Llama minúsculo: auditoria, saídas, retomada, acumulação."""

import json
import os
import random
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
from loja_sql.model import callbacks
from loja_sql.model.loading import load_model
from loja_sql.model.run_folder import checkpoints, deliver, is_whole, read_run
from loja_sql.model.summary import read_summary
from loja_sql.model.trainer import POOL, SimilarLengths, audit, tokenized
from loja_sql.questions import linking


def adapter_weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def assert_same_weights(left, right, atol=0.0):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor - right[name]).abs().max().item() <= atol, name


def measured(folder, key):
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def assert_learned(config, folder):
    """A perda desceu, e o que se recarrega é o treinado, não o inicial (em que B = 0)."""
    losses = measured(folder, "eval_loss")
    assert losses[-1] < losses[0]
    assert read_summary(folder).best_eval_loss == pytest.approx(min(losses))
    plain, tuned = load_model(config), load_model(config, folder)
    ids = load_tokenizer(config.model_path)("quantos", return_tensors="pt").input_ids
    before, after = plain(ids).logits, tuned(ids).logits
    assert (before - after[..., : before.shape[-1]]).abs().max() > 1e-3
    return tuned


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


def test_resume_after_a_kill_takes_the_same_path(trained, tmp_path):
    args, folder = trained
    args, killed = interrupted(trained, tmp_path)
    with pytest.raises(UserError, match="--resume"):
        train.main(args)
    assert train.main([*args, "--resume"]) == 0
    straight = adapter_weights(folder / "checkpoint-6")
    assert_same_weights(adapter_weights(killed / "checkpoint-6"), straight, atol=1e-6)
    summary, whole = read_summary(killed), read_summary(folder)
    assert summary.resumed and summary.steps == 6
    assert (summary.tokens_seen, summary.best_step) == (whole.tokens_seen, whole.best_step)
    assert summary.minutes > read_run(folder / "checkpoint-3").seconds / 60, "os dois trechos"
    assert [row for row in measured(killed, "step")] == [row for row in measured(folder, "step")]


def test_a_new_training_never_resumes_from_the_finished_one(trained, tmp_path):
    args, folder = trained
    again = tmp_path / "de-novo"
    shutil.copytree(folder, again)
    short = ["training.max_steps=2", "training.eval_steps=1"]
    assert train.main([*args, f"training.output_dir={again}", *short]) == 0
    left = sorted(path.name for path in again.glob("checkpoint-*"))
    assert left == ["checkpoint-1", "checkpoint-2"], "ficou um do treino acabado"


def test_interrupt_saves_a_checkpoint_to_resume_from(project, monkeypatch):
    args, folder = project
    original = callbacks.Progress.on_step_end

    def interrupt_at_two(self, arguments, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        original(self, arguments, state, control, **kwargs)

    monkeypatch.setattr(callbacks.Progress, "on_step_end", interrupt_at_two)
    with pytest.raises(KeyboardInterrupt):
        train.main(args)
    assert (folder / "lora" / "checkpoint-2").is_dir()
    monkeypatch.undo()
    assert train.main([*args, "--resume"]) == 0
    assert read_summary(folder / "lora").steps == 6


def interrupted(trained, tmp_path, *steps):
    """(args, pasta): a pasta só tem checkpoints de `trained`, como se o treino tivesse morrido."""
    args, folder = trained
    for step in steps or (3,):
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / "morto" / f"checkpoint-{step}")
    return [*args, f"training.output_dir={tmp_path / 'morto'}"], tmp_path / "morto"


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def die_before_the_first_checkpoint(monkeypatch):
    def die(self, args, state, control, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Progress, "on_step_end", die)


def test_resume_without_checkpoint_is_refused(project):
    args, _ = project
    with pytest.raises(UserError, match="não há checkpoint"):
        train.main([*args, "--resume"])


def test_another_training_never_answers_with_the_first_ones_weights(trained, tmp_path, monkeypatch):
    """A treinado; B morre antes do primeiro checkpoint; `--resume` não chama A de B."""
    args, folder = trained
    again = tmp_path / "a-e-b"
    shutil.copytree(folder, again)
    args = [*args, f"training.output_dir={again}"]
    second = [*args, "training.learning_rate=5.0e-3"]
    delivered = contents(again)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        die_before_the_first_checkpoint(patch)
        train.main(second)
    assert read_run(again / "unfinished").identity["training.learning_rate"] == 5e-3
    left = contents(again)
    assert {
        name: left[name] for name in delivered if "checkpoint-" not in name
    }.items() <= left.items()
    assert load_effective(again).training.learning_rate == 1e-2, "a configuração é a dos pesos"
    with pytest.raises(UserError, match="não há checkpoint deste treino.*learning_rate era 0.01"):
        train.main([*second, "--resume"])
    assert train.main(second) == 0
    assert load_effective(again).training.learning_rate == 5e-3
    assert read_run(again).identity["training.learning_rate"] == 5e-3
    moved = adapter_weights(again)
    assert any(not torch.equal(moved[name], old) for name, old in adapter_weights(folder).items())
    assert not (again / "unfinished").exists() and not (again / "ready").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.learning_rate=2.0e-3", "training.learning_rate era 0.01 e agora é 0.002"),
        ("lora.r=8", "lora.r era 4 e agora é 8"),
        ("training.batch_size=2", "training.batch_size era 4 e agora é 2"),
        ("training.max_steps=9", "training.max_steps era 6 e agora é 9"),
        ("model.name=ninguem/outro", "model.name era .* e agora é ninguem/outro"),
        ("data.curated_in_training=12", "os dados de treino era 24 linhas.* agora é 12 linhas"),
        ("prompt.system=Outro", "prompt.system era SQL e agora é Outro"),
    ],
)
def test_a_checkpoint_is_of_one_training(trained, tmp_path, change, told):
    args, killed = interrupted(trained, tmp_path)
    with pytest.raises(UserError, match=f"checkpoint-3 é de outro treino: {told}"):
        train.main([*args, change, "--resume"])
    assert (killed / "checkpoint-3").is_dir()


def test_another_training_sets_the_interrupted_one_aside(trained, tmp_path, capsys):
    args, killed = interrupted(trained, tmp_path)
    assert train.main([*args, "training.max_steps=1"]) == 0
    (aside,) = killed.glob("anterior-*/checkpoint-3")
    assert is_whole(aside) and str(aside.parent) in capsys.readouterr().out
    assert [path.name for path in checkpoints(killed)] == ["checkpoint-1"]


def test_a_finished_training_is_not_resumed(trained, tmp_path, capsys):
    args, folder = trained
    again = tmp_path / "acabado"
    shutil.copytree(folder, again)
    before = contents(again)
    assert train.main([*args, f"training.output_dir={again}", "--resume"]) == 0
    assert "já tinha acabado" in capsys.readouterr().out
    assert contents(again) == before


@pytest.mark.parametrize("cut", ["adapter_model.safetensors", "optimizer.pt", "run.json"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(trained, tmp_path, capsys, cut):
    args, killed = interrupted(trained, tmp_path, 3, 6)
    broken = killed / "checkpoint-6" / cut
    broken.write_bytes(broken.read_bytes()[:100])
    assert train.main([*args, "--resume"]) == 0
    assert "checkpoint-6: estragado" in capsys.readouterr().out
    assert_same_weights(adapter_weights(killed), adapter_weights(trained[1]), atol=1e-6)


@pytest.mark.parametrize("steps", [6, 2], ids=["fim da passada", "meio da passada"])
def test_killed_before_delivering_only_delivers(trained, project, tmp_path, steps):
    if steps == 6:
        args, killed = interrupted(trained, tmp_path, 3, 6)
    else:
        args, killed = [*project[0], "training.max_steps=2"], project[1] / "lora"
        train.main(args)
        for path in killed.iterdir():
            if path.is_file():
                path.unlink()
    assert train.main([*args, "--resume"]) == 0
    summary = read_summary(killed)
    assert summary.steps == steps and summary.tokens_seen > 0
    assert [path.name for path in checkpoints(killed)][-1] == f"checkpoint-{steps}"


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
        deliver(again)
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
    with FileLock(lock), pytest.raises(UserError, match="outro treino usa"):
        train.main(args)
    assert train.main([*args, "training.max_steps=1"]) == 0, "a trava de um morto não prende"


def test_fp16_without_a_gpu_is_refused(project, capsys):
    assert run_main(train.main, [*project[0], "training.precision=fp16"]) == 2
    assert "training.precision=fp16 pede uma GPU" in capsys.readouterr().err


def test_an_adapter_is_not_a_base(trained, project):
    with pytest.raises(UserError, match="é um adaptador LoRA.*largo"):
        train.main([*project[0], f"model.name={trained[1]}"])


@pytest.mark.parametrize("targets", ["[q_proj, v_prj]", "q_prj", "'*'"])
def test_a_mistyped_target_is_refused(project, targets):
    with pytest.raises(UserError, match="não tem camada linear chamada .* tem: q_proj"):
        train.main([*project[0], f"lora.target_modules={targets}"])


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


@pytest.mark.parametrize(
    "extra",
    [
        ["training.precision=bf16", "training.learning_rate=1.0e-2"],
        ["training.precision=bf16", "training.learning_rate=1.0e-2", "training.fused_layers=false"],
    ],
    ids=["rápidas", "do peft"],
)
def test_training_in_bf16_learns_and_keeps_the_adapter_in_float32(project, extra):
    args, folder = project
    train.main([*args, *extra])
    weights = adapter_weights(folder / "lora")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    losses = measured(folder / "lora", "eval_loss")
    assert losses[-1] < losses[0]


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


@pytest.mark.parametrize("fused", ["true", "false"])
def test_accumulated_gradients_equal_one_large_batch(project, fused):
    args, folder = project
    args += ["training.group_by_length=false", "training.max_steps=2"]
    weights = []
    for batch, steps in ((8, 1), (1, 8)):
        output = folder / f"{batch}x{steps}"
        extra = {
            "fused_layers": fused,
            "batch_size": batch,
            "gradient_accumulation_steps": steps,
            "output_dir": output,
        }
        train.main([*args, *(f"training.{key}={value}" for key, value in extra.items())])
        weights.append(adapter_weights(output / "checkpoint-2"))
    assert_same_weights(*weights, atol=2e-5)


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
    assert train.main([*args, f"model.name={tiny_gpt2}", "training.max_steps=2"]) == 0
    assert (folder / "lora" / "adapter_model.safetensors").is_file()


def test_unreachable_model_is_one_clear_sentence(project, monkeypatch, capsys):
    args, _ = project
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_main(train.main, [*args, "model.name=ninguem/modelo-que-nao-existe"]) == 2
    error = capsys.readouterr().err
    assert "não consegui carregar o modelo" in error and "preparar_modelo.py" in error
    assert error.count("\n") == 1


def test_qlora_of_a_large_model_recomputes_activations(project, wide_llama, monkeypatch, capsys):
    monkeypatch.setattr("comum.training.LARGE", 1)
    args, folder = project
    extra = ["model.load_in_4bit=true", "training.learning_rate=1.0e-2", "training.precision=bf16"]
    assert train.main([*args, f"model.name={wide_llama}", *extra]) == 0
    assert read_summary(folder / "lora").method == "qlora"
    shown = capsys.readouterr().out
    assert "ativações recalculadas na volta" in shown and "learning_rate 0,01 é alto" in shown
    adapter = load_file(folder / "lora" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert_learned(load_effective(folder / "lora"), folder / "lora")


def test_all_weights_are_trained_saved_whole_and_kept_in_float32(project):
    """Em bf16: as contas são nele, e os pesos, do primeiro ao último passo, em float32."""
    args, folder = project
    args += ["training.method=full", "training.precision=bf16", "training.learning_rate=1.0e-2"]
    assert train.main(args) == 0
    output = folder / "lora"
    assert not (output / "adapter_config.json").exists()
    tuned = assert_learned(load_config(None, args), output)
    summary = read_summary(output)
    assert summary.method == "full"
    assert summary.trainable_parameters == sum(p.numel() for p in tuned.parameters())
    weights = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_full_loss_is_the_same_with_and_without_the_fast_path(project):
    args, folder = project
    args += ["training.method=full", "training.max_steps=2", "training.group_by_length=false"]
    weights = []
    for fused in ("true", "false"):
        output = folder / fused
        train.main([*args, f"training.fused_layers={fused}", f"training.output_dir={output}"])
        weights.append(load_file(output / "checkpoint-2" / "model.safetensors"))
    assert_same_weights(*weights, atol=2e-5)


def test_a_folder_does_not_mix_methods(trained):
    args, _ = trained
    with pytest.raises(UserError, match="outro método"):
        train.main([*args, "training.method=full"])


def test_full_over_four_bits_is_refused(project):
    args, _ = project
    with pytest.raises(UserError, match="os de 4 bits não treinam"):
        load_config(None, [*args, "training.method=full", "model.load_in_4bit=true"])


def test_a_tracking_without_its_library_is_refused_before_anything(project, monkeypatch):
    monkeypatch.setattr("comum.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train.main([*project[0], "training.tracking=wandb"])


def test_trackio_keeps_the_run_on_this_machine(project, monkeypatch):
    """O acompanhamento sem conta nem rede."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train.main([*project[0], "training.tracking=trackio"]) == 0
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
    assert_same_weights(*(adapter_weights(f / "checkpoint-5") for f in (one, two)), atol=2e-5)


def test_the_fsdp_file_is_one_accelerate_understands():
    """O accelerate recusa chaves que não conhece; as do FSDP são opções de `accelerate launch`."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(PROJECT_DIR / "configs" / "accelerate_fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.mixed_precision == "bf16"
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options
