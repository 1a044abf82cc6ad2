"""Parts shared by all image towers: Features of four levels, and the sizes of the levels, measured on an empty image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import side_of, split_map, token_count
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
    """The sizes of what `levels` gives for one empty image, with `visual` in eval mode.

    Raises UsageError for a tower that cannot read the image, whose maps are not square, or that gives more than one embedding.
    """
    name = type(getattr(visual, "trunk", visual)).__name__
    try:
        with evaluating(visual):
            found = levels(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"image tower {name}: gives no levels of an image of {size} × {size} pixels ({reason}); use the image size that it "
            "was made for, or another tower"
        ) from None
    if found.final.ndim != 2:
        raise UsageError(
            f"image tower {name}: gives an embedding of each patch and none of the image; use pool_type tok or avg"
        )
    for level, tokens in zip(IMAGE_LEVELS, found.levels, strict=True):
        count = tokens.shape[1]
        if token_count(level, side_of(level, count)) != count:
            raise UsageError(
                f"image tower {name}: {level} has {count} tokens, no square map; use a tower of square maps"
            )
    widths = tuple(tokens.shape[-1] for tokens in found.levels)
    grids = tuple(side_of(name, tokens.shape[1]) for name, tokens in zip(IMAGE_LEVELS, found.levels, strict=True))
    return ImageSizes(widths, grids, found.final.shape[-1])  # type: ignore[arg-type]
