"""LiveTeacher: the frozen tower runs in every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cmapkd.core.types import Batch, Needs, TeacherOutputs
from cmapkd.pyramid.targets import Targets
from cmapkd.towers.dual import DualEncoder, evaluating


class LiveTeacher:
    """Runs the frozen tower in every step; its levels only where some are asked for.

    targets: without levels where no term reads any.
    """

    needs_inputs = True

    def __init__(self, tower: DualEncoder, targets: Targets, precision: torch.dtype = torch.float32) -> None:
        self.tower, self.targets, self.precision = tower, targets, precision
        self.similarity = tower.similarity.fixed()

    @torch.no_grad()
    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        inputs = batch.teacher
        assert inputs is not None, "a live teacher needs batches with teacher inputs"
        enabled = self.precision != torch.float32
        with evaluating(self.tower), torch.autocast(self.tower.device.type, self.precision, enabled=enabled):
            if not self.targets.levels:
                final = self.tower.final(inputs)
                return TeacherOutputs(final.map(lambda rows: F.normalize(rows.float(), dim=-1)), self.similarity)
            features = self.tower(inputs)
        return self.targets.outputs(features, needs, self.similarity, (batch.samples, batch.views))
