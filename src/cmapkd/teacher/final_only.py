"""FinalTeacher: the frozen teacher runs in every step and gives final embeddings only; its text tower needs no levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cmapkd.core.types import Batch, Needs, TeacherOutputs
from cmapkd.towers.dual import DualEncoder, evaluating


class FinalTeacher:
    """A live teacher for methods that read neither levels nor bridge."""

    needs_inputs = True

    def __init__(self, tower: DualEncoder, precision: torch.dtype = torch.float32) -> None:
        self.tower, self.precision = tower, precision
        self.similarity = tower.similarity.fixed()

    @torch.no_grad()
    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        inputs = batch.teacher
        assert inputs is not None, "a live teacher needs batches with teacher inputs"
        assert not (needs.levels or needs.bridge), "a run whose terms read levels is refused when it is assembled"
        enabled = self.precision != torch.float32
        with evaluating(self.tower), torch.autocast(self.tower.device.type, self.precision, enabled=enabled):
            final = self.tower.final(inputs)
        return TeacherOutputs(final.map(lambda rows: F.normalize(rows.float(), dim=-1)), self.similarity)
