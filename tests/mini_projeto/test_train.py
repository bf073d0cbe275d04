"""train.py de ponta a ponta num Llama minúsculo: auditoria, saídas, retomada, acumulação."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import train
from datasets import Dataset
from loja_sql.config import UserError, load_config, load_effective
from loja_sql.model.loading import load_model, load_tokenizer
from safetensors.torch import load_file


def adapter_weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def assert_same_weights(left, right, atol=0.0):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor - right[name]).abs().max().item() <= atol, name


def test_training_writes_everything_and_learns(project):
    args, folder = project
    assert train.main([*args, "training.learning_rate=1.0e-2"]) == 0
    output = folder / "lora"
    for name in ("adapter_model.safetensors", "config_efetiva.yaml", "metrics.jsonl", "curva.png",
                 "treino.json", "tokenizer.json"):  # fmt: skip
        assert (output / name).stat().st_size > 0, name
    assert load_effective(output).training.learning_rate == 1e-2
    summary = json.loads((output / "treino.json").read_text())
    assert summary["passos"] == 6 and summary["parametros_treinaveis"] > 0
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [r["eval_loss"] for r in records if "eval_loss" in r]
    assert losses[-1] < losses[0]
    assert summary["melhor_perda_de_validacao"] == pytest.approx(min(losses))
    # O adaptador recarregado é o treinado, não o inicial (em que B = 0).
    config = load_config(None, args)
    plain, tuned = load_model(config), load_model(config, output)
    ids = load_tokenizer(config)("quantos", return_tensors="pt").input_ids
    assert (plain(ids).logits - tuned(ids).logits).abs().max() > 1e-3


def test_resume_after_a_kill_takes_the_same_path(project):
    args, folder = project
    train.main(args)
    straight = adapter_weights(folder / "lora" / "checkpoint-6")
    killed = folder / "morto"
    killed.mkdir()
    shutil.copytree(folder / "lora" / "checkpoint-3", killed / "checkpoint-3")
    args = [*args, f"training.output_dir={killed}"]
    with pytest.raises(UserError, match="--resume"):
        train.main(args)
    assert train.main([*args, "--resume"]) == 0
    assert_same_weights(adapter_weights(killed / "checkpoint-6"), straight, atol=1e-6)
    assert json.loads((killed / "treino.json").read_text())["retomado"] is True


def test_interrupt_saves_a_checkpoint_to_resume_from(project, monkeypatch):
    args, folder = project
    original = train.Progress.on_step_end

    def interrupt_at_two(self, arguments, state, control, **kwargs):
        original(self, arguments, state, control, **kwargs)
        if state.global_step == 2:
            train.signal.raise_signal(train.signal.SIGINT)

    monkeypatch.setattr(train.Progress, "on_step_end", interrupt_at_two)
    with pytest.raises(KeyboardInterrupt):
        train.main(args)
    assert (folder / "lora" / "checkpoint-2").is_dir()
    monkeypatch.undo()
    assert train.main([*args, "--resume"]) == 0
    assert json.loads((folder / "lora" / "treino.json").read_text())["passos"] == 6


def test_resume_without_checkpoint_is_refused(project):
    args, _ = project
    with pytest.raises(UserError, match="não há checkpoint"):
        train.main([*args, "--resume"])


def test_training_in_bf16_keeps_the_adapter_in_float32(project):
    args, folder = project
    train.main([*args, "training.precision=bf16", "training.learning_rate=1.0e-2"])
    weights = adapter_weights(folder / "lora")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    lines = (folder / "lora" / "metrics.jsonl").read_text().splitlines()
    losses = [r["eval_loss"] for r in map(json.loads, lines) if "eval_loss" in r]
    assert losses[-1] < losses[0]


def test_bf16_without_the_fast_layers_also_trains(project):
    args, folder = project
    train.main([*args, "training.precision=bf16", "training.fused_layers=false"])
    assert adapter_weights(folder / "lora")


def test_length_batches_are_alike_inside_and_shuffled_outside():
    lengths = [(7 * i) % 101 for i in range(1003)]
    sampler = train.LengthBatches(lengths, batch=8, seed=6)
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


@pytest.mark.parametrize("fused", ["true", "false"])
def test_accumulated_gradients_equal_one_large_batch(project, fused):
    args, folder = project
    args += ["training.group_by_length=false", "training.max_steps=2"]
    args += [f"training.fused_layers={fused}"]
    weights = []
    for batch, steps in ((8, 1), (1, 8)):
        output = folder / f"{batch}x{steps}"
        train.main([*args, f"training.batch_size={batch}", f"training.output_dir={output}",
                    f"training.gradient_accumulation_steps={steps}"])  # fmt: skip
        weights.append(adapter_weights(output / "checkpoint-2"))
    assert_same_weights(*weights, atol=2e-5)


def test_labels_cover_the_answer_and_its_end_only(project):
    args, _ = project
    config = load_config(None, args)
    tokenizer = load_tokenizer(config)
    row = {"question": "quantos clientes?", "sql": "SELECT COUNT(*) FROM clientes"}
    (example,) = train.tokenized(config, tokenizer, [row], schema="")
    supervised = [t for t in example["labels"] if t != -100]
    assert tokenizer.decode(supervised) == "SELECT COUNT(*) FROM clientes<|im_end|>"
    hidden = example["input_ids"][: len(example["input_ids"]) - len(supervised)]
    assert tokenizer.decode(hidden).endswith("quantos clientes?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("labels", "message"),
    [([-100, -100, -100], "nenhum token na perda"), ([-100, 5, 6], "não ensina a parar"),
     ([-100, 5, 2] + [2] * 20, "seria cortado")],
)  # fmt: skip
def test_audit_stops_on_examples_that_teach_wrong(tiny_llama, labels, message):
    tokenizer = load_tokenizer(load_config(None, [f"model.name={tiny_llama}"]))
    dataset = Dataset.from_list([{"input_ids": [3] * len(labels), "labels": labels}])
    with pytest.raises(UserError, match=message):
        train.audit(tokenizer, dataset, max_length=10, shown=0)


def test_gpt2_without_template_or_pad_trains(project, tiny_gpt2):
    args, folder = project
    assert train.main([*args, f"model.name={tiny_gpt2}", "training.max_steps=2"]) == 0
    assert (folder / "lora" / "adapter_model.safetensors").is_file()


def test_unreachable_model_is_one_clear_sentence(project):
    args, _ = project
    command = [sys.executable, train.__file__, *args, "model.name=ninguem/modelo-que-nao-existe"]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2
    assert "não consegui carregar o modelo" in done.stderr
    assert "preparar_modelo.py" in done.stderr and "Traceback" not in done.stderr


def test_full_fine_tuning_saves_a_whole_model_that_answers(project):
    args, folder = project
    args = [*args, "training.method=full", f"training.output_dir={folder / 'full'}"]
    assert train.main([*args, "training.learning_rate=1.0e-2"]) == 0
    output = folder / "full"
    assert not (output / "adapter_config.json").exists()
    summary = json.loads((output / "treino.json").read_text())
    config = load_config(None, args)
    plain, tuned = load_model(config), load_model(config, output)
    assert summary["metodo"] == "full"
    assert summary["parametros_treinaveis"] == sum(p.numel() for p in plain.parameters())
    lines = (output / "metrics.jsonl").read_text().splitlines()
    losses = [r["eval_loss"] for r in map(json.loads, lines) if "eval_loss" in r]
    assert losses[-1] < losses[0]
    ids = load_tokenizer(config)("quantos", return_tensors="pt").input_ids
    assert (plain(ids).logits - tuned(ids).logits).abs().max() > 1e-3


def test_full_fine_tuning_in_bf16_keeps_the_weights_in_float32(project):
    args, folder = project
    train.main([*args, "training.method=full", "training.precision=bf16"])
    weights = load_file(folder / "lora" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def test_full_loss_is_the_same_with_and_without_the_fast_path(project):
    args, folder = project
    args += ["training.method=full", "training.max_steps=2", "training.group_by_length=false"]
    weights = []
    for fused in ("true", "false"):
        output = folder / fused
        train.main([*args, f"training.fused_layers={fused}", f"training.output_dir={output}"])
        weights.append(load_file(output / "checkpoint-2" / "model.safetensors"))
    assert_same_weights(*weights, atol=2e-5)


def test_a_folder_does_not_mix_methods(project):
    args, _ = project
    train.main([*args, "training.max_steps=1"])
    with pytest.raises(UserError, match="outro método"):
        train.main([*args, "training.method=full"])


def test_full_over_four_bits_is_refused(project):
    args, _ = project
    with pytest.raises(UserError, match="os de 4 bits não treinam"):
        load_config(None, [*args, "training.method=full", "model.load_in_4bit=true"])


def test_two_processes_take_the_same_path_as_one(project):
    """O mesmo lote global, dividido em dois: as mesmas perdas e pesos, e um só registro.

    A de validação pode diferir na quarta casa: o Trainer faz a média por lote, e os lotes mudam.
    """
    args, folder = project
    args += ["training.max_steps=5", "training.eval_steps=5", "training.fused_layers=false"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no",
              "--num_machines", "1", "--dynamo_backend", "no"]  # fmt: skip
    losses, weights = [], []
    for processes, batch in ((1, 8), (2, 4)):
        output = folder / f"{processes}"
        many = ["--multi_gpu"] if processes > 1 else []
        command = [*launch, *many, "--num_processes", processes, train.__file__, *args,
                   f"training.batch_size={batch}", f"training.output_dir={output}"]  # fmt: skip
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Pronto em") == 1
        lines = (output / "metrics.jsonl").read_text().splitlines()
        losses.append([r["loss"] for r in map(json.loads, lines) if "loss" in r])
        assert json.loads((output / "treino.json").read_text())["processos"] == processes
        weights.append(adapter_weights(output / "checkpoint-5"))
    assert len(losses[0]) == 1 and losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert_same_weights(*weights, atol=2e-5)


def test_the_fsdp_file_is_one_accelerate_understands():
    """O accelerate recusa chaves que não conhece; as do FSDP são opções de `accelerate launch`."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from loja_sql.config import PROJECT_DIR

    config = load_config_from_file(str(PROJECT_DIR / "configs" / "accelerate_fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.mixed_precision == "bf16"
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options
