"""Similarity of a model: its kind, its bounds, what a student takes over, and models whose numbers have one axis."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cmapkd.core.types import LogitScale
from cmapkd.towers.similarity import Similarity


def model(scale: float, bias: float | None = None, shape: tuple[int, ...] = ()) -> nn.Module:
    native = nn.Module()
    native.logit_scale = nn.Parameter(torch.full(shape, math.log(scale)))
    native.logit_bias = None if bias is None else nn.Parameter(torch.full(shape, bias))
    return native


@pytest.mark.parametrize("shape", [(), (1,)])  # a Hugging Face SiglipModel's numbers have one axis
def test_a_model_with_a_bias_is_of_the_sigmoid_kind(shape):
    soft, sigmoid = Similarity(model(20.0, shape=shape)), Similarity(model(20.0, -12.0, shape))
    assert (soft.kind, sigmoid.kind) == ("softmax", "sigmoid") == (soft.fixed().kind, sigmoid.fixed().kind)
    assert soft.fixed().scale == pytest.approx(20.0) and soft.fixed().bias is None and sigmoid.fixed().bias == -12.0
    learnt = sigmoid.learnt()
    assert learnt.scale.shape == learnt.bias.shape == () and learnt.scale.requires_grad and learnt.bias.requires_grad


def test_a_published_siglips_scale_of_117_is_kept_and_a_clips_is_at_most_100():
    soft, sigmoid = Similarity(model(117.3)), Similarity(model(117.3, -12.9))
    assert soft.fixed().scale == pytest.approx(100) and sigmoid.fixed().scale == pytest.approx(117.3)
    for one in (soft, sigmoid):
        one.clamp_()
    assert soft.fixed().scale == pytest.approx(100) and sigmoid.fixed().scale == pytest.approx(117.3)


@pytest.mark.parametrize(("found", "clamped"), [((1e4, -5000.0), (1000.0, -1000.0)), ((0.1, 5000.0), (1.0, 1000.0))])
def test_a_runaway_scale_and_bias_are_stopped(found, clamped):
    similarity = Similarity(model(*found))
    similarity.clamp_()
    assert similarity.fixed().scale == pytest.approx(clamped[0], rel=1e-5) and similarity.fixed().bias == clamped[1]


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(
    ("mine", "theirs", "bias"), [(None, None, None), (-10.0, -12.0, -12.0), (-10.0, None, -10.0), (None, -12.0, None)]
)
def test_a_student_takes_over_the_scale_and_the_bias_where_both_have_one(mine, theirs, bias, shape):
    similarity = Similarity(model(10.0, mine))
    similarity.copy_(Similarity(model(50.0, theirs, shape)))
    assert similarity.fixed().scale == pytest.approx(50.0) and similarity.fixed().bias == bias


def test_at_another_scale_the_cosine_in_the_middle_stays():
    of = LogitScale(10.0, -4.0)
    cosine = torch.tensor([0.4, 0.5])
    assert float(of.at(50.0).logits(cosine)[0]) == pytest.approx(0, abs=1e-5)
    assert of.at(50.0) == LogitScale(50.0, -20.0) and LogitScale(10.0).at(50.0) == LogitScale(50.0)
    torch.testing.assert_close(of.logits(cosine), torch.tensor([0.0, 1.0]))
