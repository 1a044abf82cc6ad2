"""Policy: level weights and a coupling factor for a batch, and the levels that are worth computing; the base of all policies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, TeacherOutputs

DECAY = 0.95
CLEARLY = 2.0  # standard errors


@dataclass(frozen=True)
class Credit:
    """Credit of a step on each level of each sample: by how much it lowers the held-out loss; positive helps.

    levels: [B, 8], 0 for a level that was not measured; pairs: [B, 4, 4] of the pyramid's level pairs, or None.
    """

    levels: Tensor
    pairs: Tensor | None = None


class Policy(nn.Module):
    """forward(teacher, progress) gives weights [B, 8] with mean 1 per modality (None: uniform) and a factor [B, 4, 4]
    with mean 1 for the bridge's coupling (None: 1). `learns`: it wants to `observe` credits.
    """

    learns = False
    reads_bridge = False

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__()
        self.config, self.embedding = config, embedding
        self._told: dict[str, tuple[tuple[int, int], list[float]]] = {}

    def told(self, name: str) -> list[float]:
        """The numbers of a buffer (a dotted name, any shape, flattened), read once after each of its changes.

        Buffers change when a policy learns, every so many steps; in all others the host does not wait for a device.
        """
        buffer = self.get_buffer(name)
        version = id(buffer), buffer._version
        if name not in self._told or self._told[name][0] != version:
            self._told[name] = version, buffer.detach().flatten().tolist()
        return self._told[name][1]

    def drawn(self, shape: tuple[int, ...]) -> Tensor:
        """N(0, 1) of `shape` on the CPU: a new draw, the same after a resume. Needs a buffer `draws`, the draws so far."""
        count = int(self.told("draws")[0])
        buffer = self.get_buffer("draws").add_(1)
        self._told["draws"] = (id(buffer), buffer._version), [count + 1]
        return draw(count, shape)

    def forward(self, teacher: TeacherOutputs, progress: float) -> tuple[Tensor | None, Tensor | None]:
        raise NotImplementedError

    def awake(self, levels: tuple[str, ...], probing: bool = False) -> tuple[str, ...]:
        """Those of `levels` that are worth computing now."""
        return levels

    def observe(
        self, teacher: TeacherOutputs, progress: float, credit: Credit, optimizer: torch.optim.Optimizer | None
    ) -> dict[str, float]:
        """Learn from one credit event; returns figures for the log."""
        raise NotImplementedError


def draw(count: int, shape: tuple[int, ...]) -> Tensor:
    """The count-th draw of N(0, 1) of `shape`, from a generator of its own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1_000_003 * count + 17))


class Running(nn.Module):
    """Running statistics of credits, one per level (or pair): scale, mean and the standard error of the mean.

    A = credit / rms; t = mean A / standard error over events. Averages forget with decay d, the first events weighing
    no more than the others; n_eff = min(n, (1 + d) / (1 − d)).
    """

    rms: Tensor
    mean: Tensor
    square: Tensor
    events: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("rms", "mean", "square", "events"):
            self.register_buffer(name, torch.zeros(size))

    @torch.no_grad()
    def standardise(self, credit: Tensor) -> Tensor:
        """A [B, size] of credit [B, size]; an entry that is 0 for every sample was not measured and moves nothing."""
        seen = (credit != 0).any(0)
        keep = 1 - share_of_new(self.events + 1)
        new = credit.square().mean(0).sqrt()
        self.rms.copy_(torch.where(seen, keep * self.rms + (1 - keep) * new, self.rms))
        scaled = credit / self.rms.clamp_min(1e-12)
        for buffer, value in ((self.mean, scaled.mean(0)), (self.square, scaled.mean(0).square())):
            buffer.copy_(torch.where(seen, keep * buffer + (1 - keep) * value, buffer))
        self.events.add_(seen.to(self.events))
        return scaled

    def t_statistic(self, cost: Tensor | float = 0.0) -> Tensor:
        """(mean − cost) over its standard error, per entry: the reward's signal against its noise; 0 before two events."""
        effective = self.events.clamp_max((1 + DECAY) / (1 - DECAY))
        spread = (self.square - self.mean.square()).clamp_min(1e-8).sqrt()
        return torch.where(self.events < 2, 0.0, (self.mean - cost) / spread * effective.sqrt())


def share_of_new(count: Tensor) -> Tensor:
    """Weight of the count-th value in a decaying average without bias towards the first: (1 − d) / (1 − dⁿ)."""
    return (1 - DECAY) / (1 - DECAY**count)


class Learning(Policy):
    """A policy that observes credits: their statistics, and the switch that puts levels to sleep.

    A level sleeps (it is neither computed nor read) once its reward net of cost, m_k − λ_c c_k, has been clearly
    negative, or its mean weight under the floor, for `patience` events in a row; every `probe` events it is measured
    again and may come back.
    cost [8]: each level's share of the bytes that all levels read, times 8; bytes and not milliseconds, because a run
    whose decisions hang on a clock cannot be repeated.
    """

    learns = True
    low: Tensor
    asleep: Tensor
    cost: Tensor
    count: Tensor

    def __init__(self, config: PolicyConfig, embedding: int) -> None:
        super().__init__(config, embedding)
        self.levels, self.pairs = Running(len(LEVELS)), Running(16)
        self.register_buffer("low", torch.zeros(len(LEVELS)))
        self.register_buffer("asleep", torch.zeros(len(LEVELS), dtype=torch.bool))
        self.register_buffer("cost", torch.ones(len(LEVELS)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def awake(self, levels: tuple[str, ...], probing: bool = False) -> tuple[str, ...]:
        if probing and int(self.count) % self.config.probe == 0:
            return levels
        off = self.told("asleep")
        return tuple(name for name in levels if not off[LEVELS.index(name)])

    def standardise(self, credit: Credit) -> Credit:
        """Advantages of an event, and one more event in the statistics."""
        self.count.add_(1)
        pairs = None if credit.pairs is None else self.pairs.standardise(credit.pairs.flatten(1)).unflatten(1, (4, 4))
        return Credit(self.levels.standardise(credit.levels), pairs)

    def settle(self, weights: Tensor | None, measured: Tensor) -> None:
        """Put levels to sleep or wake them. weights [B, 8] of the event; measured: bool [8]."""
        bad = self.levels.t_statistic(self.config.cost * self.cost) < -CLEARLY
        if weights is not None:
            bad = bad | (weights.mean(0) < self.config.floor)
        self.low.copy_(torch.where(measured, torch.where(bad, self.low + 1, 0.0), self.low))
        self.asleep.copy_(self.low >= self.config.patience)

    def figures(self) -> dict[str, float]:
        """t-statistic per level and what sleeps, for the log."""
        t, off = self.levels.t_statistic().tolist(), self.asleep.tolist()
        return {f"t/{k}": t[i] for i, k in enumerate(LEVELS)} | {f"asleep/{k}": off[i] for i, k in enumerate(LEVELS)}
