"""RunPlan: the number, lengths and parallelism of a comparison's runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmapkd.core.errors import UsageError


@dataclass(frozen=True)
class RunPlan:
    """The runs of each arm: how many, how long, tuned or not. Raises UsageError for impossible numbers.

    seeds: runs per arm and budget. budgets: fractions of the config's training length. tune: choose each arm's strength
    first. jobs: runs at a time.
    """

    seeds: int = 3
    budgets: Sequence[float] = (1.0,)
    tune: bool = False
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"seeds is {self.seeds}; at least 1, and 3 for an interval worth reading")
        if not self.budgets or min(self.budgets) <= 0 or max(self.budgets) > 1:
            raise UsageError(
                f"budgets are {list(self.budgets)}; give fractions of the config's length, above 0 and at most 1"
            )
