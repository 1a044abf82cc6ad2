"""Training images of a detector: which ones, in which order, and their target boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.order import keyed_hash, permute
from cmapkd.core.prefetch import prefetch
from cmapkd.data.boxes import Boxes
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.views import View, render
from cmapkd.tasks.detection.detector import to_tower
from cmapkd.tasks.frozen_probe import Fitting

FLIP = 13  # keeps the draws of mirrored images apart from others
SHOWN = 5
MAX_NORM = 10.0


@dataclass(frozen=True)
class Settings:
    """How a detector is trained. lr and trunk_lr: peaks of AdamW's rate for pyramid and head, and for the trunk.

    train_trunk: the tower given is itself changed. bad_budget: share of unreadable training images that is skipped.
    warmup: share of the steps in which the rate rises; it then falls to 0 as a cosine.
    """

    epochs: float = 12.0
    batch: int = 16
    lr: float = 1e-3
    trunk_lr: float = 1e-5
    weight_decay: float = 0.05
    warmup: float = 0.05
    channels: int = 256
    convs: int = 4
    flip: bool = True
    train_trunk: bool = False
    score_threshold: float = 0.05
    bad_budget: float = 0.001
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch < 1:
            raise UsageError(f"detection: epochs {self.epochs:g} and batch {self.batch} must be positive")

    @property
    def fitting(self) -> Fitting:
        return Fitting(self.epochs, self.batch, self.lr, self.weight_decay, self.warmup, MAX_NORM)


@dataclass
class TrainingImages:
    """Batches of images and target boxes for a detector, by global step; images are decoded when a batch is read."""

    boxes: Boxes
    size: int
    settings: Settings
    bad: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label_of = {key: label for label, key in enumerate(sorted(self.boxes.categories))}
        self.pool = [i for i in range(len(self.boxes)) if len(self._true(i)[0])]
        if not self.pool:
            raise DataError(f"{self.boxes.name}: no image has a box to learn from; crowds do not count")
        self.steps = self.settings.fitting.steps(len(self.pool))

    def batch(self, step: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """uint8 [B, 3, S, S] and the targets of a step; the same for the same (data, seed, step)."""
        slots = range(step * self.settings.batch, (step + 1) * self.settings.batch)
        found = [self._readable(slot) for slot in slots]
        return torch.from_numpy(np.stack([pixels for pixels, _ in found])), [target for _, target in found]

    def iterate(self) -> Iterator[tuple[int, Tensor, list[dict[str, Tensor]]]]:
        """(step, images, targets) of the whole training in order, prefetched by threads."""
        steps = range(self.steps)
        for step, ready in zip(steps, prefetch(self.batch, steps, self.settings.workers), strict=True):
            yield step, *ready

    def _readable(self, slot: int) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Pixels and target of a slot's image, or of the next one that can be read."""
        epoch, place = divmod(slot, len(self.pool))
        for shift in range(len(self.pool)):
            position = np.array([(place + shift) % len(self.pool)])
            image = self.pool[int(permute(position, len(self.pool), self.settings.seed, epoch)[0])]
            try:
                return self._example(image, epoch)
            except Unreadable as error:
                self._note(error)
        raise DataError(f"{self.boxes.name}: no readable image is left")

    def _example(self, image: int, epoch: int) -> tuple[np.ndarray, dict[str, Tensor]]:
        flip = self.settings.flip and bool(keyed_hash(self.settings.seed, image, epoch, FLIP) % 2)
        corners, labels = self._true(image)
        if flip:
            corners = torch.stack(
                [self.size - corners[:, 2], corners[:, 1], self.size - corners[:, 0], corners[:, 3]], 1
            )
        pixels = render(decode(self.boxes.paths[image]), View(flip=flip), self.size)
        return pixels, {"boxes": corners.float(), "labels": labels}

    def _true(self, image: int) -> tuple[Tensor, Tensor]:
        """(corners [k, 4] in the tower's pixels, labels [k]) without crowds and boxes thinner than a thousandth of a side."""
        boxes = torch.as_tensor(np.asarray(self.boxes.boxes[image], dtype=np.float64).reshape(-1, 4))
        corners = to_tower(boxes, self.boxes.sizes[image], self.size).clamp(0, self.size)
        crowd = torch.as_tensor(np.asarray(self.boxes.iscrowd[image], dtype=bool).reshape(-1))
        kept = ~crowd & (corners[:, 2:] - corners[:, :2] > 1e-3 * self.size).all(1)
        labels = torch.tensor([self.label_of[int(key)] for key in self.boxes.category_ids[image]], dtype=torch.int64)
        return corners[kept], labels[kept]

    def _note(self, error: Unreadable) -> None:
        self.bad[str(error.path)] = error.reason
        allowed = max(1, int(self.settings.bad_budget * len(self.pool)))
        if len(self.bad) > allowed:
            shown = "; ".join(f"{Path(path).name} ({why})" for path, why in list(self.bad.items())[:SHOWN])
            raise DataError(
                f"{self.boxes.name}: {len(self.bad)} unreadable images, the budget is {allowed} "
                f"(bad_budget {self.settings.bad_budget:g}): {shown}; mend or remove them, or raise the budget"
            )
