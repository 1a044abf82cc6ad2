"""RL: REINFORCE over logistic-normal actions, rewarded by held-out credit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmapkd.policy.gating import Gating

SPREAD = 0.5
TRIES = 8


class RL(Gating):
    """Weights from a network that learns by REINFORCE on sampled actions.

    Actions u ~ N(m(x), ½²), p = softmax(u): inside the simplex, without the bias of clipped Gaussians at its edge.

    Reward R(u) = Σ_k p_k A_k, known for every action, since the credit is linear in p. Gradient: REINFORCE
    (Williams 1992) with M = 8 tries per sample and the leave-one-out mean of the other tries as baseline (Kool et al.
    2019). In expectation it is the gradient of E_u[R], which `expected` takes through the draw.
    """

    def gain(self, scores: Tensor, advantage: Tensor) -> Tensor:
        actions = (scores.detach() + SPREAD * self._noise(TRIES, scores)).detach()
        reward = (actions.softmax(-1) * advantage).sum(-1)
        baseline = (reward.sum(0) - reward) / (TRIES - 1)
        log_probability = log_normal(actions, scores)
        surrogate = ((reward - baseline).detach() * log_probability).mean(0)
        return surrogate - surrogate.detach() + reward.mean(0)

    def expected(self, scores: Tensor, advantage: Tensor) -> Tensor:
        """The same expectation by the path-wise gradient through the draw: the reference."""
        actions = scores + SPREAD * self._noise(TRIES, scores)
        return (actions.softmax(-1) * advantage).sum(-1).mean(0)

    def act(self, scores: Tensor) -> Tensor:
        spread = SPREAD * self.trust.clamp(0, 1).mean()
        return (scores + spread * self._noise(1, scores)[0]).softmax(-1)

    def _noise(self, tries: int, like: Tensor) -> Tensor:
        return self.drawn((tries, *like.shape)).to(like, non_blocking=True)


def log_normal(u: Tensor, mean: Tensor) -> Tensor:
    """log N(u; mean, SPREAD² I) over the last axis."""
    z = (u - mean) / SPREAD
    return -0.5 * z.square().sum(-1) - u.shape[-1] * (math.log(SPREAD) + 0.5 * math.log(2 * torch.pi))


POLICIES = {"rl": RL}
