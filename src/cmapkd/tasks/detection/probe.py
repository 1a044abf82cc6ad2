"""The frozen probe of detection: train a head on a student's P2..P5, then COCO's average precision on other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cmapkd.config.suite import HeadData
from cmapkd.core.errors import DataError
from cmapkd.data.boxes import Boxes
from cmapkd.data.samples import is_file
from cmapkd.tasks.detection.average_precision import average_precision, installed
from cmapkd.tasks.detection.coco_boxes import coco_truth, detect
from cmapkd.tasks.detection.detector import Detector
from cmapkd.tasks.detection.training_images import Settings, TrainingImages
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.frozen_probe import fit
from cmapkd.tasks.score import Score
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder


def detection_probe(
    tower: DualEncoder, train: Boxes, val: Boxes, given: HeadData, judge: Encoder | None
) -> TrainedHead:
    """`train-head detection`: the settings of the command line or of a suite, all others at their defaults."""
    channels = given.width or Settings.channels
    return train_detector(
        tower, train, val, Settings(given.epochs, given.batch, given.lr, channels=channels, seed=given.seed)
    )


def train_detector(tower: DualEncoder, train: Boxes, val: Boxes, settings: Settings | None = None) -> TrainedHead:
    """Train a head on `train` on the tower's device, score it on `val`. The tower is left in eval mode.

    On a CPU the same seed gives the same floats. Raises DataError for data that cannot be trained on or scored,
    UsageError for impossible settings or where no scorer is installed, NonFiniteError when the loss is not finite.
    """
    settings = settings or Settings()
    check_sets(train, val)
    images = TrainingImages(train, tower.size, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        detector = Detector(
            tower, len(train.categories), settings.channels, settings.convs, settings.train_trunk,
            settings.score_threshold,
        ).to(tower.device)  # fmt: skip
    losses = _fit(detector, images)
    notes = [f"{len(train)} training images", f"{'trained' if settings.train_trunk else 'frozen'} trunk"]
    notes.append(f"{images.steps} steps")
    if images.bad:
        notes.append(f"{len(images.bad)} unreadable training images passed over")
    return replace(score_detector(detector, val, settings.batch, *notes), losses=losses)


def score_detector(detector: Detector, val: Boxes, batch: int, *notes: str) -> TrainedHead:
    """The detector with the boxes that it finds in `val` and their average precision."""
    results = detect(detector, val, batch)
    metrics = average_precision(coco_truth(val), results).metrics
    score = Score(
        "detection", "COCO AP of a head", metrics, val.name, len(val), 0, val.fingerprint(),
        notes=(f"{val.n_boxes} boxes", *notes, *val.notes),
    )  # fmt: skip
    return TrainedHead(detector, score, results, class_names(val))


def class_names(boxes: Boxes) -> dict[str, Any]:
    """The part of head.json that explains the weights: the classes by their COCO ids."""
    return {"classes": {str(key): name for key, name in boxes.categories.items()}}


def check_sets(train: Boxes, val: Boxes) -> None:
    """Raise DataError or UsageError, before any training, for data that could not be scored at its end."""
    if dict(train.categories) != dict(val.categories):
        raise DataError(f"{train.name} and {val.name} have different categories; train and score on one list of them")
    installed()
    if missing := [path for path in val.paths if not is_file(path)]:
        raise DataError(
            f"{val.name}: {len(missing)} images have no file (first: {missing[0]}); scoring needs every image"
        )


def _fit(detector: Detector, images: TrainingImages) -> list[float]:
    """Train by prefetched batches; the total loss of every step."""
    settings, batches = images.settings, images.iterate()
    groups: list[dict[str, Any]] = [{"params": detector.learnt()}]
    if settings.train_trunk:
        groups.append({"params": detector.trunk(), "lr": settings.trunk_lr})

    def loss_of(step: int) -> Tensor:
        _, pixels, targets = next(batches)
        return torch.stack(detector.losses(pixels, targets)).sum()

    return fit(detector, groups, loss_of, images.steps, settings.fitting, "train detector")
