"""Losses of all four pairs of kinds, from their equations in loops: what the student's probabilities are and the teacher's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmapkd.core.types import LogitScale, Pair
from cmapkd.losses import affinity as affinities
from cmapkd.losses import contrastive, logits
from cmapkd.losses.both_kinds import affinity, align, distill, interactive
from cmapkd.losses.gradient import contrastive_gradients, gradient_distance
from cmapkd.losses.sigmoid import pair_cross_entropy

KINDS = ("softmax", "sigmoid")
B = 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = Pair(draw(0, B, 5), draw(1, B, 5)), Pair(draw(2, B, 7), draw(3, B, 7))
MINE = {"softmax": LogitScale(6.0), "sigmoid": LogitScale(6.0, -1.5)}
THEIRS = {"softmax": LogitScale(9.0), "sigmoid": LogitScale(9.0, -4.0)}


def table(rows: Pair[Tensor], of: LogitScale, temperature: float = 1.0) -> list[list[float]]:
    bias = of.bias or 0.0
    return [
        [(of.scale * float(v @ t / (v.norm() * t.norm())) + bias) / temperature for t in rows.text] for v in rows.image
    ]


def conditional(odds: list[list[float]]) -> list[list[float]]:
    """P(j | i) given that exactly one pair of the row is a match and pairs are independent: by counting all outcomes."""
    p = [[o / (1 + o) for o in row] for row in odds]
    out = []
    for row in p:
        one = [
            math.prod(q if k == j else 1 - q for k, q in enumerate(row)) for j in range(len(row))
        ]  # only j is a match
        out.append([value / sum(one) for value in one])
    return out


def turned(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def by_loops(student: str, teacher: str, temperature: float = 1.0, entropy: bool = True) -> float:
    """T² KL (or the cross-entropy without `entropy`) of the two models' probabilities."""
    odds = [
        [[math.exp(z) for z in row] for row in table(rows, of[kind], temperature)]
        for rows, of, kind in ((STUDENT, MINE, student), (TEACHER, THEIRS, teacher))
    ]
    ways = [(conditional(o), turned(conditional(turned(o)))) for o in odds]
    total = 0.0
    for i in range(B):
        for j in range(B):
            if student == "softmax":
                for q, p in zip(*([way[i][j] for way in side] for side in ways), strict=True):
                    total += 0.5 * p * (math.log(p if entropy else 1) - math.log(q)) / B
            else:
                q = odds[0][i][j] / (1 + odds[0][i][j])
                p = (
                    odds[1][i][j] / (1 + odds[1][i][j])
                    if teacher == "sigmoid"
                    else (ways[1][0][i][j] + ways[1][1][i][j]) / 2
                )
                for a, b in ((p, q), (1 - p, 1 - q)):
                    total += a * (math.log(a if entropy else 1) - math.log(b)) / B
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_distillation_is_the_kl_of_the_two_models_probabilities(student, teacher, temperature) -> None:
    found = distill(STUDENT, TEACHER, MINE[student], THEIRS[teacher], None, temperature)
    assert float(found) == pytest.approx(by_loops(student, teacher, temperature), rel=1e-9)


@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_affinity_is_the_cross_entropy_of_the_same_probabilities(student, teacher) -> None:
    found = affinity(STUDENT, TEACHER, MINE[student], THEIRS[teacher])
    assert float(found) == pytest.approx(by_loops(student, teacher, entropy=False), rel=1e-9)


def test_between_two_softmax_models_each_loss_is_the_one_of_a_scale_alone_bit_for_bit() -> None:
    six, nine = MINE["softmax"], THEIRS["softmax"]
    rows = (STUDENT.image, STUDENT.text, TEACHER.image, TEACHER.text)
    positives = torch.tensor([0, 1, 0, 2])[:, None] == torch.tensor([0, 1, 0, 2])
    assert torch.equal(distill(STUDENT, TEACHER, six, nine, positives, 2.0), logits.logits(*rows, 6.0, 9.0, 2.0))
    assert torch.equal(affinity(STUDENT, TEACHER, six, nine, positives), affinities.affinity(*rows, 6.0, 9.0))
    assert torch.equal(align(*rows[:2], six, positives), contrastive.align(*rows[:2], 6.0, positives))
    crossed = interactive(STUDENT, STUDENT, six, positives)
    assert torch.equal(crossed, contrastive.interactive(*rows[:2], *rows[:2], 6.0, positives))


