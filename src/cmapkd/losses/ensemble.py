"""Distillation from several teachers at once, each at its own temperature (MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cmapkd.core.types import Pair
from cmapkd.losses import logits


def ensemble(
    student: Pair[Tensor],
    student_scale: Float[Tensor, ""] | float,
    teachers: Sequence[Pair[Tensor]],
    teacher_scales: Sequence[float],
) -> Float[Tensor, ""]:
    """1/K Σ_k ½ [KL(P_k ‖ P_S) of rows + of columns], mean over the batch: the equation of L_Distill.

    student: [B, E_S] per modality; teachers: K pairs [B, E_k], whose widths may differ.
    """
    losses = [
        logits.logits(student.image, student.text, teacher.image, teacher.text, student_scale, scale)
        for teacher, scale in zip(teachers, teacher_scales, strict=True)
    ]
    return torch.stack(losses).mean()
