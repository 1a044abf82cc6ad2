"""Sigmoid losses against loops over pairs in float64, open_clip's SigLIP loss and the gradient of InfoNCE."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor

from cmapkd.core.types import LogitScale
from cmapkd.losses.both_kinds import align, chance
from cmapkd.losses.contrastive import info_nce
from cmapkd.losses.sigmoid import balanced_bias, matches, pair_cross_entropy, pair_divergence

SAME = torch.tensor([0, 1, 0, 2])  # two captions of image 0
POSITIVES = SAME[:, None] == SAME[None]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("positives", [None, POSITIVES])
def test_the_pair_loss_asks_of_every_pair_whether_it_is_a_match(positives) -> None:
    image, text, scale, bias = draw(0, 4, 5), draw(1, 4, 5), 6.0, -2.5
    slow = 0.0
    for i in range(4):
        for j in range(4):
            sign = 1 if (i == j if positives is None else bool(positives[i, j])) else -1
            slow -= math.log(sigma(sign * (scale * cosine(image[i], text[j]) + bias))) / 4
    assert float(align(image, text, LogitScale(scale, bias), positives)) == pytest.approx(slow, rel=1e-12)


def test_the_pair_loss_is_open_clips() -> None:
    image, text = (torch.nn.functional.normalize(draw(k, 4, 5), dim=-1) for k in range(2))
    scale, bias = torch.tensor(10.0).double(), torch.tensor(-10.0).double()
    torch.testing.assert_close(align(image, text, LogitScale(scale, bias)), SigLipLoss()(image, text, scale, bias))


def test_its_gradient_is_that_of_info_nce_with_the_sigmoid_in_place_of_the_mean_softmax() -> None:
    z = draw(2, 4, 4).requires_grad_()
    labels = torch.eye(4, dtype=torch.float64)
    both = [torch.autograd.grad(f, z)[0] for f in (pair_cross_entropy(z, labels), info_nce(z))]
    torch.testing.assert_close(both[0], (z.sigmoid() - labels) / 4)
    torch.testing.assert_close(both[1], (0.5 * (z.softmax(0) + z.softmax(1)) - labels) / 4)


def test_the_divergence_is_the_kl_of_two_coins_and_0_for_equal_ones() -> None:
    z, t = draw(3, 3, 3), draw(4, 3, 3).sigmoid()
    slow = 0.0
    for p, q in zip(t.flatten().tolist(), z.sigmoid().flatten().tolist(), strict=True):
        slow += (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 3
    assert float(pair_divergence(z, t)) == pytest.approx(slow, rel=1e-10)
    assert float(pair_divergence(z, z.sigmoid())) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_certain_targets_and_logits_of_any_size_stay_finite(target) -> None:
    z = torch.tensor([[-1e4, 1e4], [0.0, 80.0]], requires_grad=True)
    loss = pair_divergence(z, torch.full((2, 2), target))
    assert loss.isfinite() and torch.autograd.grad(loss, z)[0].isfinite().all()


def test_a_match_has_the_mean_of_its_rows_and_its_columns_softmax() -> None:
    z = draw(5, 3, 3)
    odds = z.exp().tolist()
    for i in range(3):
        for j in range(3):
            row, column = odds[i][j] / sum(odds[i]), odds[i][j] / sum(odds[k][j] for k in range(3))
            assert float(matches(z)[i, j]) == pytest.approx((row + column) / 2, rel=1e-12)


def test_the_captions_of_one_image_are_matches_together() -> None:
    z = draw(6, 4, 4)
    rows, columns = z.softmax(1).tolist(), z.softmax(0).tolist()
    found = matches(z, POSITIVES)
    for i in range(4):
        for j in range(4):
            row = sum(rows[i][k] for k in range(4) if SAME[k] == SAME[j])
            column = sum(columns[k][j] for k in range(4) if SAME[k] == SAME[i])
            assert float(found[i, j]) == pytest.approx((row + column) / 2, rel=1e-12)
    sure = matches(50.0 * POSITIVES.double(), POSITIVES)
    torch.testing.assert_close(sure, POSITIVES.double())
    torch.testing.assert_close(matches(z, torch.eye(4) > 0), matches(z))


@pytest.mark.parametrize("shift", [-100.0, 0.0, 60.0])
def test_at_the_balanced_bias_the_pair_loss_is_least(shift) -> None:
    z = 5 * draw(7, 4, 4) + shift
    bias = torch.tensor(balanced_bias(z, POSITIVES), dtype=torch.float64, requires_grad=True)
    loss = pair_cross_entropy(z + bias, POSITIVES.double())
    assert float(torch.autograd.grad(loss, bias)[0]) == pytest.approx(0, abs=1e-6)
    beside = [pair_cross_entropy(z + bias.detach() + d, POSITIVES.double()) for d in (-0.1, 0.1)]
    assert min(beside) > loss.detach()


@pytest.mark.parametrize("batch", [1, 2, 16, 1000])
def test_chance_is_the_least_loss_of_equal_logits(batch) -> None:
    labels = torch.eye(batch, dtype=torch.float64)
    biases = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    loss = min(float(-(torch.sigmoid(b).log() + (batch - 1) * torch.sigmoid(-b).log())) for b in biases)
    assert chance("sigmoid", batch) == pytest.approx(loss, abs=1e-3)
    assert chance("softmax", batch) == pytest.approx(float(info_nce(torch.zeros_like(labels))))


def test_the_sigmoid_losses_pass_gradcheck() -> None:
    rows = [draw(k, 3, 4).requires_grad_() for k in range(2)]
    mine = [draw(k, 1)[0].requires_grad_() for k in (2, 3)]
    assert torch.autograd.gradcheck(lambda i, t, s, b: align(i, t, LogitScale(s, b)), (*rows, *mine))
    z, t = draw(4, 3, 3).requires_grad_(), draw(5, 3, 3).sigmoid()
    assert torch.autograd.gradcheck(lambda x: pair_divergence(x, t), z)
