"""fused.py: as camadas rápidas fazem as mesmas contas que o autograd, ida e volta."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from loja_sql.model import fused
from loja_sql.model.fused import accelerate_layers, answer_loss, supports_answer_loss

VOCABULARY, WIDTH, LAYERS = 131, 32, 2
LINEARS = 7 * LAYERS  # q, k, v, o, gate, up, down
NORMS = 2 * LAYERS + 1
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def tiny_llama(**options):
    shape = {"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=80,
            num_attention_heads=4,
            max_position_embeddings=64,
            **shape | options,
        )
    )


def with_lora(seed=0, **options):
    """Llama aleatório com LoRA.

    B e as normas saem do valor inicial, que esconderia erros; a ativação é a do próprio torch,
    para que a MLP também seja trocada.
    """
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options}
    base = tiny_llama()
    for layer in base.model.layers:
        layer.mlp.act_fn = nn.SiLU()
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.train()


@pytest.fixture
def batch():
    """Três exemplos de comprimentos diferentes; só o fim de cada um tem rótulo."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (length, answer) in enumerate([(20, 8), (15, 5), (11, 1)]):
        mask[row, length:] = 0
        labels[row, length - answer : length] = ids[row, length - answer : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def logits_of(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def plain_loss(model, batch):
    """A perda de referência, com autograd e a cross_entropy do torch."""
    logits = logits_of(model, batch)[:, :-1].float()
    targets = batch["labels"][:, 1:]
    return functional.cross_entropy(
        logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=-100, reduction="sum"
    )


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def replaced(model):
    return [name for name, layer in model.named_modules() if "forward" in layer.__dict__]


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, msg=lambda m, n=name: f"{n}: {m}", rtol=rtol, atol=atol
        )


def doubled(**options):
    """O mesmo modelo duas vezes: como o peft o faz, e com as camadas trocadas."""
    plain = with_lora(**options)
    fast = copy.deepcopy(plain)
    return plain, fast, accelerate_layers(fast)


def test_outputs_and_gradients_equal_plain_autograd(batch):
    """Com todas as camadas trocadas, logits, perda e gradientes de A e B são os do autograd."""
    plain, fast, changed = doubled()
    assert changed == LINEARS + NORMS + LAYERS
    torch.testing.assert_close(logits_of(fast, batch), logits_of(plain, batch), **TOLERANCE)
    reference = plain_loss(plain, batch)
    expected = gradients(plain, reference)
    assert len(expected) == 2 * LINEARS, "A e B de cada camada linear, e mais nada"
    assert min(gradient.abs().max() for gradient in expected.values()) > 1e-4, "nulo nada prova"
    assert_close(gradients(fast, plain_loss(fast, batch)), expected)
    loss, _ = answer_loss(fast, batch)
    torch.testing.assert_close(loss, reference, **TOLERANCE)
    assert_close(gradients(fast, loss), expected)


def test_the_rows_of_merged_tokens_learn_as_in_autograd(batch):
    """Com as últimas linhas da tabela treinando, entrada e saída dão a elas o mesmo gradiente."""
    new = list(range(VOCABULARY - 40, VOCABULARY))
    plain, fast, _ = doubled(trainable_token_indices=new)
    assert supports_answer_loss(fast)
    reference, (loss, _) = plain_loss(plain, batch), answer_loss(fast, batch)
    torch.testing.assert_close(loss, reference, **TOLERANCE)
    expected = gradients(plain, reference)
    (rows,) = (name for name in expected if "lora_" not in name)
    assert expected[rows].abs().min() > 0, "toda linha nova entra nos logits"
    assert_close(gradients(fast, loss), expected)


def test_gradients_accumulate_like_autograd(batch):
    """Duas voltas sem zerar somam os gradientes: acumular 2 x 1 é o mesmo que 1 x 2."""
    model = with_lora()
    accelerate_layers(model)
    halves = [{k: v[:1] for k, v in batch.items()}, {k: v[1:] for k, v in batch.items()}]
    whole = gradients(model, answer_loss(model, batch)[0])
    model.zero_grad(set_to_none=True)
    for half in halves:
        answer_loss(model, half)[0].backward()
    found = {name: model.get_parameter(name).grad for name in whole}
    assert_close(found, whole, rtol=1e-3)


def test_optimizer_steps_stay_together(batch):
    """Dez passos de AdamW com e sem as camadas rápidas chegam aos mesmos pesos."""
    plain, fast, _ = doubled()
    for model, loss_of in ((plain, plain_loss), (fast, lambda m, b: answer_loss(m, b)[0])):
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            (loss_of(model, batch) / 14).backward()
            optimizer.step()
    before = dict(with_lora().named_parameters())
    for name, parameter in plain.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == ("lora_" in name), name
        torch.testing.assert_close(fast.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)


def test_saved_weights_do_not_notice(tmp_path, batch):
    """Salvar o adaptador com as camadas trocadas grava os mesmos pesos, e eles recarregam."""
    model = with_lora()
    names = set(model.state_dict())
    accelerate_layers(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = with_lora(seed=0)
    with torch.no_grad():
        for parameter in (p for n, p in again.named_parameters() if "lora_" in n):
            parameter.zero_()
    again.load_adapter(tmp_path, adapter_name="default", is_trainable=True)
    torch.testing.assert_close(logits_of(again, batch), logits_of(model, batch), **TOLERANCE)


def lora_replaced(model):
    return [name for name in replaced(model) if name.endswith("_proj")]


@pytest.mark.parametrize(
    ("options", "linears"),
    [({"lora_dropout": 0.5}, 0), ({"use_dora": True}, 0), ({"use_rslora": True}, LINEARS)],
    ids=["dropout", "dora", "rslora"],
)
def test_only_layers_of_the_plain_formula_are_replaced(options, linears, batch):
    """Com dropout ou DoRA, não; com rsLoRA (escala alpha/√r), sim: a escala é a do peft."""
    model = with_lora(**options).eval()
    before = logits_of(model, batch)
    assert accelerate_layers(model) == linears + NORMS + LAYERS
    assert len(lora_replaced(model)) == linears
    torch.testing.assert_close(logits_of(model, batch), before, **TOLERANCE)


def test_half_float_biased_and_merged_layers_are_left_alone():
    """Pesos em float16, viés e adaptador já fundido: a forma simples não vale."""
    model = with_lora()
    model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.to(torch.float16)
    accelerate_layers(model)
    assert len(lora_replaced(model)) == LINEARS - 1
    merged = with_lora()
    merged.merge_adapter()
    accelerate_layers(merged)
    assert lora_replaced(merged) == []
    biased = tiny_llama(num_hidden_layers=1, attention_bias=True)
    biased = get_peft_model(biased, LoraConfig(target_modules=["q_proj", "down_proj"]))
    accelerate_layers(biased)
    assert [name.rpartition(".")[2] for name in lora_replaced(biased)] == ["down_proj"]


def test_bfloat16_base_stays_close_to_full_precision(batch):
    """Base e ativações em bf16, adaptador em float32: perda e gradientes a menos de 5%."""
    plain = with_lora()
    fast = copy.deepcopy(plain)
    for name, parameter in fast.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    assert accelerate_layers(fast) == LINEARS + NORMS + LAYERS
    reference = plain_loss(plain, batch)
    loss, _ = answer_loss(fast, batch)
    torch.testing.assert_close(loss, reference, rtol=0.02, atol=0)
    expected, found = gradients(plain, reference), gradients(fast, loss)
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32, "o otimizador soma passos miúdos"
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < 0.05, f"{name}: {error:.3f}"


def test_trainable_norm_is_left_alone(batch):
    """A RMSNorm rápida não calcula o gradiente do peso: se ele é treinado, fica a original."""
    model = with_lora()
    final = model.get_base_model().model.norm
    final.weight.requires_grad_(True)
    assert accelerate_layers(model) == LINEARS + NORMS - 1 + LAYERS
    assert "forward" not in final.__dict__
    answer_loss(model, batch)[0].backward()
    assert final.weight.grad.abs().max() > 0


def test_mlp_of_a_stock_llama_is_replaced():
    """A MLP de um Llama como o transformers o cria também é trocada."""
    model = tiny_llama()
    accelerate_layers(model)
    assert sum(name.endswith(".mlp") for name in replaced(model)) == LAYERS


@pytest.mark.parametrize("rows", [1, 7])
def test_written_gradients_pass_gradcheck(rows):
    """Cada fórmula escrita à mão confere com diferenças finitas, em precisão dupla."""
    torch.manual_seed(2)

    def tensor(*shape, grad=True):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)

    x, weight = tensor(rows, 6), tensor(5, 6, grad=False)
    a, b = tensor(3, 6), tensor(5, 3)
    assert torch.autograd.gradcheck(
        lambda x, a, b: fused._LoraFunction.apply(x, weight, a, b, 0.7), (x, a, b)
    )
    scale = tensor(6, grad=False)
    assert torch.autograd.gradcheck(lambda x: fused._RmsNormFunction.apply(x, scale, 1e-5), (x,))
    assert torch.autograd.gradcheck(fused._SwigluFunction.apply, (tensor(rows, 4), tensor(rows, 4)))


@pytest.mark.parametrize("chunk", [1, 3, 14, 1000])
def test_answer_loss_does_not_depend_on_the_chunk(monkeypatch, batch, chunk):
    """Em qualquer bloco, a soma é a da cross_entropy dos tokens com rótulo, e só eles contam."""
    model = with_lora()
    reference = plain_loss(model, batch)
    expected = gradients(model, reference)
    monkeypatch.setattr(fused, "HEAD_CHUNK", chunk)
    loss, count = answer_loss(model, batch)
    torch.testing.assert_close(loss, reference, **TOLERANCE)
    assert count == 8 + 5 + 1
    assert_close(gradients(model, loss), expected)


def test_answer_loss_ignores_the_prompt_and_the_padding(batch):
    """Mudar um token de preenchimento, ou o rótulo da primeira posição, nada muda."""
    model = with_lora().eval()
    with torch.no_grad():
        before = answer_loss(model, batch)
        batch["input_ids"][2, 11:] = 5
        batch["labels"][:, 0] = 7  # a primeira posição não é prevista por ninguém
        after = answer_loss(model, batch)
    torch.testing.assert_close(after[0], before[0], **TOLERANCE)
    assert after[1] == before[1]


def test_answer_loss_with_no_label_is_zero_tokens(batch):
    """Sem nenhum rótulo, a contagem é zero: quem chama percebe, em vez de ver perda 0 e sucesso."""
    batch["labels"].fill_(-100)
    loss, count = answer_loss(with_lora(), batch)
    assert (loss.item(), count) == (0.0, 0)


def test_answer_loss_works_without_adapter_and_trains_the_head_too(batch):
    """No treino completo, perda e gradientes de todos os pesos são os do modelo; e sem treinar."""
    torch.manual_seed(0)
    model = tiny_llama().eval()
    reference, (loss, _) = plain_loss(model, batch), answer_loss(model, batch)
    torch.testing.assert_close(loss, reference, **TOLERANCE)
    assert_close(gradients(model, loss), gradients(model, reference), **TOLERANCE)
    with torch.no_grad():
        torch.testing.assert_close(answer_loss(model, batch)[0], reference, **TOLERANCE)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_answer_loss_is_offered_only_where_it_is_exact():
    """Saída envolvida por LoRA ou de outra arquitetura: usa-se a perda do modelo."""
    assert supports_answer_loss(tiny_llama().requires_grad_(False))
    assert supports_answer_loss(with_lora())
    assert supports_answer_loss(tiny_llama()), "no treino completo, pelo autograd"
    assert not supports_answer_loss(with_lora(target_modules=["q_proj", "lm_head"]))
    other = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1))
    assert not supports_answer_loss(other.requires_grad_(False))
