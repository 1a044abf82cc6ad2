"""The labelled loss: class texts as classifier, unlabelled samples ignored."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.task import classification


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_loss(image: Tensor, classes: Tensor, scale: float, labels: list[int]) -> float:
    costs = []
    for x, label in zip(image, labels, strict=True):
        if label >= 0:
            values = [scale * float(x @ c / (x.norm() * c.norm())) for c in classes]
            costs.append(math.log(sum(math.exp(v) for v in values)) - values[label])
    return sum(costs) / len(costs)


@pytest.mark.parametrize("labels", [[2, 0, 1, 1], [2, -1, 1, -1]])
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_samples(labels: list[int]) -> None:
    image, classes = draw(0, 4, 5), draw(1, 3, 5)
    fast = classification(image, classes, 6.0, torch.tensor(labels))
    assert float(fast) == pytest.approx(slow_loss(image, classes, 6.0, labels), rel=1e-12)


def test_an_unlabelled_sample_gets_no_gradient() -> None:
    image = draw(0, 3, 5).requires_grad_()
    loss = classification(image, draw(1, 3, 5), 6.0, torch.tensor([0, -1, 2]))
    (gradient,) = torch.autograd.grad(loss, image)
    assert gradient[1].abs().max() == 0 and gradient[0].abs().max() > 1e-4


def test_a_batch_without_labels_costs_0_and_makes_no_nan() -> None:
    image = draw(0, 3, 5).requires_grad_()
    loss = classification(image, draw(1, 3, 5), 6.0, torch.tensor([-1, -1, -1]))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, image)[0].abs().max() == 0


def test_classes_that_cannot_be_told_apart_cost_ln_c() -> None:
    loss = classification(draw(0, 3, 5), torch.ones(7, 5, dtype=torch.float64), 50.0, torch.tensor([0, 3, 6]))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-12)


def test_the_loss_is_blind_to_batch_order_common_rotation_and_length() -> None:
    image, classes, labels = draw(0, 4, 5), draw(1, 3, 5), torch.tensor([2, -1, 1, 0])
    plain, order = classification(image, classes, 6.0, labels), torch.tensor([3, 0, 2, 1])
    turn = torch.linalg.qr(draw(2, 5, 5))[0]
    torch.testing.assert_close(classification(image[order], classes, 6.0, labels[order]), plain)
    torch.testing.assert_close(classification(3 * image @ turn, 0.1 * classes @ turn, 6.0, labels), plain)


def test_the_loss_passes_gradcheck_for_images_classes_and_scale() -> None:
    inputs = (draw(0, 3, 4).requires_grad_(), draw(1, 2, 4).requires_grad_(), draw(2, 1)[0].requires_grad_())
    assert torch.autograd.gradcheck(lambda i, c, s: classification(i, c, s, torch.tensor([1, -1, 0])), inputs)
