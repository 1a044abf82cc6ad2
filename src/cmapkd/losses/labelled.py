"""Cross-entropy of the logits of a head; samples without a label do not count."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean over the samples whose label is not −1; 0 where none has one."""
    summed = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return summed / (labels >= 0).sum().clamp_min(1)
