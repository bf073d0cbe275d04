"""O GPTQ: o que ele garante sobre os pesos, e o que se lê de volta da pasta gravada."""

import contextlib
import io

from comum import gptq
from comum.terminal import UserError

import pytest
import torch
from transformers import AutoModelForCausalLM


@pytest.fixture
def weight():
    return torch.randn(64, 576, generator=torch.Generator().manual_seed(0))


def test_it_loses_less_output_than_rounding(weight):
    x = torch.randn(2000, 576) @ torch.randn(576, 576)  # entradas correlacionadas
    losses = []
    for rounded, scales in (
        gptq.round_columns(weight, x.T @ x, 4, 64),
        gptq.round_to_nearest(weight, 4, 64),
    ):
        codes = rounded / scales.repeat_interleave(64, 1)
        assert codes.round().aminmax() == (-8, 7) and (codes - codes.round()).abs().max() < 1e-3
        losses.append((x @ (rounded - weight).T).norm())
    assert losses[0] < losses[1]


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (4, 32), (8, 64)])
def test_it_is_rounding_when_inputs_are_uncorrelated(weight, bits, group):
    rounded, scales = gptq.round_columns(weight, torch.eye(576), bits, group)
    expected, same_scales = gptq.round_to_nearest(weight, bits, group)
    assert torch.equal(rounded, expected) and torch.equal(scales, same_scales)


def test_what_it_cannot_quantize_is_refused(weight, tiny_gpt2):
    with pytest.raises(UserError, match="grupos de 128"):
        gptq.round_columns(weight, torch.eye(576), 4, 128)
    with pytest.raises(UserError, match="não conhece a arquitetura gpt2"):
        gptq.quantize(AutoModelForCausalLM.from_pretrained(tiny_gpt2), [[1, 2, 3]])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_saved_folder_gives_the_rounded_weights_back(wide_llama, tmp_path, capsys, bits):
    model = AutoModelForCausalLM.from_pretrained(wide_llama, dtype=torch.float32)
    capsys.readouterr()
    scales = gptq.quantize(model, [list(range(40)), list(range(30, 90))], bits, 64)
    assert len(scales) == 14 and all(name.startswith("model.layers.") for name in scales)
    expected = {name: model.get_submodule(name).weight.detach().clone() for name in scales}
    gptq.save(model, scales, bits, 64, tmp_path)
    captured = capsys.readouterr()
    bars = [line for line in captured.err.replace("\r", "\n").splitlines() if line]
    assert all(line.startswith("GPTQ:") for line in bars), "barras de progresso em inglês"
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
        found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        found(input_ids=torch.tensor([[1]]))  # os pesos se expandem na primeira passada
    for name, weight in expected.items():
        torch.testing.assert_close(
            found.get_submodule(name).weight.float(), weight, rtol=0.01, atol=0
        )
