"""The contrastive loss and its interactive form against loops, known logarithms and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.losses.contrastive import align, info_nce, interactive, similarity


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positives_of(images: list[int]) -> Tensor:
    rows = torch.tensor(images)
    return rows[:, None] == rows[None, :]


def slow_direction(logits: list[list[float]], positives: Tensor) -> float:
    total = 0.0
    for b, row in enumerate(logits):
        everything = sum(math.exp(z) for z in row)
        hits = sum(math.exp(z) for c, z in enumerate(row) if positives[b, c])
        total -= math.log(hits / everything)
    return total / len(logits)


def slow_cosines(a: Tensor, b: Tensor) -> list[list[float]]:
    return [[float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())) for y in b] for x in a]


def test_similarity_is_the_cosine_of_every_pair_of_rows() -> None:
    a, b = draw(0, 3, 5), draw(1, 4, 5)
    torch.testing.assert_close(similarity(a, b), torch.tensor(slow_cosines(a, b), dtype=torch.float64))
    torch.testing.assert_close(similarity(7 * a, 0.1 * b), similarity(a, b))


@pytest.mark.parametrize("images", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2]])
def test_info_nce_is_the_mean_of_both_directions_with_every_caption_of_the_image_positive(images: list[int]) -> None:
    logits, positives = 3 * draw(0, 5, 5), positives_of(images)
    slow = 0.5 * (slow_direction(logits.tolist(), positives) + slow_direction(logits.T.tolist(), positives.T))
    assert float(info_nce(logits, positives)) == pytest.approx(slow, rel=1e-12)


def test_without_a_mask_the_diagonal_is_the_positive() -> None:
    logits = draw(0, 5, 5)
    torch.testing.assert_close(info_nce(logits), info_nce(logits, torch.eye(5, dtype=torch.bool)))


def test_indistinguishable_pairs_cost_ln_b() -> None:
    assert float(info_nce(torch.zeros(4, 4))) == pytest.approx(1.386294, abs=1e-6)
    same = torch.ones(4, 3)
    assert float(align(same, same, 100.0)) == pytest.approx(math.log(4), rel=1e-5)


def test_a_diagonal_of_ln_9_costs_minus_ln_of_three_quarters() -> None:
    assert float(info_nce(math.log(9) * torch.eye(4))) == pytest.approx(0.287682, abs=1e-6)


def test_a_batch_of_one_image_is_all_positive_and_costs_nothing() -> None:
    logits = draw(0, 3, 3).requires_grad_()
    loss = info_nce(logits, torch.ones(3, 3, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12
    assert float(align(draw(1, 1, 4), draw(2, 1, 4), 10.0)) == pytest.approx(0, abs=1e-12)


def test_exchanging_the_captions_of_one_image_changes_nothing() -> None:
    image, text, positives = draw(0, 4, 6), draw(1, 4, 6), positives_of([0, 0, 1, 2])
    exchanged = text[[1, 0, 2, 3]]
    torch.testing.assert_close(align(image, exchanged, 5.0, positives), align(image, text, 5.0, positives))
    assert not torch.isclose(align(image, exchanged, 5.0), align(image, text, 5.0)), (
        "one positive each must tell them apart"
    )


def test_align_is_info_nce_of_scaled_cosines_and_trains_the_scale() -> None:
    image, text, scale = draw(0, 5, 6), draw(1, 5, 6), torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    logits = [[4.0 * c for c in row] for row in slow_cosines(image, text)]
    eye = torch.eye(5, dtype=torch.bool)
    slow = 0.5 * (slow_direction(logits, eye) + slow_direction([list(c) for c in zip(*logits, strict=True)], eye))
    loss = align(image, text, scale)
    assert loss.item() == pytest.approx(slow, rel=1e-12)
    assert torch.autograd.grad(loss, scale)[0] != 0


def test_align_is_blind_to_batch_order_common_rotation_and_length() -> None:
    image, text, positives = draw(0, 5, 6), draw(1, 5, 6), positives_of([0, 1, 1, 2, 3])
    plain = align(image, text, 8.0, positives)
    order, turn = torch.tensor([4, 2, 0, 1, 3]), torch.linalg.qr(draw(2, 6, 6))[0]
    torch.testing.assert_close(align(image[order], text[order], 8.0, positives[order][:, order]), plain)
    torch.testing.assert_close(align(image @ turn, text @ turn, 8.0, positives), plain)
    torch.testing.assert_close(align(3 * image, 0.2 * text, 8.0, positives), plain)


def test_confident_logits_stay_finite_in_float32() -> None:
    image = torch.eye(4).requires_grad_()
    loss = align(image, -torch.eye(4), 100.0)
    assert loss.item() == pytest.approx(100 + math.log(3), rel=1e-4)
    assert torch.autograd.grad(loss, image)[0].isfinite().all()


def test_the_interactive_loss_sets_each_student_tower_against_the_teachers_opposite_tower() -> None:
    student_image, student_text, teacher_image, teacher_text = (draw(seed, 5, 6) for seed in range(4))
    for images in ([0, 1, 2, 3, 4], [0, 0, 1, 2, 2]):
        positives = positives_of(images)
        mine = [[6.0 * c for c in row] for row in slow_cosines(student_image, teacher_text)]
        other = [[6.0 * c for c in row] for row in slow_cosines(student_text, teacher_image)]
        slow = 0.5 * (slow_direction(mine, positives) + slow_direction(other, positives))
        fast = interactive(student_image, student_text, teacher_image, teacher_text, 6.0, positives)
        assert float(fast) == pytest.approx(slow, rel=1e-12)
    default = interactive(student_image, student_text, teacher_image, teacher_text, 6.0)
    diagonal = interactive(student_image, student_text, teacher_image, teacher_text, 6.0, positives_of(list(range(5))))
    torch.testing.assert_close(default, diagonal)


def test_the_interactive_loss_sends_no_gradient_to_the_teacher() -> None:
    rows = [draw(seed, 4, 6).requires_grad_() for seed in range(4)]
    loss = interactive(*rows, 6.0)
    gradients = torch.autograd.grad(loss, rows, allow_unused=True)
    assert gradients[0] is not None and gradients[1] is not None
    assert gradients[2] is None and gradients[3] is None


def test_the_contrastive_losses_pass_gradcheck() -> None:
    image, text, scale = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4).requires_grad_(), draw(2, 1)[0].requires_grad_()
    positives = positives_of([0, 0, 1])
    assert torch.autograd.gradcheck(lambda i, t, s: align(i, t, s, positives), (image, text, scale))
    assert torch.autograd.gradcheck(lambda i, t: interactive(i, t, draw(3, 3, 4), draw(4, 3, 4), 2.0), (image, text))
