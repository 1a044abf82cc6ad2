"""Soft cross-entropy of the student's affinity matrices against the teacher's; its gradient is that of the KL divergence."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cmapkd.losses.contrastive import similarity


def soft_cross_entropy(teacher: Float[Tensor, "b c"], student: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """−Σ_c softmax(teacher)_c ln softmax(student)_c of each row: KL(teacher ‖ student) plus the teacher's entropy."""
    return -(teacher.detach().softmax(-1) * student.log_softmax(-1)).sum(-1)


def affinity(
    student_image: Float[Tensor, "b e"],
    student_text: Float[Tensor, "b e"],
    teacher_image: Float[Tensor, "b f"],
    teacher_text: Float[Tensor, "b f"],
    student_scale: Float[Tensor, ""] | float,
    teacher_scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """½ [CE(A_I2T) + CE(A_T2I)], mean over the batch, each side at its own scale (TinyCLIP; open_clip's DistillClipLoss)."""
    teacher = teacher_scale * similarity(teacher_image, teacher_text)
    student = student_scale * similarity(student_image, student_text)
    return 0.5 * (soft_cross_entropy(teacher, student) + soft_cross_entropy(teacher.T, student.T)).mean()
