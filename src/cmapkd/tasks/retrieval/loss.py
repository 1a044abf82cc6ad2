"""The contrastive task loss: the student's own contrastive loss on image-text pairs of other data than the run's."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.tree import move
from cmapkd.core.types import Batch, LogitScale
from cmapkd.data.samples import Samples
from cmapkd.losses.both_kinds import align
from cmapkd.tasks.evaluate import score_student
from cmapkd.tasks.retrieval.evaluate import score_retrieval
from cmapkd.tasks.task_loss import Plan, ReadByLoader
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder


def require_pairs(samples: Samples) -> None:
    """Raise DataError for images without captions."""
    if not samples.n_captions or not all(samples.captions):
        raise DataError(f"{samples.name}: task.name: contrastive needs images with captions; give a captions file")


class ContrastiveLoss(ReadByLoader):
    """The student's own contrastive loss of a batch of pairs; no head is trained."""

    module = None

    def __init__(self, plan: Plan[Samples], student: DualEncoder) -> None:
        super().__init__(plan, plan.train, student)
        self.says = f"{len(plan.train)} images, {plan.train.n_captions} captions"

    def outputs(self, student: DualEncoder, batch: Batch) -> tuple[Tensor, ...]:
        final = student.final(move(batch, student.device).student)
        mine = student.similarity.learnt()
        return final.image, final.text, *(value for value in (mine.scale, mine.bias) if isinstance(value, Tensor))

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        image, text, *mine = outputs
        samples = batch.samples.to(image.device)
        return align(image, text, LogitScale(*mine), samples[:, None] == samples[None, :])

    def result(self, student: DualEncoder) -> TrainedHead:
        return score_student(score_retrieval, "retrieval", "standard", self.plan, student)
