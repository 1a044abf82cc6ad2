"""Run: everything that one training run consists of; TrainState: the part of it that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmapkd.config.schema import Config, StageConfig
from cmapkd.core import generators
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say
from cmapkd.data.loader import Loader
from cmapkd.methods.objective import Objective
from cmapkd.policy import Policy
from cmapkd.tasks.task_loss import TaskLoss
from cmapkd.teacher.protocol import Teacher
from cmapkd.train import checkpoint
from cmapkd.train.balance import Balance
from cmapkd.train.learner import Learner


@dataclass
class TrainState:
    """The part of a run that changes while it trains; a checkpoint holds all of it.

    weights: λ of each term, the dictionary that the objective reads. best: the best validation figure so far.
    """

    learner: Learner
    optimizer: torch.optim.AdamW
    weights: dict[str, float]
    balance: Balance
    policy: Policy
    policy_optimizer: torch.optim.Optimizer | None
    best: float = float("-inf")


@dataclass(frozen=True)
class Run:
    """One training run: its fixed parts, and its state."""

    config: Config
    folder: Path
    steps: int
    precision: torch.dtype
    stages: tuple[StageConfig, ...]
    loader: Loader
    held_out: Loader | None
    teacher: Teacher | None
    objective: Objective
    validate: Callable[[], dict[str, float]]
    task: TaskLoss | None
    state: TrainState


def save_state(run: Run, step: int) -> Path:
    """Write everything that a bit-exact resume needs as a checkpoint generation."""
    state = run.state
    tensors = {f"learner/{k}": v for k, v in state.learner.state_dict().items()}
    tensors |= {f"policy/{k}": v for k, v in state.policy.state_dict().items()}
    optimizer, groups = checkpoint.optimizer_tensors(state.optimizer)
    tensors |= {f"optimizer/{k}": v for k, v in optimizer.items()}
    facts = {
        "weights": state.weights, "balance": state.balance.table, "norms": state.balance.norms,
        "best": state.best if state.best > float("-inf") else None, "optimizer": groups, "policy": None,
    }  # fmt: skip
    if state.policy_optimizer is not None:
        mine, groups = checkpoint.optimizer_tensors(state.policy_optimizer)
        tensors |= {f"policy_optimizer/{k}": v for k, v in mine.items()}
        facts["policy"] = groups
    tensors |= {f"rng/{k}": v for k, v in generators.states().items()}
    return checkpoint.save(run.folder / "checkpoints", step, tensors, facts, run.config.train.keep)


def restore_state(run: Run) -> int:
    """Load the newest valid checkpoint; returns the step to go on with (0 when there is none yet)."""
    path = checkpoint.latest(run.folder / "checkpoints")
    if path is None:
        say("no checkpoint yet; starting from the beginning")
        return 0
    tensors, facts = checkpoint.load_generation(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    state = run.state
    refuse_other_model(path, state.learner.state_dict(), part("learner/"))
    state.learner.load_state_dict(part("learner/"))
    state.policy.load_state_dict(part("policy/"))
    checkpoint.restore_optimizer(state.optimizer, part("optimizer/"), facts["optimizer"])
    if state.policy_optimizer is not None:
        checkpoint.restore_optimizer(state.policy_optimizer, part("policy_optimizer/"), facts["policy"])
    state.weights.update(facts["weights"])
    state.balance.table[:], state.balance.norms = facts["balance"], facts["norms"]
    state.best = float("-inf") if facts["best"] is None else facts["best"]
    generators.restore(part("rng/"))
    return int(path.name.removeprefix("step-"))


def refuse_other_model(path: Path, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise IntegrityError where a checkpoint's tensors are not those of the run's learner."""
    wrong = [k for k in mine if k not in theirs or theirs[k].shape != mine[k].shape] or sorted(set(theirs) - set(mine))
    if wrong:
        raise IntegrityError(
            f"checkpoint {path}: is of another model (tensor {wrong[0]} differs); put "
            f"the run's own checkpoints back, or move that folder away and resume from what is left"
        )
