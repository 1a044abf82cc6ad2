"""The classification task loss: labelled images of other data than the run's, with class prompts as classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.tree import move
from cmapkd.core.types import Batch
from cmapkd.data.class_prompt import CLASS_PROMPT
from cmapkd.data.samples import Samples
from cmapkd.losses import task
from cmapkd.tasks.evaluate import score_student
from cmapkd.tasks.task_loss import Plan, ReadByLoader
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.tasks.zeroshot.evaluate import PROTOCOLS, score_zeroshot
from cmapkd.towers.dual import DualEncoder


def require_labels(samples: Samples) -> None:
    """Raise DataError for data without class labels."""
    if samples.labels is None or not samples.classes:
        raise DataError(
            f"{samples.name}: has captions only, but task.name: classification needs labels; "
            "give a folder with a sub-folder a class"
        )


class ClassificationLoss(ReadByLoader):
    """Cross-entropy over the class prompts, which the text tower encodes anew in each step; no head is trained."""

    module = None

    def __init__(self, plan: Plan[Samples], student: DualEncoder) -> None:
        train = plan.train
        assert train.labels is not None and train.classes is not None
        super().__init__(plan, train, student)
        self.labels = torch.tensor(list(train.labels))
        self.class_ids = student.tokenizer([CLASS_PROMPT.format(name) for name in train.classes])[0]
        self.says = f"{len(train)} images, {len(train.classes)} classes"

    def outputs(self, student: DualEncoder, batch: Batch) -> tuple[Tensor, ...]:
        images = student.normalise(move(batch, student.device).student.images)
        classes = student.text.encode(self.class_ids.to(student.device))
        return student.image.encode(images), classes, student.similarity.scale

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        image, classes, scale = outputs
        return task.classification(image, classes, scale, self.labels[batch.samples].to(image.device))

    def result(self, student: DualEncoder) -> TrainedHead:
        return score_student(score_zeroshot, "zeroshot", next(iter(PROTOCOLS)), self.plan, student)
