"""L_pyramid_align: which pairs of levels count, at which temperature, and where the gradient goes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.alignment import pyramid_align

LEVELS = 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sides(batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student image and text, teacher image and text, all [b, 4, 5]."""
    return draw(0, batch, LEVELS, 5), draw(1, batch, LEVELS, 5), draw(2, batch, LEVELS, 5), draw(3, batch, LEVELS, 5)


def temperatures() -> Tensor:
    return 0.2 + draw(4, LEVELS, LEVELS).square()


def only(i: int, j: int) -> Tensor:
    coupling = torch.zeros(LEVELS, LEVELS, dtype=torch.float64)
    coupling[i, j] = 1
    return coupling


def slow_pair(rows: tuple[Tensor, Tensor, Tensor, Tensor], i: int, j: int, tau: float, b: int) -> float:
    """½ [KL over texts of image b + KL over images of text b] of one pair of levels."""

    def softmax(values: list[float]) -> list[float]:
        return [math.exp(v) / sum(math.exp(u) for u in values) for v in values]

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    total, others = 0.0, range(len(rows[0]))
    for swap in (False, True):
        mine, theirs = (
            softmax([cosine(*((v[c, i], t[b, j]) if swap else (v[b, i], t[c, j]))) / tau for c in others])
            for v, t in (rows[:2], rows[2:])
        )
        total += 0.5 * sum(p * math.log(p / q) for p, q in zip(theirs, mine, strict=True))
    return total


def slow_loss(rows: tuple[Tensor, Tensor, Tensor, Tensor], tau: Tensor, coupling: Tensor) -> float:
    batch, total = len(rows[0]), 0.0
    for b in range(batch):
        for i in range(LEVELS):
            for j in range(LEVELS):
                alpha = float(coupling[i, j] if coupling.ndim == 2 else coupling[b, i, j])
                total += alpha * slow_pair(rows, i, j, float(tau[i, j]), b)
    return total / batch


def test_the_loss_is_the_coupled_sum_over_all_pairs_of_levels_and_both_directions() -> None:
    tau, coupling = temperatures(), draw(5, LEVELS, LEVELS).square()
    assert float(pyramid_align(*sides(), tau, coupling)) == pytest.approx(slow_loss(sides(), tau, coupling), rel=1e-12)


def test_a_coupling_per_sample_weighs_that_samples_row_and_column() -> None:
    tau, coupling = temperatures(), draw(5, 3, LEVELS, LEVELS).square()
    coupling[1], coupling[:, 2, 3] = 0, 0
    assert float(pyramid_align(*sides(), tau, coupling)) == pytest.approx(slow_loss(sides(), tau, coupling), rel=1e-12)


def test_a_coupling_with_one_entry_is_the_divergence_of_that_single_pair() -> None:
    tau = temperatures()
    slow = sum(slow_pair(sides(), 1, 2, float(tau[1, 2]), b) for b in range(3)) / 3
    assert float(pyramid_align(*sides(), tau, only(1, 2))) == pytest.approx(slow, rel=1e-12)


def test_equal_pairs_whose_couplings_sum_to_1_give_the_single_divergence() -> None:
    rows = tuple(x[:, :1].expand(-1, LEVELS, -1) for x in sides())
    tau = torch.full((LEVELS, LEVELS), 0.3, dtype=torch.float64)
    coupling = draw(5, LEVELS, LEVELS).square()
    spread = pyramid_align(*rows, tau, coupling / coupling.sum())
    torch.testing.assert_close(spread, pyramid_align(*rows, tau, only(0, 0)))


def test_a_pair_without_coupling_is_not_computed_and_pulls_on_nobody() -> None:
    image, text, teacher_image, teacher_text = sides()
    tau = temperatures()
    tau[0, 0] = 0  # would be a division by zero
    image.requires_grad_()
    text.requires_grad_()
    loss = pyramid_align(image, text, teacher_image, teacher_text, tau, only(1, 2))
    for gradient, level in zip(torch.autograd.grad(loss, [image, text]), (1, 2), strict=True):
        assert gradient[:, level].abs().max() > 1e-4
        others = [k for k in range(LEVELS) if k != level]
        assert gradient[:, others].abs().max() == 0


def test_no_coupling_at_all_is_a_loss_of_0_that_can_be_differentiated() -> None:
    image, text, teacher_image, teacher_text = sides()
    image.requires_grad_()
    loss = pyramid_align(image, text, teacher_image, teacher_text, temperatures(), torch.zeros(LEVELS, LEVELS))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, image)[0].abs().max() == 0


def test_a_student_that_speaks_as_the_teacher_costs_nothing_and_is_left_alone() -> None:
    image, text = draw(0, 3, LEVELS, 5).requires_grad_(), draw(1, 3, LEVELS, 5).requires_grad_()
    loss = pyramid_align(image, text, image.detach(), text.detach(), temperatures(), torch.ones(LEVELS, LEVELS))
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(loss, [image, text]))


def test_the_loss_is_blind_to_batch_order_and_to_either_sides_rotation_and_length() -> None:
    tau, coupling, order = temperatures(), draw(5, 3, LEVELS, LEVELS).square(), torch.tensor([2, 0, 1])
    rows, plain = sides(), pyramid_align(*sides(), tau, coupling)
    torch.testing.assert_close(pyramid_align(*(x[order] for x in rows), tau, coupling[order]), plain)
    mine, theirs = torch.linalg.qr(draw(6, 5, 5))[0], torch.linalg.qr(draw(7, 5, 5))[0]
    turned = [3 * x @ mine for x in rows[:2]] + [0.2 * x @ theirs for x in rows[2:]]
    torch.testing.assert_close(pyramid_align(*turned, tau, coupling), plain)


def test_images_and_texts_may_change_places_when_the_matrices_are_transposed() -> None:
    tau, coupling = temperatures(), draw(5, LEVELS, LEVELS).square()
    image, text, teacher_image, teacher_text = sides()
    swapped = pyramid_align(text, image, teacher_text, teacher_image, tau.T, coupling.T)
    torch.testing.assert_close(swapped, pyramid_align(*sides(), tau, coupling))


def test_neither_teacher_nor_coupling_learns_from_the_loss() -> None:
    rows, coupling = [x.requires_grad_() for x in sides()], torch.ones(LEVELS, LEVELS, requires_grad=True)
    gradients = torch.autograd.grad(
        pyramid_align(*rows, temperatures(), coupling), [*rows, coupling], allow_unused=True
    )
    assert [g is None for g in gradients] == [False, False, True, True, True]


def test_the_alignment_passes_gradcheck() -> None:
    image, text, teacher_image, teacher_text = sides()
    coupling = only(0, 3) + 0.5 * only(2, 1)
    assert torch.autograd.gradcheck(
        lambda v, t: pyramid_align(v, t, teacher_image, teacher_text, temperatures(), coupling),
        (image.requires_grad_(), text.requires_grad_()),
    )
