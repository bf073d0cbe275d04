"""Dia 5: a quantização à mão contra o bitsandbytes, as técnicas e a lição num modelo minúsculo."""

import utils  # noqa: F401  (antes do torch)

import sys

import bitsandbytes
import exemplo_03_quantizacao as lesson
import pytest
import torch

import quantizacao_a_mao as hand
import tecnicas


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return torch.randn(64, 576)


def test_nf4_agrees_with_bitsandbytes(weight):
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, absmax = hand.nf4(weight)
    torch.testing.assert_close(hand.nf4_levels(), state.code, rtol=0, atol=1e-6)
    assert torch.equal(hand.pack4(codes), packed.reshape(-1))
    assert torch.equal(absmax, state.absmax)


def test_packing_round_trip(weight):
    codes, _ = hand.nf4(weight)
    assert torch.equal(hand.unpack4(hand.pack4(codes)), codes.reshape(-1))


def test_an_outlier_hurts_one_scale_more_than_one_per_row(weight):
    weight[0, 0] = 200
    errors = []
    for rows in (False, True):
        codes, scale = hand.int8(weight, rows)
        errors.append(hand.relative_error((codes * scale)[1:], weight[1:]))
    assert errors[1] < errors[0] / 5


def test_gptq_loses_less_output_than_rounding(weight):
    x = torch.randn(2000, 576) @ torch.randn(576, 576)  # entradas correlacionadas
    losses = []
    for codes, scales in (hand.gptq(weight, x.T @ x, 4, 64), hand.rtn(weight, 4, 64)):
        assert codes.min() >= -8 and codes.max() <= 7
        losses.append((x @ (codes * scales.repeat_interleave(64, 1) - weight).T).norm())
    assert losses[0] < losses[1]


def test_gptq_is_rounding_when_inputs_are_uncorrelated(weight):
    codes, scales = hand.gptq(weight, torch.eye(576), 4, 64)
    expected, same_scales = hand.rtn(weight, 4, 64)
    assert torch.equal(codes, expected) and torch.equal(scales, same_scales)


def test_bits_per_weight():
    assert tecnicas.TECHNIQUES["bnb-nf4"].bits_per_weight == 4.5
    assert tecnicas.TECHNIQUES["gptq-4bit-g64"].bits_per_weight == 4.25


def test_bad_group_and_bad_folder_are_refused(weight, tmp_path, monkeypatch):
    with pytest.raises(utils.UserError, match="grupos de 128"):
        hand.gptq(weight, torch.eye(576), 4, 128)
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(tmp_path)])
    with pytest.raises(utils.UserError, match="config.json"):
        lesson.main()


def test_a_missing_library_is_reported_with_its_command(monkeypatch):
    monkeypatch.setattr(tecnicas.importlib.util, "find_spec", lambda name: None)
    assert "pip install compressed-tensors" in tecnicas.missing(tecnicas.TECHNIQUES["rtn-4bit-g64"])
    assert tecnicas.missing(tecnicas.TECHNIQUES["fp32"]) is None
