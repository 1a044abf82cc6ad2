"""Soft cross-entropy of affinities: open_clip's own loss to the digit, and KL's gradient to the digit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from torch import Tensor

import toy
from cmapkd.core.types import LogitScale, Pair, StudentOutputs, TeacherOutputs
from cmapkd.losses.affinity import affinity, soft_cross_entropy
from cmapkd.losses.logits import kl_rows, logits
from cmapkd.methods import METHODS
from cmapkd.methods.view import View


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def view(scale: float = 7.0, teacher_scale: float = 20.0) -> View:
    mine = Pair(draw(0, 5, 4), draw(1, 5, 4))
    theirs = Pair(draw(2, 5, 6), draw(3, 5, 6)).map(lambda x: F.normalize(x, dim=-1))
    return toy.view(
        StudentOutputs(mine, mine), torch.tensor(scale, dtype=torch.float64), torch.eye(5, dtype=torch.bool),
        TeacherOutputs(theirs, LogitScale(teacher_scale)),
    )  # fmt: skip


def total(method: str, of: View) -> Tensor:
    return torch.stack([weight * toy.term(term)(of) for term, weight in METHODS[method].weights.items()]).sum()


def test_open_clip_distill_is_open_clips_loss() -> None:
    of = view()
    mine, theirs = of.student.final.map(lambda x: F.normalize(x, dim=-1)), of.teacher.final
    contrastive, distill = DistillClipLoss()(
        mine.image,
        mine.text,
        of.similarity.scale,
        theirs.image,
        theirs.text,
        torch.tensor(of.teacher.similarity.scale, dtype=torch.float64),
    )
    torch.testing.assert_close(total("open_clip_distill", of), contrastive + distill)
    torch.testing.assert_close(total("tinyclip_affinity", of), 0.5 * contrastive + 0.5 * distill)


def test_the_rows_are_the_cross_entropy_with_soft_targets() -> None:
    teacher, student = draw(0, 4, 6), draw(1, 4, 6)
    expected = F.cross_entropy(student, teacher.softmax(1), reduction="none")
    torch.testing.assert_close(soft_cross_entropy(teacher, student), expected)


def test_soft_cross_entropy_and_kl_are_one_gradient_and_differ_by_the_teachers_entropy() -> None:
    teacher, student = draw(0, 4, 6), draw(1, 4, 6).requires_grad_()
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1)
    cross, divergence = soft_cross_entropy(teacher, student), kl_rows(teacher, student)
    torch.testing.assert_close(cross, divergence + entropy)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), student)[0] for x in (cross, divergence)))


def test_affinity_crd_relational_and_mobileclips_distillation_pull_alike() -> None:
    of = view()
    for leaf in (of.student.final.image, of.student.final.text, of.similarity.scale):
        leaf.requires_grad_()
    leaves = [of.student.final.image, of.student.final.text, of.similarity.scale]
    found = [torch.autograd.grad(toy.term(t)(of), leaves) for t in ("affinity", "crd_relational", "reinforced")]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


def test_each_side_has_its_own_scale_and_only_the_students_learns() -> None:
    rows = [draw(seed, 4, 5).requires_grad_() for seed in range(4)]
    mine, theirs = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (6.0, 9.0))
    gradients = torch.autograd.grad(affinity(*rows, mine, theirs), [*rows, mine, theirs], allow_unused=True)
    assert [g is None for g in gradients] == [False, False, True, True, False, True]
    assert float(affinity(*rows, 6.0, 9.0)) != pytest.approx(float(affinity(*rows, 9.0, 9.0)))


def test_the_least_value_is_the_teachers_entropy_and_not_zero() -> None:
    image, text = draw(0, 4, 5), draw(1, 4, 5)
    assert float(affinity(image, text, image, text, 5.0, 5.0)) > 0.1
    assert float(logits(image, text, image, text, 5.0, 5.0)) == pytest.approx(0, abs=1e-9)
