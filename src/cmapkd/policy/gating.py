"""Gating: a small network turns the teacher's view of a sample into level weights, by the exact expected gradient."""

from __future__ import annotations

from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, TeacherOutputs
from cmapkd.policy.adaptive import HIDDEN, Adaptive


class Gating(Adaptive):
    """Weights from a small network that learns by the exact expected gradient of held-out credit.

    m(x) = W·net(x), one score per level and per pair; the reward is linear in p, so J's gradient is exact.
    """

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        self.head = nn.Linear(HIDDEN, len(LEVELS) + 16)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def scores(self, x: Tensor, teacher: TeacherOutputs) -> tuple[Tensor, Tensor]:
        out = self.head(self.net(x))
        return out[:, : len(LEVELS)].unflatten(1, (2, 4)), out[:, len(LEVELS) :]


POLICIES = {"gating": Gating}
