"""Relations between samples and between levels: loops, known values, and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.relation import layer_relation, level_similarity, relation, similarity_matrix


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum() / math.sqrt(float((x * x).sum() * (y * y).sum())))


def turn(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(draw(seed, size, size))[0]


def test_the_sample_similarity_is_the_cosine_after_the_batch_mean_is_taken_off() -> None:
    x = 5 + draw(0, 4, 3)
    mean = sum(x[b] for b in range(4)) / 4
    slow = [[cosine(x[a] - mean, x[b] - mean) for b in range(4)] for a in range(4)]
    torch.testing.assert_close(similarity_matrix(x), torch.tensor(slow, dtype=torch.float64))


def test_relation_is_the_mean_squared_difference_over_pairs_of_different_samples() -> None:
    student, teacher = draw(0, 5, 3), 2 + draw(1, 5, 7)
    centred = [x - x.mean(0) for x in (student, teacher)]
    squares = [
        (cosine(centred[1][a], centred[1][b]) - cosine(centred[0][a], centred[0][b])) ** 2
        for a in range(5)
        for b in range(5)
        if a != b
    ]
    assert len(squares) == 5 * 4
    assert float(relation(student, teacher)) == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_a_rotated_scaled_and_shifted_teacher_is_already_matched() -> None:
    teacher = draw(0, 6, 4)
    assert float(relation(3 * teacher @ turn(1, 4) + 7, teacher)) == pytest.approx(0, abs=1e-12)


def test_a_simplex_against_two_clusters_is_eight_ninths() -> None:
    clusters = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert float(relation(clusters, torch.eye(4))) == pytest.approx(8 / 9, abs=1e-6)


def test_relation_is_blind_to_batch_order_and_to_either_sides_rotation_length_and_mean() -> None:
    student, teacher = draw(0, 5, 3), draw(1, 5, 7)
    plain, order = relation(student, teacher), torch.tensor([4, 1, 3, 0, 2])
    torch.testing.assert_close(relation(student[order], teacher[order]), plain)
    torch.testing.assert_close(relation(0.2 * student @ turn(2, 3) - 4, 6 * teacher @ turn(3, 7) + 1), plain)


def test_relation_does_not_grow_with_the_batch() -> None:
    def expected(size: int) -> float:
        return sum(float(relation(draw(s, size, 8), draw(1000 + s, size, 8))) for s in range(60)) / 60

    assert expected(48) == pytest.approx(expected(24), rel=0.05)


def test_a_lone_sample_has_no_relation_and_makes_no_nan() -> None:
    student = draw(0, 1, 3).requires_grad_()
    loss = relation(student, draw(1, 1, 7))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, student)[0].abs().max() == 0


def test_a_student_that_says_the_same_of_every_sample_gets_a_finite_gradient() -> None:
    student = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    loss = relation(student, torch.eye(4, dtype=torch.float64))
    assert loss.item() == pytest.approx(1 / 9), "G_S is 0 off the diagonal, G_T is -1/3"
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_the_level_similarity_is_the_cosine_of_a_samples_levels() -> None:
    x = draw(0, 2, 4, 3)
    slow = [[[cosine(x[b, k], x[b, m]) for m in range(4)] for k in range(4)] for b in range(2)]
    torch.testing.assert_close(level_similarity(x), torch.tensor(slow, dtype=torch.float64))


def test_layer_relation_is_the_mean_over_samples_and_pairs_of_different_levels() -> None:
    student, teacher = draw(0, 3, 4, 5), draw(1, 3, 4, 7)
    squares = [
        (cosine(teacher[b, k], teacher[b, m]) - cosine(student[b, k], student[b, m])) ** 2
        for b in range(3)
        for k in range(4)
        for m in range(4)
        if k != m
    ]
    assert float(layer_relation(student, teacher)) == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_orthogonal_levels_against_equal_levels_is_1_and_a_rotation_is_0() -> None:
    apart, equal = torch.eye(8)[None], torch.ones(1, 8, 3)
    assert float(layer_relation(apart, equal)) == pytest.approx(1, abs=1e-6)
    assert float(layer_relation(equal, apart)) == pytest.approx(1, abs=1e-6)
    levels = draw(0, 3, 8, 5)
    assert float(layer_relation(levels @ turn(1, 5), levels)) == pytest.approx(0, abs=1e-12)


def test_layer_relation_is_blind_to_order_to_rotation_and_to_each_levels_length() -> None:
    student, teacher = draw(0, 4, 8, 5), draw(1, 4, 8, 6)
    plain, order, levels = (
        layer_relation(student, teacher),
        torch.tensor([2, 0, 3, 1]),
        torch.tensor([3, 7, 0, 5, 1, 6, 2, 4]),
    )
    torch.testing.assert_close(layer_relation(student[order], teacher[order]), plain)
    torch.testing.assert_close(layer_relation(student[:, levels], teacher[:, levels]), plain)
    lengths = draw(2, 4, 8, 1).exp()
    torch.testing.assert_close(layer_relation(lengths * student @ turn(3, 5), teacher @ turn(4, 6)), plain)


def test_the_layers_of_one_sample_say_nothing_of_another() -> None:
    student, teacher = draw(0, 3, 8, 5).requires_grad_(), draw(1, 3, 8, 5)
    (plain,) = torch.autograd.grad(layer_relation(student, teacher), student)
    (changed,) = torch.autograd.grad(layer_relation(student, torch.cat([teacher[:2], -teacher[2:].square()])), student)
    torch.testing.assert_close(changed[:2], plain[:2])
    assert (changed[2] - plain[2]).abs().max() > 1e-4


def test_a_level_of_zeros_makes_no_nan() -> None:
    student = draw(0, 2, 4, 5)
    student[0, 1] = 0
    loss = layer_relation(student.requires_grad_(), draw(1, 2, 4, 5))
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


def test_the_relations_pass_gradcheck_and_keep_the_teacher_out() -> None:
    samples, levels = draw(0, 4, 3).requires_grad_(), draw(1, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relation(s, draw(2, 4, 5)), samples)
    assert torch.autograd.gradcheck(lambda s: layer_relation(s, draw(3, 2, 4, 5)), levels)
    assert not relation(draw(0, 4, 3), draw(2, 4, 5).requires_grad_()).requires_grad
    assert not layer_relation(draw(1, 2, 4, 3), draw(3, 2, 4, 5).requires_grad_()).requires_grad
