"""L_task for labelled images: cross-entropy of the student over class texts."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cmapkd.losses.contrastive import similarity


def classification(
    image: Float[Tensor, "b e"],
    classes: Float[Tensor, "c e"],
    scale: Float[Tensor, ""] | float,
    labels: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Cross-entropy of scale · cos(image, class text); samples labelled −1 carry no loss, none labelled gives 0."""
    if not (labels >= 0).any():
        return image.sum() * 0
    return F.cross_entropy(scale * similarity(image, classes), labels, ignore_index=-1)
