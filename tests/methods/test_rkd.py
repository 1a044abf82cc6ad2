"""RKD against loops over pairs and triplets, and what it must not see: scale, rotation, shift."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.rkd import angle_loss, angles, distance_loss, distances


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def slow_distances(x: Tensor) -> list[list[float]]:
    raw = [[math.dist(a.tolist(), b.tolist()) for b in x] for a in x]
    positive = [d for row in raw for d in row if d > 0]
    return [[d * len(positive) / sum(positive) for d in row] for row in raw]


def slow_angle(x: Tensor, i: int, j: int, k: int) -> float:
    to_j, to_k = x[j] - x[i], x[k] - x[i]
    length = float(to_j.norm() * to_k.norm())
    return float(to_j @ to_k) / length if length > 0 else 0.0


def test_the_distance_loss_is_the_loop_over_all_pairs_with_the_diagonal() -> None:
    student, teacher = draw(0, 5, 3), 4 * draw(1, 5, 7)
    mine, theirs = slow_distances(student), slow_distances(teacher)
    slow = sum(smooth_l1(mine[i][j] - theirs[i][j]) for i in range(5) for j in range(5)) / 25
    assert float(distance_loss(student, teacher)) == pytest.approx(slow, rel=1e-9)


def test_the_angle_loss_is_the_loop_over_all_triplets() -> None:
    student, teacher = draw(0, 5, 3), draw(1, 5, 7)
    every = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    slow = sum(smooth_l1(slow_angle(student, *t) - slow_angle(teacher, *t)) for t in every) / 125
    assert float(angle_loss(student, teacher)) == pytest.approx(slow, rel=1e-9)


def test_a_right_angle_is_0_and_an_equilateral_triangle_is_a_half() -> None:
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert float(angles(corner)[0, 1, 2]) == pytest.approx(0, abs=1e-7)
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    assert float(angles(triangle)[0, 1, 2]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_scale_rotation_shift_and_order_do_not_matter(loss) -> None:
    student, teacher = draw(0, 6, 4), draw(1, 6, 5)
    plain, order = loss(student, teacher), torch.tensor([3, 0, 5, 1, 2, 4])
    turn, other = torch.linalg.qr(draw(2, 4, 4))[0], torch.linalg.qr(draw(3, 5, 5))[0]
    torch.testing.assert_close(loss(3 * student @ turn + 1, teacher), plain)
    torch.testing.assert_close(loss(student, 0.2 * teacher @ other - 2), plain)
    torch.testing.assert_close(loss(student[order], teacher[order]), plain)
    assert float(loss(7 * student @ turn, student)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_two_samples_at_one_place_give_finite_gradients_and_the_teacher_gets_none(loss) -> None:
    student, teacher = draw(0, 5, 4), draw(1, 5, 4).requires_grad_()
    student[1] = student[0]
    value = loss(student.requires_grad_(), teacher)
    mine, theirs = torch.autograd.grad(value, [student, teacher], allow_unused=True)
    assert value.isfinite() and mine.isfinite().all() and float(mine.abs().max()) < 10 and theirs is None


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_a_batch_that_is_one_place_costs_no_nan(loss) -> None:
    student = torch.ones(4, 3, requires_grad=True)
    value = loss(student, draw(0, 4, 3).float())
    assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


def test_in_float32_equal_rows_are_at_distance_zero_exactly_on_the_diagonal() -> None:
    assert not distances(100 + draw(0, 6, 8).float()).diagonal().any()


def test_the_angle_loss_looks_at_the_first_64_samples_only() -> None:
    student, teacher = draw(0, 70, 3), draw(1, 70, 4)
    torch.testing.assert_close(angle_loss(student, teacher), angle_loss(student[:64], teacher[:64]))


def test_both_losses_pass_gradcheck() -> None:
    student, teacher = draw(0, 4, 3).requires_grad_(), draw(1, 4, 5)
    for loss in (distance_loss, angle_loss):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, teacher), student)
