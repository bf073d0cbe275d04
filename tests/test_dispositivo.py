"""As medidas e os treinos numa GPU de mentira: nenhum tensor sai dela sem que se peça.

Aqui "cpu:0" faz de GPU: o que vai para ela, e o que se calcula com ela, fica marcado; o numpy não o
lê, e uma conta dele com um tensor da CPU para, como numa GPU. O que o autograd cria não tem marca.
"""

from types import SimpleNamespace

from comum import adapters, conversations, decoding, gptq, models
from comum.conversations import DATA_DIR, encode, read_conversations
from comum.files import write_jsonl

import accelerate
import numpy
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.overrides import TorchFunctionMode

import exemplo_01_fine_tuning_basico as day3
import exemplo_02_lora_peft as day4
import exemplo_03_quantizacao as day5
import exemplo_04_dataset_preparation as day6
from dia5 import measuring
from dia6 import measures
from loja_sql.config import load_config
from loja_sql.model import fused, trainer

GPU = torch.device("cpu", 0)
TO, CPU, SET_DATA = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.data.__set__
READS = {torch.Tensor.numpy, torch.Tensor.__array__}
BETWEEN = {TO, SET_DATA, torch.Tensor.copy_, torch._has_compatible_shallow_copy_type}
INDEXES = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


