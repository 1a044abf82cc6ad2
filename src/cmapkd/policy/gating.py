"""Learnable gating: a small network turns the teacher's view of a sample into level weights.

It is trained on the credit of each level, measured on held-out pairs, never through the loss that it weights: weights
that minimise their own weighted loss run to whichever level is easiest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, Teaching

DECAY = 0.95
HIDDEN = 64
ROOM = 0.2  # share of every weight that stays uniform


class Gating(nn.Module):
    """Level weights from the sample, learnt on the held-out credit of each level.

    State: the teacher's final embeddings, their cosine, and progress. p = softmax per modality, w = 4 ((1 − ε) p + ε/4).

    The last layer starts at zero, so that the first policy is uniform. Objective, ascended on (state, credit A):
    J = mean_b [Σ_k p_k A_k − τ KL(p ‖ uniform)], whose optimum is p ∝ exp(A / τ).
    """

    learns = True
    rms: Tensor
    mean: Tensor
    square: Tensor
    events: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__()
        self.entropy = config.entropy
        self.net = nn.Sequential(nn.LayerNorm(2 * embedding + 2), nn.Linear(2 * embedding + 2, HIDDEN), nn.GELU())
        self.head = nn.Linear(HIDDEN, len(LEVELS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("rms", torch.zeros(len(LEVELS)))
        self.register_buffer("mean", torch.zeros(len(LEVELS)))
        self.register_buffer("square", torch.zeros(len(LEVELS)))
        self.register_buffer("events", torch.zeros(()))

    def forward(self, teaching: Teaching, progress: float) -> tuple[Tensor | None, Tensor | None]:
        with torch.no_grad():
            p = self.probabilities(teaching, progress).exp()
        return (4 * ((1 - ROOM) * p + ROOM / 4)).flatten(1), None

    def probabilities(self, teaching: Teaching, progress: float) -> Float[Tensor, "b 2 4"]:
        """log p per modality."""
        image, text = teaching.final.image.detach(), teaching.final.text.detach()
        cosine = (image * text).sum(1, keepdim=True)
        state = torch.cat([image, text, cosine, torch.full_like(cosine, progress)], dim=1)
        return self.head(self.net(state)).unflatten(1, (2, 4)).log_softmax(-1)

    def objective(self, teaching: Teaching, progress: float, credit: Float[Tensor, "b k"]) -> Tensor:
        """−J on one event; `credit` is standardised by the running rms per level."""
        log_p = self.probabilities(teaching, progress)
        advantage = self.standardise(credit).unflatten(1, (2, 4))
        gain = (log_p.exp() * advantage).sum((1, 2))
        uniform = torch.full_like(log_p, -torch.log(torch.tensor(4.0)).item())
        divergence = F.kl_div(uniform, log_p, log_target=True, reduction="none").sum((1, 2))
        return -(gain - self.entropy * divergence).mean()

    @torch.no_grad()
    def standardise(self, credit: Tensor) -> Tensor:
        """A = credit / running rms of each level; also moves the running mean behind the t-statistic."""
        keep = 0.0 if self.events == 0 else DECAY
        self.rms.lerp_(credit.square().mean(0).sqrt(), 1 - keep)
        scaled = credit / self.rms.clamp_min(1e-12)
        batch_mean = scaled.mean(0)
        self.mean.lerp_(batch_mean, 1 - keep)
        self.square.lerp_(batch_mean.square(), 1 - keep)
        self.events.add_(1)
        return scaled

    @property
    def t_statistic(self) -> Tensor:
        """Per level, mean credit over its standard error: the reward's signal against its noise."""
        effective = min(float(self.events), (1 + DECAY) / (1 - DECAY))
        spread = (self.square - self.mean.square()).clamp_min(1e-12).sqrt()
        return self.mean / spread * max(effective, 1.0) ** 0.5
