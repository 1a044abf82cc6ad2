"""C2KD (Huo et al., CVPR 2024): the Kendall gate, the non-target KL, and the loss of both nets and both proxies."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cmapkd.losses.labelled import cross_entropy
from cmapkd.losses.logits import kl_rows

PAIRS = 8192


def kendall(a: Float[Tensor, "b c"], b: Float[Tensor, "b c"], pairs: int = PAIRS) -> Float[Tensor, " b"]:
    """Kendall's τ_b of each row of a with the same row of b; 0 for a row of equal values.

    (concordant − discordant) / √(pairs untied in a · pairs untied in b). Beyond `pairs` pairs of classes, a fixed
    sample of that many stands for all.
    """
    i, j = class_pairs(a.shape[1], pairs)
    first, second = (a[:, i] - a[:, j]).sign(), (b[:, i] - b[:, j]).sign()
    untied = first.abs().sum(1) * second.abs().sum(1)
    return (first * second).sum(1) / untied.sqrt().clamp_min(1.0)


def class_pairs(classes: int, most: int = PAIRS) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Indices of all pairs of different classes, or of `most` drawn ones, always the same."""
    if classes * (classes - 1) // 2 <= most:
        i, j = torch.triu_indices(classes, classes, 1)
        return i, j
    seeded = torch.Generator().manual_seed(0)
    i = torch.randint(classes, (most,), generator=seeded)
    return i, (i + torch.randint(1, classes, (most,), generator=seeded)) % classes


def selected(teacher: Float[Tensor, "b c"], student: Float[Tensor, "b c"]) -> Bool[Tensor, " b"]:
    """OFSD's mask: samples whose classes both proxies rank alike, τ > 0."""
    return kendall(teacher.detach(), student.detach()) > 0


def non_target(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    labels: Int[Tensor, " b"],
    mask: Bool[Tensor, " b"],
    drop: bool = False,
) -> Float[Tensor, ""]:
    """L_NT(student ← teacher) = mean_i m_i · KL(teacher_i ‖ student_i) without the true class; teacher detached.

    The true class's logit is set to 0 on both sides, as released, and so keeps a share; `drop` takes it out.
    The mean is over the whole batch, not over the selected samples; unlabelled samples carry none.
    """
    mask, target = mask & (labels >= 0), labels.clamp_min(0)[:, None]
    if not drop:
        divergence = kl_rows(teacher.scatter(1, target, 0.0), student.scatter(1, target, 0.0))
    else:
        others = torch.ones_like(student, dtype=torch.bool).scatter(1, target, False)
        width = student.shape[1] - 1
        divergence = kl_rows(teacher[others].view(-1, width), student[others].view(-1, width))
    return (mask * divergence).mean()


def one_side(
    logits: Float[Tensor, "b c"],
    proxy: Float[Tensor, "b c"],
    other: Float[Tensor, "b c"],
    labels: Int[Tensor, " b"],
    mask: Bool[Tensor, " b"],
    drop: bool = False,
) -> Float[Tensor, ""]:
    """CE(z, y) + KL(sg z ‖ z^p) + KL(sg z^p ‖ z) + L_NT(z^p ← sg z^p of the other net)."""
    mutual = kl_rows(logits, proxy).mean() + kl_rows(proxy, logits).mean()
    return cross_entropy(logits, labels) + mutual + non_target(proxy, other, labels, mask, drop)


def c2kd(
    teacher: Float[Tensor, "b c"],
    student: Float[Tensor, "b c"],
    teacher_proxy: Float[Tensor, "b c"],
    student_proxy: Float[Tensor, "b c"],
    labels: Int[Tensor, " b"],
    drop: bool = False,
) -> Float[Tensor, ""]:
    """L_T + L_S, all weights and temperatures 1: teacher, student and both proxies learn together."""
    mask = selected(teacher_proxy, student_proxy)
    return one_side(teacher, teacher_proxy, student_proxy, labels, mask, drop) + one_side(
        student, student_proxy, teacher_proxy, labels, mask, drop
    )
