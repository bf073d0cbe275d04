"""O pad que não esconde o fim, a perda só da resposta, os lotes parecidos e o processo à parte."""

import os
import random
import shutil
from types import SimpleNamespace

from comum import adapters, decoding, models, process, sft, training
from comum.terminal import UserError
from comum.training import lora_rates

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    PreTrainedTokenizerFast,
    TrainerState,
)

TURNS = [{"role": "user", "content": "quantos clientes?"}]


def test_the_pad_never_is_the_end_of_the_answer(tiny_gpt2, tiny_llama):
    for folder in (tiny_gpt2, tiny_llama):
        tokenizer = models.load_tokenizer(str(folder))
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        assert tokenizer.padding_side == "right"
        prompt, answer = training.encode_pair(tokenizer, TURNS, "SELECT 1")
        assert answer[-1] == tokenizer.eos_token_id
        row = training.masked(prompt, answer)
        batch = training.pad([row, training.masked(prompt, answer * 2)], tokenizer.pad_token_id)
        learned = batch["labels"][0][batch["labels"][0] != training.IGNORED]
        assert learned.tolist() == answer  # o fim entra na perda; o preenchimento, não
        assert batch["attention_mask"][0].sum() == len(prompt) + len(answer)


def test_the_pad_takes_no_letter_from_the_answers(tiny_gpt2, tmp_path):
    """Um vocabulário que começa no "!", como o do GPT-2, salvo e recarregado como no dia 3."""
    first, second = tmp_path / "publicado", tmp_path / "treinado"
    letters = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytewise = Tokenizer(BPE(letters | {"<|endoftext|>": 256}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    end = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=bytewise, **end).save_pretrained(first)
    for folder in (first, second):
        folder.mkdir(exist_ok=True)
        shutil.copy(tiny_gpt2 / "config.json", folder)
    models.load_tokenizer(str(first)).save_pretrained(second)
    for folder in (first, second):
        tokenizer = models.load_tokenizer(str(folder))
        ids = tokenizer("Não! São 30 dias.", add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == "Não! São 30 dias."
        assert tokenizer.pad_token_id not in {*ids, tokenizer.eos_token_id}


def test_a_loss_that_is_not_a_number_stops_the_lessons_training():
    state = TrainerState(global_step=7)
    with pytest.raises(UserError, match="no passo 7, a perda deixou de ser um número"):
        sft.Bar("Treinando", 1).on_log(None, state, None, logs={"loss": float("nan")})


def test_what_the_model_reads_in_use_is_what_it_read_in_training(tiny_llama):
    tokenizer = models.load_tokenizer(str(tiny_llama))
    prompt, answer = training.encode_pair(tokenizer, TURNS, "SELECT 1")
    text = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(prompt) == text
    assert tokenizer.decode(answer) == "SELECT 1" + tokenizer.eos_token
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(UserError, match="template"):
        training.encode_pair(tokenizer, TURNS, "SELECT 1")


def test_a_model_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(UserError, match="nada"):
        models.load_tokenizer(str(tmp_path / "nada"))
    with pytest.raises(UserError, match="preparar_modelo"):
        models.load_model(str(tmp_path / "nada"))


BROKEN = {  # o que se faz com a pasta de um Llama, e o que se lê
    "pesos cortados": ("model.safetensors", lambda old: old[: len(old) // 2], "cortado ou estrag"),
    "git-lfs": ("model.safetensors", lambda old: b"version https://git-lfs", "ponteiro do git-lfs"),
    "sem pesos": ("model.safetensors", None, "não tem pesos"),
    "configuração": ("config.json", lambda old: old[:50], "config.json: não é JSON"),
    "sem configuração": ("config.json", None, "falta config.json"),
    "camadas": (
        "config.json",
        lambda old: old.replace(b'layers": 2', b'layers": 5'),
        "faltam pesos",
    ),
    "tokenizador": ("tokenizer.json", lambda old: old[:900], "tokenizer.json: não é JSON"),
    "sistema": ("chat_template.jinja", lambda old: b"{{ raise_exception('no') }}", "de sistema"),
    "sem sistema": ("chat_template.jinja", lambda old: b"{{ messages[1].content }}", "de sistema"),
    "vocabulário": (
        "config.json",
        lambda old: old.replace(b'vocab_size": 600', b'vocab_size": 300'),
        "tem 600 tokens, e o modelo só conhece 300",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_model_is_one_sentence(tiny_llama, tmp_path, kind):
    """O que faltasse nos pesos o transformers sortearia, sem dizer."""
    name, change, words = BROKEN[kind]
    folder = shutil.copytree(tiny_llama, tmp_path / "modelo")
    old = (folder / name).read_bytes()
    (folder / name).unlink()
    if change:
        (folder / name).write_bytes(change(old))
        assert change(old) != old
    with pytest.raises(UserError, match=words):
        models.load_tokenizer(str(folder))
        models.load_model(str(folder))


def test_a_text_longer_than_the_model_reads_is_refused(tiny_gpt2, tmp_path):
    """Num GPT-2, a posição que não existe seria um IndexError no meio do treino."""
    folder = shutil.copytree(tiny_gpt2, tmp_path / "curto")
    config = (folder / "config.json").read_text().replace('positions": 2048', 'positions": 32')
    (folder / "config.json").write_text(config)
    tokenizer = models.load_tokenizer(str(folder))
    with pytest.raises(UserError, match="até 32 tokens por vez"):
        training.encode_pair(tokenizer, TURNS, "SELECT nome FROM clientes " * 9)
    with pytest.raises(UserError, match="até 32 tokens por vez"):
        next(decoding.stream(None, tokenizer, "quantos clientes?", 40))


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_gpt2"])
def test_the_answer_loss_is_the_loss_of_the_library(fixture, request):
    """Pular os logits do prompt não muda a perda nem os gradientes."""
    name, found = str(request.getfixturevalue(fixture)), []
    batch = training.pad([training.masked([5, 6, 7], [8, 9, 2]), training.masked([5], [10, 2])], 0)
    for loss_of in (lambda model, batch: model(**batch).loss, training.answer_loss):
        model = models.load_model(name)
        batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
        loss = loss_of(model, batch)
        loss.backward()
        found.append((loss.item(), model.get_input_embeddings().weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)
    logits, answers = training.answer_logits(model, batch)
    assert answers.tolist() == [8, 9, 2, 10, 2] and logits.shape == (5, model.config.vocab_size)


@pytest.mark.parametrize(
    "kind", [Gemma2Config(final_logit_softcapping=0.5), GraniteConfig(logits_scaling=4.0)]
)
def test_logits_changed_after_the_head_enter_the_loss(kind):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    kind.update(sizes | heads | {"layer_types": ["full_attention"], "pad_token_id": 0})
    model = AutoModelForCausalLM.from_config(kind).eval()
    model.get_output_embeddings().weight.data *= 20
    batch = training.pad([training.masked([5, 6, 7], [8, 9, 2]), training.masked([5], [10, 2])], 0)
    loss = model(**batch).loss.item()
    assert training.answer_loss(model, batch).item() == pytest.approx(loss, rel=1e-4)


def test_similar_lengths_is_one_shuffled_pass_over_all():
    lengths = random.Random(1).choices(range(10, 200), k=203)
    batches = training.similar_lengths(lengths, 8, random.Random(6), short_last=True)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert [len(batch) for batch in batches] == [8] * 25 + [3]
    padding = sum(len(b) * max(lengths[i] for i in b) for b in batches) / sum(lengths)
    assert padding < 1.15  # ao acaso, os lotes seriam mais de 1,6 vez o texto
    means = torch.tensor([sum(lengths[i] for i in b) / len(b) for b in batches])
    places = torch.arange(len(means), dtype=torch.float)
    assert torch.corrcoef(torch.stack([means, places]))[0, 1].abs() < 0.5  # sem desfile
    again = training.similar_lengths(lengths, 8, random.Random(6), short_last=True)
    assert again == batches


def test_alone_is_another_process_and_its_errors_come_back():
    assert process.alone(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        process.alone(divmod, 1, 0)
    with pytest.raises(UserError, match="morreu antes de responder"):
        process.alone(os._exit, 9)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 1), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
    ids=["GTX 1080", "T4", "A100", "H100"],
)
def test_a_gpu_without_bf16_computes_in_fp16(capability, dtype):
    assert str(models.gpu_dtype(capability)) == f"torch.{dtype}"


def test_a_saved_nf4_computes_in_the_precision_asked_for(wide_llama, tmp_path):
    """A pasta diz bf16, que um processador sem ele emula, bem mais devagar."""
    pytest.importorskip("bitsandbytes")
    saved = AutoModelForCausalLM.from_pretrained(
        wide_llama, dtype=torch.float32, quantization_config=models.nf4(torch.bfloat16)
    )
    saved.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        found = models.load_model(str(tmp_path))(input_ids=ids).logits
        same = models.load_model(str(wide_llama), load_in_4bit=True)(input_ids=ids).logits
    assert torch.equal(found, same)


def test_bigger_models_take_smaller_learning_rates():
    sizes = (135_000_000, 1_235_814_400, 3_821_079_552, 6_738_415_616)
    assert [lora_rates(size)[1] for size in sizes] == [4e-3, 5e-4, 5e-4, 2e-4]
    assert all(low < high for low, high in map(lora_rates, sizes))


def test_the_plain_loop_teaches_in_a_single_step(tiny_llama):
    plan = SimpleNamespace(model=str(tiny_llama), r=4, seed=0, batch_size=2)
    model = adapters.lora(plan)
    adapters.fit(model, [training.masked([5, 6], [9, 8, 2])] * 2, {"": 1e-2}, 1, plan)
    assert any(weight.any() for name, weight in model.named_parameters() if "lora_B" in name)


def test_in_fp16_the_loss_is_scaled_and_the_training_learns(tiny_llama, monkeypatch):
    for module in (models, adapters):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.float16)
    tokenizer = models.load_tokenizer(str(tiny_llama))
    rows = [training.masked(tokenizer("olá").input_ids, [9, 8, 2])] * 8
    batch = training.pad(rows, tokenizer.pad_token_id)
    plan = SimpleNamespace(model=str(tiny_llama), r=4, seed=0, batch_size=2)
    model = adapters.lora(plan)
    assert model.get_base_model().dtype == torch.float16 and models.grad_scaler().is_enabled()
    before = training.answer_loss(model, batch, mixed=True).item()
    adapters.fit(model, rows, {"": 2e-2}, 5, plan)
    assert training.answer_loss(model, batch, mixed=True).item() < before - 0.5
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
