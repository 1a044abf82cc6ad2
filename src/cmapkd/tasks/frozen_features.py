"""Features of images by a frozen tower, computed once for all the training of a head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.log import Progress
from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.stored import Picture
from cmapkd.data.views import plain
from cmapkd.pyramid.maps import token_count
from cmapkd.tasks.encoder import spans
from cmapkd.towers.dual import DualEncoder, evaluating

SHOWN = 5
FINAL = "final"


@dataclass(frozen=True)
class Extraction:
    """How features are computed. level: `final` for the embedding, P2..P5 for visual tokens. ram_mb: memory limit.

    bad_budget: share of unreadable images that is skipped; 0 allows none.
    """

    level: str = FINAL
    batch: int = 64
    workers: int = 2
    ram_mb: int = 8192
    bad_budget: float = 0.0


@dataclass(frozen=True)
class ImageFeatures:
    """rows: float16 [n, ...], layer-normed without parameters. place: int64, the row of each given path, or -1.

    bad: the reason by the path of each unreadable image.
    """

    rows: Tensor
    place: Tensor
    bad: dict[str, str]

    def of(self, which: Tensor, device: torch.device) -> Tensor:
        """float32 [b, ...] of images by index, which must be readable."""
        return self.rows[self.place[which]].to(device, torch.float32)


def image_features(tower: DualEncoder, paths: Sequence[Picture], extraction: Extraction, name: str) -> ImageFeatures:
    """Features of every distinct image, one batch of pixels at a time. Raises DataError for unreadable images."""
    distinct = list(dict.fromkeys(paths))
    shape = feature_shape(tower, extraction.level)
    require_room(
        len(distinct) * math.prod(shape) * 2, extraction.ram_mb, f"{len(distinct)} images at {extraction.level}"
    )
    rows = torch.zeros(len(distinct), *shape, dtype=torch.float16)
    at, bad, filled = {}, {}, 0
    allowed = max(1, int(extraction.bad_budget * len(distinct))) if extraction.bad_budget else 0
    progress = Progress(len(distinct), f"{name}: {extraction.level}")
    with ThreadPoolExecutor(max(1, extraction.workers)) as threads, evaluating(tower), torch.no_grad():
        for span in spans(len(distinct), extraction.batch):
            found = list(threads.map(lambda i: _pixels(distinct[i], tower.size), span))
            good = [
                (distinct[i], pixels) for i, pixels in zip(span, found, strict=True) if isinstance(pixels, np.ndarray)
            ]
            bad |= {str(error.path): error.reason for error in found if isinstance(error, Unreadable)}
            if len(bad) > allowed:
                raise DataError(_too_many(name, bad, allowed, extraction.bad_budget))
            if good:
                images = torch.from_numpy(np.stack([pixels for _, pixels in good])).to(tower.device)
                rows[filled : filled + len(good)] = _features(tower, images, extraction.level).to("cpu", torch.float16)
                at |= {path: filled + k for k, (path, _) in enumerate(good)}
                filled += len(good)
            progress.update(span.stop)
    progress.close()
    if not filled:
        raise DataError(f"{name}: no readable image")
    return ImageFeatures(rows[:filled], torch.tensor([at.get(path, -1) for path in paths]), bad)


def feature_shape(tower: DualEncoder, level: str) -> tuple[int, ...]:
    """(E,) of `final`, (N, D) of a level."""
    if level == FINAL:
        return (tower.shape.embedding,)
    if level not in IMAGE_LEVELS:
        raise UsageError(f"there is no image level '{level}'; there are {FINAL}, {', '.join(IMAGE_LEVELS)}")
    k = IMAGE_LEVELS.index(level)
    return token_count(level, tower.shape.grids[k]), tower.shape.image_widths[k]


def require_room(size: int, ram_mb: int, what: str) -> None:
    """Raise UsageError, before anything is computed, if `size` bytes are more than `ram_mb`."""
    if size > ram_mb * 2**20:
        raise UsageError(
            f"features of {what} take {size / 2**20:.0f} MB, more than ram_mb {ram_mb}; "
            "take level P5 or final, fewer images, or raise ram_mb"
        )


def _features(tower: DualEncoder, images: Tensor, level: str) -> Tensor:
    if level == FINAL:
        found = tower.image.encode(tower.normalise(images))
    else:
        found = tower.image.levels(tower.normalise(images)).levels[IMAGE_LEVELS.index(level)]
    return F.layer_norm(found.float(), found.shape[-1:])


def _pixels(path: Picture, size: int) -> np.ndarray | Unreadable:
    try:
        return plain(decode(path), size)
    except Unreadable as error:
        return error


def _too_many(name: str, bad: dict[str, str], allowed: int, budget: float) -> str:
    shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:SHOWN])
    rule = f"the budget is {allowed} (bad_budget {budget:g})" if allowed else "evaluation needs every image"
    return f"{name}: {len(bad)} unreadable images, {rule}: {shown}; mend them or remove their rows"