class FakeGpu(TorchFunctionMode):
    """Marca cada tensor com `on_gpu`, e o leva de uma função do torch à outra."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = list(tensors_in([*args, *kwargs.values()]))
        marks = {t.on_gpu for t in tensors if hasattr(t, "on_gpu")}
        if func == torch.Tensor.device.__get__ and True in marks:
            return GPU
        if func in READS and True in marks:
            raise TypeError("o numpy não lê um tensor da GPU: falta um .cpu()")
        mixed = len({t.on_gpu for t in tensors if hasattr(t, "on_gpu") and t.dim()}) > 1
        indexed = func in INDEXES and getattr(args[0], "on_gpu", False)
        if mixed and func not in BETWEEN and not indexed:
            raise RuntimeError(f"um tensor na GPU e outro na CPU, em {func.__name__}")
        result = func(*args, **kwargs)
        if func == SET_DATA:
            args[0].on_gpu = getattr(args[1], "on_gpu", False)
        places = [kwargs.get("device"), *(args[1:] if func is TO else ["cpu"] * (func is CPU))]
        places = [torch.device(p) for p in places if isinstance(p, str | torch.device)]
        if func in (TO, CPU) and places:
            result = result.view_as(result)  # outro objeto, como numa cópia
        if places or marks or not tensors:
            known = {id(tensor) for tensor in tensors}  # o que se muda no lugar fica onde está
            for tensor in tensors_in([result]):
                if id(tensor) not in known:
                    tensor.on_gpu = places[0] == GPU if places else True in marks
        return result


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


@pytest.fixture
def gpu(monkeypatch, wide_llama):
    """Um modelo na GPU de mentira, onde fica o que mais se carregar, e quatro conversas."""
    for module in (models, measuring):
        monkeypatch.setattr(module, "device", lambda: GPU)
    monkeypatch.setitem(accelerate.PartialState(cpu=True)._shared_state, "device", GPU)
    with FakeGpu():
        model, tokenizer = (
            models.load_model(str(wide_llama)),
            models.load_tokenizer(str(wide_llama)),
        )
        texts = read_conversations(DATA_DIR / "atendimento_treino.jsonl", 4)
        yield model, tokenizer, texts, [encode(tokenizer, messages) for messages in texts]


def test_the_fake_gpu_refuses_what_a_gpu_refuses(gpu):
    tensor, table = gpu[0].get_input_embeddings().weight.detach()[0], numpy.zeros((2, 2))
    with pytest.raises(TypeError, match="falta um .cpu"):
        table[0] = tensor.sum(), 2
    with pytest.raises(RuntimeError, match="um tensor na GPU e outro na CPU"):
        tensor + torch.ones(len(tensor))
    table[0] = tensor.sum().cpu(), tensor.sum().item()
    assert (tensor.cpu() + torch.ones(len(tensor))).numpy().shape == (64,)


def test_the_measures_and_the_training_of_day_3(gpu, tmp_path):
    model, tokenizer, texts, rows = gpu
    args = day3.arguments(["--batch-size", "2"])
    day3.show_example(tokenizer, model, rows[0])
    day3.check_memory(model, day3.batch_of(rows, tokenizer, model))
    day3.fine_tune(model, tokenizer, rows, rows[:2], args)
    day3.measure(model, tokenizer, texts[:2], rows[:2], args, {"new_tokens": 2})


def test_the_checks_by_hand_of_day_4(gpu, tiny_llama, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt  # antes dos treinos, que rodam noutro processo

    monkeypatch.setattr(day4, "alone", stop)
    command = ["--quick", "--model", str(tiny_llama), "--output", str(tmp_path / "modelo")]
    with pytest.raises(KeyboardInterrupt):
        day4.main(day4.arguments(command))
    assert capsys.readouterr().out.count("[certo]") == 4


def test_a_training_of_day_4(gpu, tiny_llama, tmp_path):
    command = ["--model", str(tiny_llama), "--train-examples", "4", "--batch-size", "2"]
    command += ["--output", str(tmp_path), "--no-answers"]
    run = day4.settings_of(day4.arguments(command), "lora", 1e-3)
    run.test_examples = 2
    assert day4.train_one(run).steps == 2


def test_day_5_until_it_saves_the_models(gpu, wide_llama, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt  # cada técnica roda noutro processo

    monkeypatch.setattr(measuring, "quantize_and_measure", stop)
    model, output = str(wide_llama), str(tmp_path / "dia5")
    command = ["--quick", "--model", model, "--base", model, "--output", output]
    with pytest.raises(KeyboardInterrupt):
        day5.main(day5.arguments(command))
    assert "Quantizar, gravar, recarregar e medir" in capsys.readouterr().out


@torch.no_grad()
def test_the_measures_of_day_5(gpu, tmp_path):
    model, tokenizer, texts, rows = gpu
    for _ in range(2):  # a primeira grava os log-probs, a segunda os compara
        measuring.compared_scores(model, tokenizer, texts[:2], tmp_path / "referencia.pt")
    measuring.speed(model, 2, 1)
    nf4 = {"nf4": lambda w: day5.dequantize_nf4(*day5.quantize_nf4(w), w.shape)}
    measuring.rounded_scores(model, rows[:2], tokenizer.pad_token_id, nf4)
    layer = next(iter(models.linears_of(model).values()))
    weight, ids = layer.weight.detach(), [row["input_ids"] for row in rows[:2]]
    assert measuring.moved_steps(weight, weight) == 0
    assert measuring.kept_share([(weight, weight + 1)], day5.q4_1) > 0
    assert day5.gptq_against_rounding(model, layer, ids) and gptq.quantize(model, ids, 4, 32)


def test_the_classifier_of_day_6(gpu, tiny_llama):
    tokenizer, rates = gpu[1], {"adapter_learning_rate": 1e-3, "head_learning_rate": 1e-3}
    plan = SimpleNamespace(model=str(tiny_llama), r=2, seed=0, batch_size=2, head_epochs=1, **rates)
    train = [{"text": "onde está?", "label": "a"}, {"text": "quero trocar", "label": "b"}]
    found = measures.head(train, ["chegou?"], ["a", "b"], tokenizer, plan, adapters.fit)
    assert found[0][0] in "ab"
    scores = measures.likelihoods(adapters.lora(plan), tokenizer, ["chegou?"], ["a", "b"])
    assert scores.shape == (1, 2)


def test_before_and_after_of_day_6(gpu, tiny_llama, tmp_path):
    for part in ("treino", "teste"):
        write_jsonl(tmp_path / f"{part}.jsonl", [{"messages": gpu[2][0]}] * 2)
    rates = {"train": 2, "test": 1, "new_tokens": 2, "epochs": 1.0, "learning_rate": 1e-3}
    plan = SimpleNamespace(model=str(tiny_llama), r=2, seed=0, batch_size=2, **rates)
    assert day6.before_after(tmp_path, "instruction", plan).test == 1


def test_a_training_of_the_mini_project(gpu, tiny_llama, shop_11, tmp_path, monkeypatch):
    (tmp_path / "loja_11.sqlite").symlink_to(shop_11)
    settings = [f"model.name={tiny_llama}", f"data.output_dir={tmp_path}", "database.seeds=[11]"]
    settings += [f"training.output_dir={tmp_path / 'lora'}", "training.max_steps=2", "lora.r=2"]
    settings += ["training.batch_size=2", "training.eval_steps=1", "model.merged_tokens=4"]
    rows = [{"question": "quantos clientes?", "sql": "SELECT COUNT(*) FROM clientes"}] * 4
    monkeypatch.setattr(trainer, "device", lambda: GPU)
    assert trainer.train(load_config(None, settings), rows, rows[:2]).steps == 2


def test_the_answers_and_the_fused_layers_of_the_mini_project(gpu):
    model, tokenizer, _, rows = gpu
    prompts = conversations.fixed_prompts(tokenizer)
    assert list(decoding.stream(model, tokenizer, prompts[0], 3))
    pairs = [(tokenizer(text).input_ids, [5, 6, 2]) for text in prompts]
    assert sum(map(len, decoding.answer_losses(model, tokenizer, pairs, 2))) == len(prompts)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    assert fused.accelerate_layers(model)
    fused.answer_loss(model, day3.batch_of(rows, tokenizer, model))[0].backward()
