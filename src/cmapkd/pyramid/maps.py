"""Layout of a level's tokens: a square map, for P5 with two extra tokens behind it, or a sequence.

This is the one place that treats P5 apart. Its map is followed by the summary token (cls, or the mean) and the mean of the
patches; every other image level is a map alone, and text levels are sequences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.pyramid.resample import area_matrix_on, resample_grid

EXTRA = {"P5": 2}  # tokens behind the map
SUMMARY = -2  # place of the summary among a level's tokens
MAPS = tuple(name for name in IMAGE_LEVELS if name not in EXTRA)  # plain maps, of which key tokens may be kept


def token_count(name: str, side: int) -> int:
    """Tokens of an image level whose map has side × side cells."""
    return side * side + EXTRA.get(name, 0)


def side_of(name: str, count: int) -> int:
    """Side of the map of an image level of `count` tokens."""
    return round((count - EXTRA.get(name, 0)) ** 0.5)


def split_map(name: str, tokens: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor | None]:
    """(the map [b, side², d], the extra tokens [b, 2, d] or None) of an image level."""
    extra = EXTRA.get(name, 0)
    return (tokens[:, :-extra], tokens[:, -extra:]) if extra else (tokens, None)


def pool_map(name: str, tokens: Float[Tensor, "b n d"], side: int) -> Float[Tensor, "b m d"]:
    """An image level with its map pooled to at most side × side cells by area; extra tokens stay as they are."""
    cells, extra = split_map(name, tokens)
    own = round(cells.shape[1] ** 0.5)
    if side >= own:
        return tokens
    pooled = resample_grid(cells, area_matrix_on(own, side, cells.device, cells.dtype))
    return pooled if extra is None else torch.cat([pooled, extra], 1)


def level_vector(
    name: str, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b d"]:
    """One vector of a level: its summary token where it has one, else the mean of its real tokens."""
    return tokens[:, SUMMARY] if name in EXTRA else mean_tokens(tokens, mask)


def mean_tokens(tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
    """Mean over the real tokens; an empty row gives zeros."""
    if mask is None:
        return tokens.mean(1)
    return (tokens * mask[..., None]).sum(1) / mask.sum(1).clamp_min(1)[:, None]


def last_level(patches: Float[Tensor, "b n d"], summary: Float[Tensor, "b d"] | None, side: int) -> Tensor:
    """P5 [b, side² + 2, d]: the map pooled to side × side, then the summary (cls, or the mean) and the mean."""
    n = round(patches.shape[1] ** 0.5)
    grid = patches if n == side else resample_grid(patches, area_matrix_on(n, side, patches.device, patches.dtype))
    mean = patches.mean(1)
    return torch.cat([grid, (mean if summary is None else summary)[:, None], mean[:, None]], dim=1)


def normed_vector(name: str, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Tensor:
    """`level_vector` of parameter-free layer-normed tokens."""
    return level_vector(name, F.layer_norm(tokens, tokens.shape[-1:]), mask)
