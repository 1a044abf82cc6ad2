"""Run: everything that one training run consists of, and the teacher's word on a batch of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cmapkd.config.schema import Config, StageConfig
from cmapkd.core.device import pick_precision
from cmapkd.core.types import Batch, Teaching
from cmapkd.data.loader import Loader
from cmapkd.policy import Policy
from cmapkd.tasks.task_loss import TaskLoss
from cmapkd.teacher.protocol import Teacher
from cmapkd.train.balance import Balance
from cmapkd.train.learner import Learner
from cmapkd.train.objective import Objective
from cmapkd.train.schedule import Moment


@dataclass
class Run:
    """Everything that one training run consists of."""

    config: Config
    folder: Path
    steps: int
    learner: Learner
    optimizer: torch.optim.AdamW
    loader: Loader
    stages: tuple[StageConfig, ...]
    objective: Objective
    balance: Balance
    policy: Policy
    policy_optimizer: torch.optim.Optimizer | None
    teacher: Teacher | None
    held_out: Loader | None
    validate: Callable[[], dict[str, float]]
    task: TaskLoss | None = None
    best: float = float("-inf")
    validating: float = 0.0  # seconds
    warned: bool = False  # that the contrastive loss does not move
    read: int = 0  # bytes of the cache that the step in hand has taken
    pending: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)

    @property
    def precision(self) -> torch.dtype:
        return pick_precision(self.config.train.precision, self.learner.unit.device)


def teach(run: Run, batch: Batch, moment: Moment) -> Teaching | None:
    """The teacher's word on a batch: only the levels that a term reads now."""
    if run.teacher is None or not run.objective.needs("teacher", moment):
        return None
    bridge = run.objective.needs("bridge", moment) or run.policy.reads_bridge
    return run.teacher.teach(batch, run.objective.levels(moment), bridge)
