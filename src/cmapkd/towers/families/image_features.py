"""Parts shared by all image towers: Features of four levels, and the sizes of the levels, measured on an empty image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import side_of, split_map
from cmapkd.towers.evaluating import evaluating


@dataclass(frozen=True)
class ImageSizes:
    """Widths and grids of P2..P5 (P5's grid is its side without the two extra tokens), and E."""

    widths: tuple[int, int, int, int]
    grids: tuple[int, int, int, int]
    embedding: int


def image_features(levels: tuple[Tensor, Tensor, Tensor, Tensor], final: Tensor) -> Features:
    """Features of P2..P5, tokens [B, N_k, D_k], and of the final embedding [B, E]."""
    return Features(levels, (None,) * 4, tuple(map(_pooled, IMAGE_LEVELS, levels)), final)


def _pooled(name: str, tokens: Tensor) -> Tensor:
    """The vector [B, 2D] that the bridge reads of a level: mean and maximum, or the extra tokens where there are some."""
    extra = split_map(name, tokens)[1]
    return lv.mean_max(tokens, None) if extra is None else lv.summary_mean(extra[:, 0], extra[:, 1])


@torch.no_grad()
def measured(visual: nn.Module, levels: Callable[[Tensor], Features], size: int) -> ImageSizes:
    """The sizes of what `levels` gives for one empty image, with `visual` in eval mode."""
    with evaluating(visual):
        found = levels(torch.zeros(1, 3, size, size))
    widths = tuple(tokens.shape[-1] for tokens in found.levels)
    grids = tuple(side_of(name, tokens.shape[1]) for name, tokens in zip(IMAGE_LEVELS, found.levels, strict=True))
    return ImageSizes(widths, grids, found.final.shape[-1])  # type: ignore[arg-type]
