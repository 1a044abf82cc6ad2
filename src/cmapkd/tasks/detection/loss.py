"""The detection task loss: FCOS's losses of a pyramid and head on the student's P2..P5, trained with the image tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.order import keyed_hash
from cmapkd.data.boxes import Boxes
from cmapkd.tasks.detection.detector import Detector
from cmapkd.tasks.detection.probe import class_names, score_detector
from cmapkd.tasks.detection.training_images import Settings, TrainingImages
from cmapkd.tasks.task_loss import TASK, Plan
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder, evaluating

SCORING = 16  # images at a time
Targets = list[dict[str, Tensor]]


class DetectionLoss:
    """The detector reads the student without owning it: `module` holds its other parts and follows the run's modes.

    If it owned the student, the student's tensors would be in every checkpoint twice, and it would be put into eval mode.
    """

    def __init__(self, plan: Plan[Boxes], student: DualEncoder) -> None:
        task, train = plan.task, plan.train
        self.plan = plan
        settings = Settings(
            batch=task.batch, channels=task.width or Settings.channels, bad_budget=plan.data.bad_budget,
            seed=keyed_hash(plan.seed, TASK),
        )  # fmt: skip
        self.images = TrainingImages(train, student.size, settings)
        if task.batch > len(self.images.pool):
            raise UsageError(
                f"task.batch is {task.batch}, but {train.name} has only {len(self.images.pool)} images with a box; lower task.batch"
            )
        self.batch = self.images.batch
        was = student.training
        self.detector = Detector(student, len(train.categories), settings.channels, settings.convs, train_trunk=True)
        student.train(was)
        backbone: Any = self.detector.fcos.backbone
        head = self.detector.fcos.head
        head.register_forward_hook(lambda module, given, found: {k: v.float() for k, v in found.items()})
        self.module = nn.ModuleDict(
            {"enter": backbone.enter, "grow": backbone.grow, "join": backbone.join, "head": head}
        )
        self.says = f"{len(self.images.pool)} images with boxes, {len(train.categories)} classes"

    @property
    def unreadable(self) -> int:
        return len(self.images.bad)

    def outputs(self, student: DualEncoder, batch: tuple[Tensor, Targets]) -> tuple[Tensor, ...]:
        assert student is self.detector.tower, "the detector was built on another student"
        return self.detector.losses(*batch)

    def loss(self, outputs: tuple[Tensor, ...], batch: tuple[Tensor, Targets]) -> Tensor:
        return torch.stack(outputs).sum()

    def result(self, student: DualEncoder) -> TrainedHead:
        if self.plan.val is None:
            return TrainedHead(self.detector, words=class_names(self.plan.train))
        with evaluating(student):
            notes = (f"{len(self.plan.train)} training images", "trained with the student", f"trained on {self.says}")
            return score_detector(self.detector, self.plan.val, SCORING, *notes)
