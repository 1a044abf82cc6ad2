"""Detection: train a head on a student's P2..P5, then COCO's average precision of what it finds in other images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmapkd.core.errors import DataError, NonFiniteError, UsageError
from cmapkd.core.log import Progress
from cmapkd.core.order import keyed_hash, permute
from cmapkd.core.prefetch import prefetch
from cmapkd.data.boxes import Boxes
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.samples import is_file
from cmapkd.data.views import View, render
from cmapkd.tasks.detection.average_precision import Precision, average_precision, installed
from cmapkd.tasks.detection.coco_boxes import Result, coco_truth, detect
from cmapkd.tasks.detection.detector import Detector, to_tower
from cmapkd.towers.dual import Tower

FLIP = 13  # keeps the draws of mirrored images apart from others
SHOWN = 5
MAX_NORM = 10.0


@dataclass(frozen=True)
class Settings:
    """How a detector is trained. lr and trunk_lr: peaks of AdamW's rate for pyramid and head, and for the trunk.

    train_trunk: the tower given is itself changed. bad_budget: share of unreadable training images that is passed over.
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


@dataclass(frozen=True)
class Detection:
    """A trained detector, its figures, and the results they were counted from. losses: the total of every step."""

    detector: Detector
    precision: Precision
    results: list[Result]
    losses: list[float]
    notes: tuple[str, ...] = ()


@dataclass
class Reading:
    """Training images of a Boxes as the detector takes them, by global step; nothing is kept in memory."""

    boxes: Boxes
    size: int
    settings: Settings
    bad: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label_of = {key: label for label, key in enumerate(sorted(self.boxes.categories))}
        self.pool = [i for i in range(len(self.boxes)) if len(self._true(i)[0])]
        if not self.pool:
            raise DataError(f"{self.boxes.name}: no image has a box to learn from; crowds do not count")
        self.steps = math.ceil(self.settings.epochs * len(self.pool) / self.settings.batch)

    def batch(self, step: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """uint8 [B, 3, S, S] and the targets of a step; the same for the same (data, seed, step)."""
        slots = range(step * self.settings.batch, (step + 1) * self.settings.batch)
        found = [self._readable(slot) for slot in slots]
        return torch.from_numpy(np.stack([pixels for pixels, _ in found])), [target for _, target in found]

    def iterate(self) -> Iterator[tuple[int, Tensor, list[dict[str, Tensor]]]]:
        """(step, images, targets) of the whole training, some steps read ahead by threads, in order."""
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
        """(corners [k, 4] in the tower's pixels, labels [k]) that are learnt: no crowds, nothing thinner than a thousandth."""
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


def train_detector(tower: Tower, train: Boxes, val: Boxes, settings: Settings | None = None) -> Detection:
    """Train a head on `train` where the tower stands (CPU or GPU), score it on `val`.

    On a CPU the same seed gives the same floats. The tower is left in eval mode. Raises DataError for data that cannot be learnt from or scored,
    UsageError for settings that cannot be or where nothing can count, NonFiniteError when the loss is no number.
    """
    settings = settings or Settings()
    if settings.epochs <= 0 or settings.batch < 1:
        raise UsageError(f"detection: epochs {settings.epochs:g} and batch {settings.batch} must be positive")
    check_sets(train, val)
    reading = Reading(train, tower.size, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        detector = Detector(
            tower, len(train.categories), settings.channels, settings.convs, settings.train_trunk,
            settings.score_threshold,
        ).to(tower.device)  # fmt: skip
    losses = _fit(detector, reading, settings)
    results = detect(detector, val, settings.batch)
    notes = [f"{'trained' if settings.train_trunk else 'frozen'} trunk", f"{reading.steps} steps", *val.notes]
    if reading.bad:
        notes.append(f"{len(reading.bad)} unreadable training images passed over")
    return Detection(detector, average_precision(coco_truth(val), results), results, losses, tuple(notes))


def check_sets(train: Boxes, val: Boxes) -> None:
    """Raise, before any training, DataError or UsageError for what scoring at its end would stop at."""
    if dict(train.categories) != dict(val.categories):
        raise DataError(f"{train.name} and {val.name} have different categories; train and score on one list of them")
    installed()
    if missing := [path for path in val.paths if not is_file(path)]:
        raise DataError(
            f"{val.name}: {len(missing)} images have no file (first: {missing[0]}); scoring needs every image"
        )


def _fit(detector: Detector, reading: Reading, settings: Settings) -> list[float]:
    """The total loss of every step."""
    groups = [{"params": detector.learnt(), "lr": settings.lr}]
    if settings.train_trunk:
        groups.append({"params": detector.trunk(), "lr": settings.trunk_lr})
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / reading.steps, settings.warmup))
    progress = Progress(reading.steps, "train detector")
    losses: list[float] = []
    detector.train()
    for step, images, targets in reading.iterate():
        device = detector.tower.device
        parts = detector(images.to(device), [{k: v.to(device) for k, v in target.items()} for target in targets])
        loss = torch.stack(list(parts.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            shown = ", ".join(f"{name} {float(part.detach()):g}" for name, part in parts.items())
            raise NonFiniteError(
                f"detection: the loss of step {step} is not finite ({shown}); lower lr {settings.lr:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        scheduler.step()
        losses.append(value)
        progress.update(step + 1, f"loss {value:.3f}")
    progress.close()
    return losses


def _rate(done: float, warmup: float) -> float:
    """Share of the peak rate: a line from 0 up, then a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2
