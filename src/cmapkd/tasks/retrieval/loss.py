"""L_task on image–text pairs of other data than the run's: the student's own contrastive loss."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.tree import move
from cmapkd.core.types import Batch
from cmapkd.data.samples import Samples
from cmapkd.losses.contrastive import align
from cmapkd.tasks.headed import Headed
from cmapkd.tasks.table import evaluate
from cmapkd.tasks.task_loss import Plan, task_loader
from cmapkd.towers.dual import Tower


class Contrastive:
    module = None

    def __init__(self, plan: Plan[Samples], student: Tower) -> None:
        self.plan, self.loader = plan, task_loader(plan, plan.train, student)
        self.batch = self.loader.batch
        self.says = f"{len(plan.train)} images, {plan.train.n_captions} captions"

    @property
    def unreadable(self) -> int:
        return len(self.loader.ledger.quarantined)

    def outputs(self, student: Tower, batch: Batch) -> tuple[Tensor, ...]:
        final = student.final(move(batch, student.device).student)
        return final.image, final.text, student.similarity.scale

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        image, text, scale = outputs
        samples = batch.samples.to(image.device)
        return align(image, text, scale, samples[:, None] == samples[None, :])

    def result(self, student: Tower) -> Headed:
        if self.plan.val is None:
            return Headed(None)
        score = evaluate(student, self.plan.val, "retrieval", self.plan.scoring)
        return Headed(None, dict(score.metrics), said=score.line())