def test_a_softmax_student_does_not_see_a_sigmoid_teachers_bias() -> None:
    found = [distill(STUDENT, TEACHER, MINE["softmax"], LogitScale(9.0, bias)) for bias in (-50.0, 0.0, None)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.parametrize("teacher", KINDS)
def test_the_gradient_replaces_the_students_probability_by_the_teachers(teacher) -> None:
    """(P_S − P_T) / B, P the mean of both softmaxes or the sigmoid: one form for all four pairs."""
    z = draw(5, B, B).requires_grad_()
    target = torch.tensor(table(TEACHER, THEIRS[teacher]), dtype=torch.float64)
    wanted = target.sigmoid() if teacher == "sigmoid" else 0.5 * (target.softmax(0) + target.softmax(1))
    (found,) = torch.autograd.grad(pair_cross_entropy(z, wanted), z)
    torch.testing.assert_close(found, (z.sigmoid() - wanted) / B)
    (found,) = torch.autograd.grad(logits.kl_both_ways(target, z).mean(), z)
    mean = [0.5 * (x.softmax(0) + x.softmax(1)) for x in (z, target)]
    torch.testing.assert_close(found, (mean[0] - mean[1]) / B)


def test_icl_of_a_sigmoid_student_is_the_pair_loss_against_the_opposite_tower() -> None:
    mine, theirs = STUDENT, Pair(draw(2, B, 5), draw(3, B, 5))
    positives = torch.tensor([0, 1, 0, 2])[:, None] == torch.tensor([0, 1, 0, 2])
    slow = 0.0
    for rows in (Pair(mine.image, theirs.text), Pair(mine.text, theirs.image)):
        for i, row in enumerate(table(rows, MINE["sigmoid"])):
            for j, z in enumerate(row):
                slow += math.log(1 + math.exp(-z if positives[i, j] else z)) / (2 * B)
    assert float(interactive(mine, theirs, MINE["sigmoid"], positives)) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_the_student_alone_is_taught_its_bias_too_and_all_of_it_passes_gradcheck(student, teacher) -> None:
    rows = [x.clone().requires_grad_() for x in (STUDENT.image, STUDENT.text, TEACHER.image, TEACHER.text)]
    numbers = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (6.0, -1.5, 9.0, -4.0)]

    def of(scale: Tensor, bias: Tensor, kind: str) -> LogitScale:
        return LogitScale(scale, bias if kind == "sigmoid" else None)

    for loss in (distill, affinity):
        value = loss(Pair(*rows[:2]), Pair(*rows[2:]), of(*numbers[:2], student), of(*numbers[2:], teacher))
        found = torch.autograd.grad(value, [*rows, *numbers], allow_unused=True)
        taught = [True, True, False, False, True, student == "sigmoid", False, False]
        assert [g is not None and bool(g.abs().sum() > 0) for g in found] == taught

    def of_student(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return distill(Pair(image, text), TEACHER, of(scale, bias, student), THEIRS[teacher])

    assert torch.autograd.gradcheck(of_student, (*rows[:2], *numbers[:2]))


@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_gd_compares_the_gradients_of_each_sides_own_contrastive_loss(student, teacher) -> None:
    theirs = Pair(draw(2, B, 5), draw(3, B, 5))
    positives = torch.tensor([0, 1, 0, 2])[:, None] == torch.tensor([0, 1, 0, 2])

    def one_way(a: Tensor, b: Tensor, of: LogitScale) -> Tensor:
        if of.kind == "sigmoid":
            return align(a, b, of, positives)
        z = of.scale * a @ b.T
        return (z.logsumexp(1) - z.masked_fill(~positives, -math.inf).logsumexp(1)).mean()

    slow = 0.0
    for swap in (False, True):
        grads = []
        for rows, of in ((STUDENT, MINE[student]), (theirs, THEIRS[teacher])):
            a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (rows.image, rows.text))
            a, b = (x.requires_grad_() for x in ((b, a) if swap else (a, b)))
            grads.append(torch.autograd.grad(one_way(a, b, of), [a, b]))
            if of.kind == "sigmoid":  # `align` normalises, so its gradient lacks the part along the rows
                found = contrastive_gradients(a.detach(), b.detach(), of.scale, positives, of.bias)
                for x, g, h in zip((a, b), found, grads[-1], strict=True):
                    torch.testing.assert_close(g - (g * x).sum(1, keepdim=True) * x, h)
                grads[-1] = found
        slow += sum(float((g - h).square().mean()) for g, h in zip(*grads, strict=True))
    found = gradient_distance(
        STUDENT.image, STUDENT.text, theirs.image, theirs.text, MINE[student], THEIRS[teacher], positives
    )
    assert float(found) == pytest.approx(slow, rel=1e-9)
