"""Run: everything that one training run consists of; TrainState: the part of it that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.config.schema import Config, StageConfig
from cmapkd.core import generators
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say
from cmapkd.core.types import LEVELS
from cmapkd.data.loader import Loader
from cmapkd.distributed.collectives import gathered, tensors_from_first, values_of_all
from cmapkd.distributed.group import is_first, rank, world
from cmapkd.methods.objective import Objective
from cmapkd.policy import Policy
from cmapkd.tasks.task_loss import TaskLoss
from cmapkd.teacher.protocol import Teacher
from cmapkd.train import checkpoint
from cmapkd.train.balance import Balance
from cmapkd.train.ema import Ema
from cmapkd.train.learner import Learner


@dataclass
class TrainState:
    """The part of a run that changes while it trains; a checkpoint holds all of it.

    weights: λ of each term, the dictionary that the objective reads. ema: the average of the weights, None where it is off. best: the best validation figure so far.
    """

    learner: Learner
    optimizer: torch.optim.AdamW
    weights: dict[str, float]
    balance: Balance
    policy: Policy
    policy_optimizer: torch.optim.Optimizer | None
    best: float = float("-inf")
    ema: Ema | None = None

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the student has the averaged weights, where an average is kept."""
        return nullcontext() if self.ema is None else self.ema.applied()


@dataclass(frozen=True)
class Run:
    """One training run: its fixed parts, and its state. levels: those that teacher and student give."""

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
    levels: tuple[str, ...] = LEVELS


def save_state(run: Run, step: int) -> None:
    """Write everything that a bit-exact resume needs as a checkpoint generation; the first process writes it, however long
    that takes.

    Raises IntegrityError where the processes of a run do not have the same state any more.
    """
    refuse_divergence(run.state.learner, step)
    streams = streams_of_all()
    if is_first():
        _write(run, step, streams)
    values_of_all(None)


def _write(run: Run, step: int, streams: dict[str, Tensor]) -> None:
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
    if state.ema is not None:
        tensors |= {f"ema/{k}": v for k, v in state.ema.tensors().items()}
    checkpoint.save(run.folder / "checkpoints", step, tensors | streams, facts, run.config.train.keep)


def restore_state(run: Run) -> int:
    """Load the newest valid checkpoint; returns the step to go on with (0 when there is none yet)."""
    tensors, (name, facts) = tensors_from_first(lambda: _newest(run.folder / "checkpoints"))
    if name is None:
        say("no checkpoint yet; starting from the beginning")
        return 0
    path = run.folder / "checkpoints" / name

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    state = run.state
    refuse_other_model(path, state.learner.state_dict(), part("learner/"))
    state.learner.load_state_dict(part("learner/"))
    state.policy.load_state_dict(part("policy/"))
    checkpoint.restore_optimizer(state.optimizer, part("optimizer/"), facts["optimizer"])
    if state.policy_optimizer is not None:
        checkpoint.restore_optimizer(state.policy_optimizer, part("policy_optimizer/"), facts["policy"])
    if state.ema is not None:
        state.ema.load(part("ema/"))
    state.weights.update(facts["weights"])
    state.balance.table[:], state.balance.norms = facts["balance"], facts["norms"]
    state.best = float("-inf") if facts["best"] is None else facts["best"]
    restore_streams(part("rng/"))
    return int(name.removeprefix("step-"))


def _newest(folder: Path) -> tuple[dict[str, Tensor], list[Any]]:
    """(tensors, [name, facts]) of the newest valid checkpoint; no tensor and no name where there is none."""
    path = checkpoint.latest(folder)
    if path is None:
        return {}, [None, None]
    tensors, facts = checkpoint.load_generation(path)
    return tensors, [path.name, facts]


def streams_of_all() -> dict[str, Tensor]:
    """The generators' states under `rng/`: the shared stream, and under `rng/K/` that of process K's own."""
    states = generators.states()
    own = {name: state for name, state in states.items() if name.startswith(generators.OWN)}
    rows = gathered([state[None] for state in own.values()])
    apart = {f"rng/{k}/{name}": row[k] for name, row in zip(own, rows, strict=True) for k in range(len(row))}
    return {f"rng/{name}": state for name, state in states.items() if name not in own} | apart


def restore_streams(kept: dict[str, Tensor]) -> None:
    """Set the generators; a process that had no stream of its own then, or not this many processes, begins a new one."""
    mine = {name.partition("/")[2]: state for name, state in kept.items() if name.startswith(f"{rank()}/")}
    shared = {name: state for name, state in kept.items() if "/" not in name}
    if (
        world() > 1
        and f"{world() - 1}/{generators.OWN}torch" in kept
        and f"{world()}/{generators.OWN}torch" not in kept
    ):
        generators.restore(shared | mine)
    else:
        generators.restore(shared)


def refuse_divergence(learner: Learner, step: int) -> None:
    """Raise IntegrityError where a process has other weights than the first: what follows would be of no use."""
    if world() == 1:
        return
    total = torch.stack([_bits(p.detach()) for p in learner.parameters()]).sum()
    sums = gathered([total[None]])[0].tolist()
    wrong = [k for k, value in enumerate(sums) if value != sums[0]]
    if wrong:
        raise IntegrityError(
            f"step {step}: rank {wrong[0]} has other weights than rank 0, which different processors or a faulty "
            "memory can cause; the checkpoint before is intact: --resume, without that machine if it "
            "comes again"
        )


def refuse_other_model(path: Path, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise IntegrityError where a checkpoint's tensors are not those of the run's learner."""
    wrong = [k for k in mine if k not in theirs or theirs[k].shape != mine[k].shape] or sorted(set(theirs) - set(mine))
    if wrong:
        raise IntegrityError(
            f"checkpoint {path}: is of another model (tensor {wrong[0]} differs); put "
            f"the run's own checkpoints back, or move that folder away and resume from what is left"
        )


def _bits(tensor: Tensor) -> Tensor:
    """The sum of a tensor's numbers read as integers: exact, whatever the order of the summands."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(-1).view(integers).sum(dtype=torch.int64)
