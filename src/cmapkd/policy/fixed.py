"""Policies that learn nothing: uniform weights, weights written by hand, random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, TeacherOutputs
from cmapkd.policy.base import Policy


class Uniform(Policy):
    """Equal weights: every level teaches every sample equally, and nothing is gated."""

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        return None, None


class Manual(Policy):
    """Weights by hand: the config's `policy.weights`, scaled to mean 1 within each modality; a level not named has weight 1."""

    level: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        raw = torch.tensor([config.weights.get(name, 1.0) for name in LEVELS])  # type: ignore[call-overload]
        sums = raw.view(2, 4).sum(1, keepdim=True)
        self.register_buffer("level", (raw.view(2, 4) * 4 / sums).flatten(), persistent=False)

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        return self.level.expand(len(teacher.final.image), -1), None

    def awake(self, levels: tuple[str, ...], probing: bool = False) -> tuple[str, ...]:
        weights = self.told("level")
        return tuple(name for name in levels if weights[LEVELS.index(name)] > 0)


class Random(Policy):
    """Random weights, drawn anew for every sample in every step (RLW, Lin et al. 2022, arXiv 2111.10603).

    w = 4 softmax(z) per modality, z ~ N(0, 1).
    The control that any learnt policy has to beat. The draw depends on the number of draws before it and on nothing
    else, so that a resumed run repeats it.
    """

    draws: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        size = len(teacher.final.image)
        z = self.drawn((size, 2, 4)).to(teacher.final.image.device, non_blocking=True)
        return (4 * z.softmax(-1)).flatten(1), None


POLICIES = {"uniform": Uniform, "manual": Manual, "random": Random}
