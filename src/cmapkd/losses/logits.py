"""Distillation of final logits and embeddings: L_logits (KD, CRD of CLIP-KD) and L_fd."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cmapkd.losses.contrastive import similarity


def kl_rows(teacher: Float[Tensor, "b c"], student: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """KL( softmax teacher ‖ softmax student ) of each row of two logit matrices; gradient (P_S − P_T) per row."""
    target = teacher.detach().log_softmax(-1)
    return (target.exp() * (target - student.log_softmax(-1))).sum(-1)


def kl_both_ways(teacher: Float[Tensor, "b b"], student: Float[Tensor, "b b"]) -> Float[Tensor, " b"]:
    """½ [KL of rows + KL of columns], one value a sample."""
    return 0.5 * (kl_rows(teacher, student) + kl_rows(teacher.T, student.T))


def logits(
    student_image: Float[Tensor, "b e"],
    student_text: Float[Tensor, "b e"],
    teacher_image: Float[Tensor, "b f"],
    teacher_text: Float[Tensor, "b f"],
    student_scale: Float[Tensor, ""] | float,
    teacher_scale: Float[Tensor, ""] | float,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T² · mean_b ½ [KL(P_T ‖ P_S) rows + columns] of the batch's image-text logits.

    Hinton et al. 2015 (arXiv 1503.02531) on CLIP's logits; at T = 1 the CRD of CLIP-KD (arXiv 2307.12732).
    """
    teacher = teacher_scale * similarity(teacher_image, teacher_text) / temperature
    student = student_scale * similarity(student_image, student_text) / temperature
    return temperature**2 * kl_both_ways(teacher, student).mean()


def fd(student: Float[Tensor, "b e"], teacher: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
    """1 − cos of final embeddings, mean over the batch (FD of CLIP-KD: its 2000·MSE at E = 512 is 7.8 · this)."""
    return (1 - F.cosine_similarity(student, teacher.detach(), dim=-1)).mean()
