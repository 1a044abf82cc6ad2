"""Distillation from several teachers at once, each at its own temperature (MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmapkd.core.types import LogitScale, Pair
from cmapkd.losses import both_kinds


def ensemble(
    student: Pair[Tensor],
    mine: LogitScale,
    teachers: Sequence[tuple[Pair[Tensor], LogitScale]],
    positives: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """1/K Σ_k ½ [KL(P_k ‖ P_S) of rows + of columns], mean over the batch: the equation of L_Distill.

    student: [B, E_S] per modality; teachers: K pairs [B, E_k], whose widths and kinds may differ.
    """
    losses = [both_kinds.distill(student, teacher, mine, theirs, positives) for teacher, theirs in teachers]
    return torch.stack(losses).mean()
