"""Distillation of logits and embeddings: direction of the divergence, gradient, temperature, and cosines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.logits import fd, kl_both_ways, kl_rows, logits


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def slow_kl(teacher: list[float], student: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student), strict=True))


def slow_logits(image: Tensor, text: Tensor, factor: float) -> Tensor:
    rows = [[factor * float((x @ y) / (x.norm() * y.norm())) for y in text] for x in image]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_divergence_runs_from_teacher_to_student() -> None:
    teacher, student = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert float(kl_rows(teacher, student)) == pytest.approx(0.368064, abs=1e-6)
    assert float(kl_rows(student, teacher)) == pytest.approx(0.510826, abs=1e-6)


def test_the_divergence_of_rows_is_the_loop_over_the_row() -> None:
    teacher, student = draw(0, 3, 5), draw(1, 3, 5)
    slow = [slow_kl(teacher[b].tolist(), student[b].tolist()) for b in range(3)]
    torch.testing.assert_close(kl_rows(teacher, student), torch.tensor(slow, dtype=torch.float64))


def test_the_gradient_of_the_divergence_is_the_difference_of_probabilities_over_b() -> None:
    teacher, student = draw(0, 3, 5), draw(1, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(kl_rows(teacher, student).mean(), student)
    torch.testing.assert_close(gradient, (student.softmax(-1) - teacher.softmax(-1)).detach() / 3)


def test_a_teacher_against_itself_costs_nothing_and_pulls_nowhere() -> None:
    same = draw(0, 4, 4).requires_grad_()
    loss = kl_both_ways(same.detach(), same).sum()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-12


def test_both_ways_is_half_the_rows_and_half_the_columns_of_the_same_sample() -> None:
    teacher, student = draw(0, 4, 4), draw(1, 4, 4)
    slow = []
    for b in range(4):
        row = slow_kl(teacher[b].tolist(), student[b].tolist())
        column = slow_kl([float(teacher[a, b]) for a in range(4)], [float(student[a, b]) for a in range(4)])
        slow.append(0.5 * (row + column))
    torch.testing.assert_close(kl_both_ways(teacher, student), torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_logit_loss_uses_each_sides_scale_and_is_multiplied_by_the_squared_temperature(temperature: float) -> None:
    student, teacher = [draw(s, 4, 5) for s in (0, 1)], [draw(s, 4, 7) for s in (2, 3)]
    mine, theirs = slow_logits(*student, 6.0 / temperature), slow_logits(*teacher, 9.0 / temperature)
    total = 0.0
    for b in range(4):
        total += 0.5 * slow_kl(theirs[b].tolist(), mine[b].tolist())
        total += 0.5 * slow_kl(theirs[:, b].tolist(), mine[:, b].tolist())
    fast = logits(*student, *teacher, 6.0, 9.0, temperature)
    assert float(fast) == pytest.approx(temperature**2 * total / 4, rel=1e-12)


def test_the_logit_loss_is_blind_to_batch_order_and_to_each_sides_rotation_and_length() -> None:
    student, teacher = [draw(s, 4, 5) for s in (0, 1)], [draw(s, 4, 7) for s in (2, 3)]
    plain = logits(*student, *teacher, 6.0, 9.0)
    order, mine, theirs = (
        torch.tensor([2, 0, 3, 1]),
        torch.linalg.qr(draw(4, 5, 5))[0],
        torch.linalg.qr(draw(5, 7, 7))[0],
    )
    torch.testing.assert_close(logits(*(x[order] for x in (*student, *teacher)), 6.0, 9.0), plain)
    torch.testing.assert_close(
        logits(*(3 * x @ mine for x in student), *(0.1 * x @ theirs for x in teacher), 6.0, 9.0), plain
    )


def test_a_certain_teacher_and_a_student_certain_of_the_opposite_stay_finite() -> None:
    teacher, student = 1e4 * torch.eye(3), (-1e4 * torch.eye(3)).requires_grad_()
    loss = kl_both_ways(teacher, student).mean()
    assert loss.item() == pytest.approx(1e4, rel=1e-3)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_the_logit_loss_teaches_only_the_student() -> None:
    rows = [draw(seed, 4, 5).requires_grad_() for seed in range(4)]
    mine, theirs = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (6.0, 9.0))
    gradients = torch.autograd.grad(logits(*rows, mine, theirs), [*rows, mine, theirs], allow_unused=True)
    assert [g is None for g in gradients] == [False, False, True, True, False, True]


def test_equal_orthogonal_and_opposite_embeddings_are_0_1_and_2_apart() -> None:
    teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert float(fd(5 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(fd(teacher.flip(0), teacher)) == pytest.approx(1, abs=1e-6)
    assert float(fd(-teacher, teacher)) == pytest.approx(2, abs=1e-6)


def test_fd_is_the_mean_of_one_minus_cosine_and_2000_mse_at_512_is_7_8_of_it() -> None:
    student, teacher = draw(0, 3, 512), draw(1, 3, 512)
    slow = sum(1 - float(s @ t / (s.norm() * t.norm())) for s, t in zip(student, teacher, strict=True)) / 3
    assert float(fd(student, teacher)) == pytest.approx(slow, rel=1e-12)
    units = [x / x.norm(dim=-1, keepdim=True) for x in (student, teacher)]
    assert 2000 * float((units[0] - units[1]).square().mean()) == pytest.approx(7.8125 * slow, rel=1e-9)


def test_fd_is_blind_to_batch_order_common_rotation_and_length() -> None:
    student, teacher, turn = draw(0, 4, 5), draw(1, 4, 5), torch.linalg.qr(draw(2, 5, 5))[0]
    order, plain = torch.tensor([3, 0, 2, 1]), fd(student, teacher)
    torch.testing.assert_close(fd(student[order], teacher[order]), plain)
    torch.testing.assert_close(fd(4 * student @ turn, 0.5 * teacher @ turn), plain)


def test_fd_keeps_the_teacher_out_and_survives_a_zero_embedding() -> None:
    student, teacher = draw(0, 3, 5), draw(1, 3, 5).requires_grad_()
    student[0] = 0
    loss = fd(student.requires_grad_(), teacher)
    gradients = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert loss.isfinite() and gradients[0].isfinite().all() and gradients[1] is None


def test_the_mimicry_losses_pass_gradcheck() -> None:
    image, text = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, t: logits(i, t, draw(2, 3, 5), draw(3, 3, 5), 3.0, 4.0, 2.0), (image, text)
    )
    assert torch.autograd.gradcheck(lambda i: fd(i, draw(2, 3, 4)), image)
