"""L_task on boxes: a pyramid and FCOS's head on the student's P2..P5, which learn with the image tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.order import keyed_hash
from cmapkd.data.boxes import Boxes
from cmapkd.tasks.detection.average_precision import average_precision
from cmapkd.tasks.detection.coco_boxes import coco_truth, detect
from cmapkd.tasks.detection.detector import Detector
from cmapkd.tasks.detection.probe import Reading, Settings, check_sets
from cmapkd.tasks.headed import Headed, detection_words, headed_detection
from cmapkd.tasks.task_loss import TASK, Plan
from cmapkd.towers.dual import Tower, evaluating

Targets = list[dict[str, Tensor]]


def check_boxes(train: Boxes, val: Boxes | None) -> None:
    """Raise DataError or UsageError for sets that cannot be learnt from or scored."""
    if val is not None:
        check_sets(train, val)


class Detection:
    """The detector looks at the student without owning it: `module` is what it has beside, and follows its modes.

    Without that the student's tensors would stand twice in every checkpoint, and it would be put into eval mode.
    """

    def __init__(self, plan: Plan[Boxes], student: Tower) -> None:
        task, train = plan.task, plan.train
        self.plan = plan
        self.settings = Settings(
            batch=task.batch, channels=task.width or Settings.channels, bad_budget=plan.data.bad_budget,
            seed=keyed_hash(plan.seed, TASK),
        )  # fmt: skip
        self.reading = Reading(train, student.size, self.settings)
        if task.batch > len(self.reading.pool):
            raise UsageError(
                f"task.batch is {task.batch}, but {train.name} has only {len(self.reading.pool)} images with a box; lower task.batch"
            )
        self.batch = self.reading.batch
        was = student.training
        self.detector = Detector(
            student, len(train.categories), self.settings.channels, self.settings.convs, train_trunk=True
        )
        student.train(was)
        backbone: Any = self.detector.fcos.backbone
        head = self.detector.fcos.head
        head.register_forward_hook(lambda module, given, found: {k: v.float() for k, v in found.items()})
        self.module = nn.ModuleDict(
            {"enter": backbone.enter, "grow": backbone.grow, "join": backbone.join, "head": head}
        )
        self.says = f"{len(self.reading.pool)} images with boxes, {len(train.categories)} classes"

    @property
    def unreadable(self) -> int:
        return len(self.reading.bad)

    def outputs(self, student: Tower, batch: tuple[Tensor, Targets]) -> tuple[Tensor, ...]:
        images, targets = batch
        assert student is self.detector.tower, "the detector was built on another student"
        found = self.detector(
            images.to(student.device), [{k: v.to(student.device) for k, v in one.items()} for one in targets]
        )
        assert isinstance(found, dict), "the detector was left in eval mode"
        return tuple(found.values())

    def loss(self, outputs: tuple[Tensor, ...], batch: tuple[Tensor, Targets]) -> Tensor:
        return torch.stack(outputs).sum()

    def result(self, student: Tower) -> Headed:
        val = self.plan.val
        if val is None:
            return Headed(self.detector, words=detection_words(self.plan.train))
        with evaluating(student):
            results = detect(self.detector, val)
        notes = "; ".join(["trained with the student", f"trained on {self.says}", *val.notes])
        precision = average_precision(coco_truth(val), results)
        return headed_detection(self.detector, self.plan.train, val, precision, results, notes)
