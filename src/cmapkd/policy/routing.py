"""Routing: attention from a query of the sample to a key of each level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, TeacherOutputs
from cmapkd.policy.adaptive import HIDDEN, Adaptive

KEY = 32


class Routing(Adaptive):
    """Weights by attention of a sample's query over a key of each level.

    m_k(x) = ⟨q(x), K b_k + e_k⟩ / √d: b_k the teacher's pooled level k in the shared space, e_k a learnt level key.

    The pair (i, j) scores the sum of its two levels' pair scores. q starts at zero, so that the first policy is uniform.
    """

    reads_bridge = True

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        self.query = nn.Linear(HIDDEN, 2 * KEY)
        self.key = nn.Linear(embedding, KEY, bias=False)
        self.level = nn.Parameter(torch.randn(len(LEVELS), KEY, generator=torch.Generator().manual_seed(0)))
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def scores(self, x: Tensor, teacher: TeacherOutputs) -> tuple[Tensor, Tensor]:
        levels = teacher.bridge_rows.detach()
        keys = self.key(levels) + self.level
        queries = self.query(self.net(x)).unflatten(1, (2, KEY))
        own, paired = (torch.einsum("bqd,bkd->bqk", queries, keys) / KEY**0.5).unbind(1)
        return own.unflatten(1, (2, 4)), (paired[:, :4, None] + paired[:, None, 4:]).flatten(1)


POLICIES = {"routing": Routing}
