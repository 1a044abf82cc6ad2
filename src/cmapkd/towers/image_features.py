"""Parts shared by all image towers: Features of four levels, and the sizes of the levels, measured on an empty image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.towers.evaluating import evaluating


@dataclass(frozen=True)
class ImageSizes:
    """Widths and grids of P2..P5 (P5's grid is its side without the two extra tokens), and E."""

    widths: tuple[int, int, int, int]
    grids: tuple[int, int, int, int]
    embedding: int


def image_features(levels: tuple[Tensor, Tensor, Tensor, Tensor], final: Tensor) -> Features:
    """Features of P2..P5, tokens [B, N_k, D_k], and of the final embedding [B, E]."""
    *maps, last = levels
    pooled = (*(lv.mean_max(tokens, None) for tokens in maps), lv.summary_mean(last[:, -2], last[:, -1]))
    return Features(levels, (None,) * 4, pooled, final)


@torch.no_grad()
def measured(visual: nn.Module, levels: Callable[[Tensor], Features], size: int) -> ImageSizes:
    """The sizes of what `levels` gives for one empty image, with `visual` in eval mode."""
    with evaluating(visual):
        found = levels(torch.zeros(1, 3, size, size))
    p2, p3, p4, p5 = found.levels
    return ImageSizes(
        (p2.shape[-1], p3.shape[-1], p4.shape[-1], p5.shape[-1]),
        (_side(p2.shape[1]), _side(p3.shape[1]), _side(p4.shape[1]), _side(p5.shape[1] - 2)),
        found.final.shape[-1],
    )


def _side(cells: int) -> int:
    return round(cells**0.5)
