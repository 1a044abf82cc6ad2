"""Scoring one model by one task's `evaluate`: the pixels it reads, and the name of the checkpoint in the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.score import Score
from cmapkd.tasks.task_loss import Plan
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder

Pixels = Callable[[range], Tensor]
Scorer = Callable[[Encoder, Samples, Pixels, int, str], Score]


def evaluate_by(
    scorer: Scorer,
    task: str,
    protocol: str,
    encoder: Encoder,
    samples: Samples,
    batch: int,
    checkpoint: str = "",
    read: Pixels | None = None,
) -> Score:
    """The score of `encoder` on `samples`. Raises DataError for a split without images."""
    if len(samples) == 0:
        raise DataError(f"{task}: {samples.name} holds no image; check the split's name")
    read = read or partial(read_images, samples, size=encoder.image_size)
    return replace(scorer(encoder, samples, read, batch, protocol), checkpoint=checkpoint)


def score_student(scorer: Scorer, task: str, protocol: str, plan: Plan[Samples], student: DualEncoder) -> TrainedHead:
    """The result of a task loss that trains no head: the student's score on the task's validation data, if any."""
    if plan.val is None:
        return TrainedHead(None)
    return TrainedHead(None, evaluate_by(scorer, task, protocol, student, plan.val, plan.scoring))
