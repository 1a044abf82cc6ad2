"""Opening the task loss of a run: its data are read and checked before the student is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from msgspec import structs

from cmapkd.config.schema import HOLDOUT, DataConfig, TaskConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.holdout import hold_out
from cmapkd.tasks.table import LOSSES
from cmapkd.tasks.task import LossOnData
from cmapkd.tasks.task_loss import Plan, TaskLoss
from cmapkd.towers.dual import DualEncoder

OWN = ("train", "val", "train_split", "val_split", "images", "classes")  # keys of `data` that `task` has too


@dataclass(frozen=True)
class HostRun:
    """The run that a task loss is trained in.

    weight_set: weights.task is in the config. weighted: L_task is among the method's terms. trains: the method trains
    the student. scoring: batch size of the scoring.
    """

    method: str
    seed: int
    scoring: int
    weight_set: bool
    weighted: bool
    trains: bool


def open_task_loss(task: TaskConfig, data: DataConfig, run: HostRun) -> Callable[[DualEncoder], TaskLoss] | None:
    """A function that builds the task loss on a student; None where the run has none on data of its own.

    Raises UsageError or DataError in one line.
    """
    if not run.weighted:
        if task.train is not None and not run.weight_set:
            say(f"task: {task.name} has no part in this run, since weights.task is not set; set weights.task: 1.0")
        return None
    loss = LOSSES[task.name].loss
    assert loss is not None, "LOSSES holds tasks with a loss"
    if task.train is None:
        if loss.without_data is None:
            return None
        raise UsageError(f"task.name: {task.name} {loss.without_data}")
    if not run.trains:
        raise UsageError(
            f"weights.task: method '{run.method}' trains no student for task.train; use `cmapkd train-head` on the result"
        )
    data = structs.replace(data, format="auto", **{key: getattr(task, key) for key in OWN})
    train, val = read_data(task, data)
    for note in train.notes:
        say(f"task data: {note}")
    for each in (train, val):
        if each is not None and loss.check is not None:
            loss.check(each)
    if val is not None and loss.check_both is not None:
        loss.check_both(train, val)
    return partial(_build, loss, Plan(task, data, run.seed, train, val, run.scoring))


def read_data(task: TaskConfig, data: DataConfig) -> tuple[Any, Any]:
    """(training data, validation data or None) of the task."""
    read = LOSSES[task.name].read
    train = read(task.train, data, task.train_split)
    if task.val == HOLDOUT:
        return hold_out(train, task.holdout)
    return train, None if task.val is None else read(task.val, data, task.val_split)


def _build(kind: LossOnData, plan: Plan[Any], student: DualEncoder) -> TaskLoss:
    """Build under the seed alone, so that the rest of the run starts the same with a task and without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        loss = kind.build(plan, student)
    if loss.module is not None:
        loss.module.to(student.device)
    size = 0 if loss.module is None else sum(p.numel() for p in loss.module.parameters())
    head = f"; a head of {size:,} parameters" if size else ""
    say(f"task: {plan.task.name} on {plan.train.name}: {loss.says}{head}")
    return loss
