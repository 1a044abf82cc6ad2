"""Veto: uniform weights, except that a level whose credit is not clearly positive loses its say."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.core.types import TeacherOutputs
from cmapkd.policy.base import Credit, Learning

LEAST = 20  # credit events before the first veto
WIDTH = 0.5
BOUND = 2.0


class Veto(Learning):
    """Uniform weights, less those of levels whose credit on held-out pairs is not clearly positive.

    v_k = v_min + (1 − v_min) σ((t_k − 2) / ½), t_k the t-statistic of level k's credit net of cost; the same for pairs.

    One weight per level for all samples, renormalised to mean 1 per modality, at most 2. It needs no optimizer.
    """

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        size = len(teacher.final.image)
        if max(self.told("levels.events")) < LEAST or progress < self.config.collect:
            return None, None
        level = _vetoed(self.levels.t_statistic(self.config.cost * self.cost), self.config.floor).view(2, 4)
        pairs = None
        if max(self.told("pairs.events")) >= LEAST:
            pair = _vetoed(self.pairs.t_statistic(), self.config.floor)
            pairs = (pair / pair.mean()).view(4, 4).expand(size, -1, -1)
        weights = (level / level.mean(1, keepdim=True)).clamp_max(BOUND).flatten()
        return weights.expand(size, -1), pairs

    def observe(
        self, teacher: TeacherOutputs, progress: float, credit: Credit, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, float]:
        self.standardise(credit)
        self.settle(self(teacher, progress)[0], (credit.levels != 0).any(0))
        return self.figures()


def _vetoed(t: Tensor, least: float) -> Tensor:
    return least + (1 - least) * ((t - 2) / WIDTH).sigmoid()


POLICIES = {"veto": Veto}
