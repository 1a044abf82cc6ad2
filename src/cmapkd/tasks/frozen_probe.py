"""Heads on a frozen tower: the images' features, computed once, and the loop that trains a head on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import DataError, NonFiniteError, UsageError
from cmapkd.core.log import Progress
from cmapkd.core.order import permute
from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.stored import Picture
from cmapkd.data.views import plain
from cmapkd.tasks.encoder import spans
from cmapkd.towers.dual import Tower, evaluating

SHOWN = 5
MAX_NORM = 1.0
FINAL = "final"


@dataclass(frozen=True)
class Extraction:
    """How features are computed. level: `final` for the embedding, or P2..P5 for its tokens. ram_mb: what they may take.

    bad_budget: share of unreadable images that is passed over; 0 allows none.
    """

    level: str = FINAL
    batch: int = 64
    workers: int = 2
    ram_mb: int = 8192
    bad_budget: float = 0.0


@dataclass(frozen=True)
class ImageFeatures:
    """rows: float16 [n, ...], layer-normed without parameters. place: int64, the row of each path asked for, or -1."""

    rows: Tensor
    place: Tensor
    bad: dict[str, str]

    def of(self, which: Tensor, device: torch.device) -> Tensor:
        """float32 [b, ...] of paths by index, which must be readable ones."""
        return self.rows[self.place[which]].to(device, torch.float32)


@dataclass(frozen=True)
class Fitting:
    """AdamW whose rate rises for `warmup` of the steps to `lr` and falls to 0 as a cosine."""

    epochs: float = 10.0
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05

    def steps(self, n: int) -> int:
        return max(1, math.ceil(self.epochs * n / self.batch))


def image_features(tower: Tower, paths: Sequence[Picture], extraction: Extraction, name: str) -> ImageFeatures:
    """Features of every distinct path, a batch of pixels in memory at a time. Raises DataError for unreadable ones."""
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


def feature_shape(tower: Tower, level: str) -> tuple[int, ...]:
    """(E,) of `final`, (N, D) of a level."""
    if level == FINAL:
        return (tower.shape.embedding,)
    if level not in IMAGE_LEVELS:
        raise UsageError(f"there is no image level '{level}'; there are {FINAL}, {', '.join(IMAGE_LEVELS)}")
    k = IMAGE_LEVELS.index(level)
    return tower.shape.grids[k] ** 2 + 2 * (k == len(IMAGE_LEVELS) - 1), tower.shape.image_widths[k]


def require_room(size: int, ram_mb: int, what: str) -> None:
    """Raise UsageError, before anything is computed, if `size` bytes are more than `ram_mb`."""
    if size > ram_mb * 2**20:
        raise UsageError(
            f"features of {what} take {size / 2**20:.0f} MB, more than ram_mb {ram_mb}; "
            "take level P5 or final, fewer images, or raise ram_mb"
        )


def drawn(step: int, batch: int, n: int, seed: int) -> Tensor:
    """int64 [b] positions of a step: every epoch a new order of all n, cut where it lies; no position is left out."""
    slots = np.arange(step * batch, (step + 1) * batch)
    out = np.empty_like(slots)
    for epoch in np.unique(slots // n):
        inside = slots // n == epoch
        out[inside] = permute(slots[inside] % n, n, seed, int(epoch))
    return torch.from_numpy(out)


def fit(head: nn.Module, loss_of: Callable[[int], Tensor], steps: int, fitting: Fitting, label: str) -> list[float]:
    """Train `head` by the losses of its steps, which are returned. Raises NonFiniteError before a bad step is made."""
    flat = [p for p in head.parameters() if p.ndim < 2]
    deep = [p for p in head.parameters() if p.ndim >= 2]
    groups = [{"params": deep}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=fitting.lr, weight_decay=fitting.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps, fitting.warmup))
    progress, losses = Progress(steps, label), []
    head.train()
    for step in range(steps):
        loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"{label}: the loss of step {step} is {value:g}; lower lr {fitting.lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()
        losses.append(value)
        progress.update(step + 1, f"loss {value:.3f}")
    progress.close()
    head.eval()
    return losses


def rate(done: float, warmup: float) -> float:
    """Share of the peak rate: a line from 0 up, then a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def require_positive(task: str, fitting: Fitting) -> None:
    """Raise UsageError for a training that is none."""
    if fitting.epochs <= 0 or fitting.batch < 1 or not 0 <= fitting.warmup < 1:
        raise UsageError(
            f"{task}: epochs {fitting.epochs:g} and batch {fitting.batch} must be positive, "
            f"warmup {fitting.warmup:g} a share below 1"
        )


def _features(tower: Tower, images: Tensor, level: str) -> Tensor:
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
