"""Adaptive: the common part of gating, routing and rl: logits per sample, a memory of credits, and trust that must be earned.

The policy is trained on the credit of each level, measured on held-out pairs, never through the loss that it weights:
weights that minimise their own weighted loss run to whichever level is easiest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, LogitScale, Pair, TeacherOutputs
from cmapkd.policy.base import Credit, Learning, share_of_new

HIDDEN = 64
ROOM = 0.2  # share of every weight that stays uniform
ROWS, EVENTS = 64, 16  # the memory holds the last EVENTS events, at most ROWS samples each
UPDATES, FIRST = 4, 32  # gradient steps per event; the first fit after collecting takes more


class Adaptive(Learning):
    """A policy whose scores per sample act as far as they have predicted credit.

    p = softmax(ρ ∘ m(x)) per modality, w = 4 ((1 − ε) p + ε / 4); the coupling likewise over its 16 pairs.

    m: the subclass's `scores`. State x: the teacher's final embeddings, their cosine, and progress.
    ρ_k ∈ [0, 1], the trust: the running out-of-sample R² of m_k against the centred advantages less cost, measured on every event
    before it is learnt from. Where the reward is noise, ρ stays 0 and the policy is uniform.
    Stage 1 (progress < policy.collect) gathers (x, credit) with uniform weights; then the policy is fitted on what was
    gathered and acts. J = mean_b [Σ_k p_k A_k − τ KL(p ‖ uniform)], whose optimum is p ∝ exp(A / τ).
    """

    trust: Tensor
    judged: Tensor
    draws: Tensor
    fitted: Tensor
    seen_weight: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        width = 2 * embedding + 2
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU())
        self.register_buffer("trust", torch.zeros(len(LEVELS) + 16))
        self.register_buffer("judged", torch.zeros(()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        for name, size in (
            ("seen_image", embedding), ("seen_text", embedding), ("seen_progress", 1), ("seen_levels", len(LEVELS)),
            ("seen_pairs", 16), ("seen_weight", 1),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(EVENTS * ROWS, size))
        if self.reads_bridge:
            self.register_buffer("seen_bridge", torch.zeros(EVENTS * ROWS, len(LEVELS), embedding))

    def scores(
        self, x: Float[Tensor, "b s"], teacher: TeacherOutputs
    ) -> tuple[Float[Tensor, "b 2 4"], Float[Tensor, "b 16"]]:
        """m of levels and of pairs; zero at the start, so that the first policy is uniform."""
        raise NotImplementedError

    def gain(self, scores: Tensor, advantage: Tensor) -> Tensor:
        """Expected reward Σ p A of each sample, a value whose gradient is the policy gradient: [B], from [B, n] both."""
        return (scores.softmax(-1) * advantage).sum(-1)

    def act(self, scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """p of an action; what learns by trying things samples here."""
        return scores.softmax(-1)

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        if not self.told("fitted")[0]:
            return None, None
        with torch.no_grad():
            levels, pairs = self.scores(self.state(teacher, progress), teacher)
            trusted, paired = self.trust.clamp(0, 1).split([len(LEVELS), 16])
            p = self.act((trusted.view(2, 4) * levels).flatten(0, 1)).unflatten(0, (-1, 2))
            weights = (4 * ((1 - ROOM) * p + ROOM / 4)).flatten(1)
            if max(self.told("pairs.events")) == 0:
                return weights, None
            q = self.act(paired * pairs)
            return weights, (16 * ((1 - ROOM) * q + ROOM / 16)).unflatten(1, (4, 4))

    def state(self, teacher: TeacherOutputs, progress: float | Tensor) -> Float[Tensor, "b s"]:
        image, text = teacher.final.image.detach(), teacher.final.text.detach()
        cosine = (image * text).sum(1, keepdim=True)
        when = progress if isinstance(progress, Tensor) else torch.full_like(cosine, progress)
        return torch.cat([image, text, cosine, when], dim=1)

    def observe(
        self, teacher: TeacherOutputs, progress: float, credit: Credit, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, float]:
        measured = (credit.levels != 0).any(0)
        advantage = self.standardise(credit)
        levels = torch.where(measured, advantage.levels, self.levels.mean)  # of a level asleep: what it gave so far
        net = Credit(levels - self.config.cost * self.cost, advantage.pairs)
        self._judge(teacher, progress, net, measured)
        self._remember(teacher, progress, net)
        loss = float("nan")
        if progress >= self.config.collect and optimizer is not None:
            for _ in range(UPDATES if bool(self.fitted) else FIRST):
                optimizer.zero_grad(set_to_none=True)
                objective = self.objective(*self._recall())
                objective.backward()
                optimizer.step()
                loss = float(objective.detach())
            self.fitted.fill_(True)
        weights = self(teacher, progress)[0]
        reward = float((net.levels if weights is None else net.levels * weights).mean())
        self.settle(weights, measured)
        return {
            "reward": reward,
            "trust": float(self.trust[: len(LEVELS)].clamp_min(0).mean()),
            "objective": loss,
            **self.figures(),
        }

    def objective(self, teacher: TeacherOutputs, progress: Tensor, net: Credit, rows: Tensor) -> Tensor:
        """−J of remembered samples; net: advantages less cost; rows [B] is 1 where the memory is filled."""
        levels, pairs = self.scores(self.state(teacher, progress), teacher)
        gain = (
            self.gain(levels.flatten(0, 1), net.levels.unflatten(1, (2, 4)).flatten(0, 1)).unflatten(0, (-1, 2)).sum(1)
        )
        divergence = kl_to_uniform(levels).sum(1)
        if net.pairs is not None:
            gain = gain + self.gain(pairs, net.pairs.flatten(1))
            divergence = divergence + kl_to_uniform(pairs)
        return -((gain - self.config.entropy * divergence) * rows).sum() / rows.sum().clamp_min(1)

    @torch.no_grad()
    def _judge(self, teacher: TeacherOutputs, progress: float, net: Credit, measured: Tensor) -> None:
        """Move the trust by this event's out-of-sample R²: 1 − ‖A − τ m‖² / ‖A‖² per level, centred within a modality.

        Levels that were not `measured` (bool [8]) keep the trust that they had.
        """
        if not bool(self.fitted):
            return
        scores, paired = self.scores(self.state(teacher, progress), teacher)
        had, pairs_had = self.trust.split([len(LEVELS), 16])
        now = self._agreement(scores, net.levels.unflatten(1, (2, 4))).flatten()
        found = [torch.where(measured, now, had), pairs_had]
        if net.pairs is not None:
            found[1] = self._agreement(paired, net.pairs.flatten(1))
        self.judged.add_(1)
        self.trust.lerp_(torch.cat(found), share_of_new(self.judged))

    def _agreement(self, scores: Tensor, advantage: Tensor) -> Tensor:
        wanted = advantage - advantage.mean(-1, keepdim=True)
        said = self.config.entropy * (scores - scores.mean(-1, keepdim=True))
        return (1 - (wanted - said).square().sum(0) / wanted.square().sum(0).clamp_min(1e-12)).clamp(-1, 1)

    @torch.no_grad()
    def _remember(self, teacher: TeacherOutputs, progress: float, net: Credit) -> None:
        """The newest event replaces the oldest."""
        count = min(ROWS, len(teacher.final.image))
        start = (int(self.count) - 1) % EVENTS * ROWS
        rows = slice(start, start + count)
        self.seen_weight[start : start + ROWS] = 0
        self.seen_weight[rows] = 1
        self.seen_image[rows], self.seen_text[rows] = teacher.final.image[:count], teacher.final.text[:count]
        self.seen_progress[rows] = progress
        self.seen_levels[rows] = net.levels[:count]
        self.seen_pairs[rows] = 0 if net.pairs is None else net.pairs.flatten(1)[:count]
        if self.reads_bridge:
            self.seen_bridge[rows] = teacher.bridge_rows[:count]

    def _recall(self) -> tuple[TeacherOutputs, Tensor, Credit, Tensor]:
        """A quarter of the memory, drawn anew."""
        order = self.drawn((len(self.seen_weight),)).argsort()[: len(self.seen_weight) // 4]
        bridge = None
        if self.reads_bridge:
            bridge = Pair(self.seen_bridge[order, :4], self.seen_bridge[order, 4:])
        teacher = TeacherOutputs(Pair(self.seen_image[order], self.seen_text[order]), LogitScale(1.0), bridge=bridge)
        pairs = self.seen_pairs[order].unflatten(1, (4, 4)) if float(self.pairs.events.max()) > 0 else None
        return teacher, self.seen_progress[order], Credit(self.seen_levels[order], pairs), self.seen_weight[order, 0]


def kl_to_uniform(scores: Float[Tensor, "... n"]) -> Float[Tensor, ...]:
    """KL(softmax(scores) ‖ uniform)."""
    log_p = scores.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1) + torch.log(torch.tensor(float(scores.shape[-1])))
