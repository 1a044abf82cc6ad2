"""Token errors, their means, and the gate that scales the gradient of a level in the trunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmapkd.losses.feature import SumOfSquares, gate, intra, token_error


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(w: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(loss per sample, trunk gradient [b, n, d], adapter gradients) of a gated level with a linear adapter."""
    trunk = draw(0, 3, 4, 5).requires_grad_()
    adapter = nn.Linear(5, 2).double()
    with torch.no_grad():
        adapter.weight.copy_(draw(1, 2, 5))
        adapter.bias.copy_(draw(2, 2))
    losses = token_error(adapter(gate(trunk, w)), draw(3, 3, 4, 2))
    into_trunk, *into_adapter = torch.autograd.grad(losses.sum(), [trunk, *adapter.parameters()])
    return losses, into_trunk, into_adapter


def test_the_gate_leaves_the_value_and_multiplies_the_gradient_by_the_weight() -> None:
    h, w = draw(0, 3, 4, 5).requires_grad_(), torch.tensor([0.0, 0.3, 2.5], dtype=torch.float64)
    out = gate(h, w)
    torch.testing.assert_close(out, h)
    upstream = draw(1, 3, 4, 5)
    (gradient,) = torch.autograd.grad(out, h, upstream)
    torch.testing.assert_close(gradient, torch.stack([w[b] * upstream[b] for b in range(3)]))


def test_a_weight_scales_what_reaches_the_trunk_while_loss_and_adapter_stay_as_they_were() -> None:
    w = torch.tensor([0.0, 0.25, 2.0], dtype=torch.float64)
    plain_loss, plain_trunk, plain_adapter = level(torch.ones(3, dtype=torch.float64))
    loss, trunk, adapter = level(w)
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(trunk, w[:, None, None] * plain_trunk)
    torch.testing.assert_close(adapter, plain_adapter)


def test_a_level_gated_off_for_every_sample_still_teaches_its_adapter() -> None:
    _, trunk, adapter = level(torch.zeros(3, dtype=torch.float64))
    assert trunk.abs().max() == 0
    assert all(gradient.abs().max() > 1e-3 for gradient in adapter)


def test_whoever_chose_the_weights_learns_nothing_from_the_loss_they_weigh() -> None:
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert not gate(draw(0, 3, 4, 5), w).requires_grad


def test_the_token_error_is_the_loop_over_real_tokens_and_channels() -> None:
    student, teacher = draw(0, 3, 4, 5), draw(1, 3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
    for chosen in (mask, None):
        slow = []
        for b in range(3):
            real = [n for n in range(4) if chosen is None or chosen[b, n]]
            squares = [(student[b, n, c] - teacher[b, n, c]) ** 2 for n in real for c in range(5)]
            slow.append(sum(squares) / len(squares))
        torch.testing.assert_close(token_error(student, teacher, chosen), torch.stack(slow))


def test_what_stands_at_padding_changes_neither_error_nor_gradient() -> None:
    teacher = draw(1, 2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    results = []
    for filler in (0.0, 1e6):
        student = draw(0, 2, 4, 3).masked_fill(~mask[..., None], filler).requires_grad_()
        error = token_error(student, teacher.masked_fill(~mask[..., None], -filler), mask)
        results.append((error, torch.autograd.grad(error.sum(), student)[0]))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][1][~mask].abs().max() == 0


def test_a_sample_without_a_real_token_has_error_0_and_a_finite_gradient() -> None:
    student = draw(0, 2, 3, 4).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    error = token_error(student, draw(1, 2, 3, 4), mask)
    assert error[1] == 0 and error[0] > 0
    (gradient,) = torch.autograd.grad(error.sum(), student)
    assert gradient.isfinite().all() and gradient[1].abs().max() == 0


def test_equal_silent_and_opposite_predictions_leave_0_1_and_4_of_standardised_targets() -> None:
    target = draw(0, 8, 4, 6)
    target = (target - target.mean((0, 1))) / target.std((0, 1), correction=0)
    for student, expected in ((target, 0.0), (torch.zeros_like(target), 1.0), (-target, 4.0)):
        assert float(token_error(student, target).mean()) == pytest.approx(expected, abs=1e-12)


def test_the_token_error_passes_gradcheck_and_keeps_the_teacher_out() -> None:
    student, teacher = draw(0, 2, 3, 2).requires_grad_(), draw(1, 2, 3, 2).requires_grad_()
    mask = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.autograd.gradcheck(lambda s: token_error(s, teacher.detach(), mask), student)
    assert torch.autograd.grad(token_error(student, teacher).sum(), [student, teacher], allow_unused=True)[1] is None


def test_the_sum_of_squares_has_the_bits_of_the_naive_one_in_value_and_gradient() -> None:
    for shape in ((5, 700), (3, 4, 33)):
        given, pull = draw(0, *shape).float(), draw(1, *shape[:-1]).float()
        results = []
        for total in (SumOfSquares.apply, lambda x: x.square().sum(-1)):
            x = given.clone().requires_grad_()
            value = total(x)
            results.append((value, torch.autograd.grad(value, x, pull)[0]))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_token_error_follows_the_batch_and_is_blind_to_channel_rotations() -> None:
    student, teacher = draw(0, 4, 3, 5), draw(1, 4, 3, 5)
    order, turn = torch.tensor([3, 1, 0, 2]), torch.linalg.qr(draw(2, 5, 5))[0]
    plain = token_error(student, teacher)
    torch.testing.assert_close(token_error(student[order], teacher[order]), plain[order])
    torch.testing.assert_close(token_error(student @ turn, teacher @ turn), plain)


def test_the_loss_is_the_unweighted_mean_over_samples_and_levels() -> None:
    errors = draw(0, 5, 4).square().requires_grad_()
    slow = sum(errors[b, k] for b in range(5) for k in range(4)) / 20
    torch.testing.assert_close(intra(errors), slow)
    torch.testing.assert_close(intra(errors[torch.tensor([4, 2, 0, 1, 3])]), slow)
    assert torch.autograd.gradcheck(intra, errors)
