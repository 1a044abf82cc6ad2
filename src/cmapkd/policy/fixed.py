"""Policies that learn nothing: uniform weights, and weights written by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import LEVELS, Teaching


class Uniform(nn.Module):
    """Every level teaches every sample equally; says None, so that nothing is gated at all."""

    learns = False

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__()

    def forward(self, teaching: Teaching, progress: float) -> tuple[Tensor | None, Tensor | None]:
        return None, None


class Manual(nn.Module):
    """The config's `policy.weights`, scaled to mean 1 within each modality; a level not named has weight 1."""

    learns = False
    level: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__()
        raw = torch.tensor([config.weights.get(name, 1.0) for name in LEVELS])  # type: ignore[call-overload]
        sums = raw.view(2, 4).sum(1, keepdim=True)
        if (sums <= 0).any():
            raise UsageError(
                "policy.weights: all levels of one modality are 0; switch its term off with weights.intra_v: 0"
            )
        self.register_buffer("level", (raw.view(2, 4) * 4 / sums).flatten(), persistent=False)

    def forward(self, teaching: Teaching, progress: float) -> tuple[Tensor | None, Tensor | None]:
        return self.level.expand(len(teaching.final.image), -1), None
