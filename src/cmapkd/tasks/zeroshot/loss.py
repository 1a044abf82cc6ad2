"""L_task on labelled images of other data than the run's, the class texts as classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.tree import move
from cmapkd.core.types import Batch
from cmapkd.data.class_prompt import CLASS_PROMPT
from cmapkd.data.samples import Samples
from cmapkd.losses import task
from cmapkd.tasks.headed import Headed
from cmapkd.tasks.table import evaluate
from cmapkd.tasks.task_loss import Plan, task_loader
from cmapkd.towers.dual import Tower


def require_labels(train: Samples, val: Samples | None) -> None:
    """Raise DataError for data that has captions only."""
    for samples in (train, val):
        if samples is not None and (samples.labels is None or not samples.classes):
            raise DataError(
                f"{samples.name}: has captions only, but task.name: classification needs labels; "
                "give a folder with a sub-folder a class"
            )


class Classification:
    module = None

    def __init__(self, plan: Plan[Samples], student: Tower) -> None:
        train = plan.train
        assert train.labels is not None and train.classes is not None
        self.plan, self.loader = plan, task_loader(plan, train, student)
        self.batch = self.loader.batch
        self.labels = torch.tensor(train.labels)
        self.class_ids = student.tokenizer([CLASS_PROMPT.format(name) for name in train.classes])[0]
        self.says = f"{len(train)} images, {len(train.classes)} classes"

    @property
    def unreadable(self) -> int:
        return len(self.loader.ledger.quarantined)

    def outputs(self, student: Tower, batch: Batch) -> tuple[Tensor, ...]:
        images = student.normalise(move(batch, student.device).student.images)
        classes = student.text.encode(self.class_ids.to(student.device))
        return student.image.encode(images), classes, student.similarity.scale

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        image, classes, scale = outputs
        return task.classification(image, classes, scale, self.labels[batch.samples].to(image.device))

    def result(self, student: Tower) -> Headed:
        if self.plan.val is None:
            return Headed(None)
        score = evaluate(student, self.plan.val, "zeroshot", self.plan.scoring)
        return Headed(None, dict(score.metrics), said=score.line())
