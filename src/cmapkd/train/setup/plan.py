"""Plan: the checked parts of a run that need no model; mistakes in the config and the data are told here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cmapkd.config.schedules import resolve_schedule
from cmapkd.config.schema import Config, StageConfig
from cmapkd.core.device import pick_device
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.core.types import LEVELS
from cmapkd.data.holdout import Pool, split_holdout
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.distributed.group import world
from cmapkd.methods import METHODS, TERMS, check_options, resolve
from cmapkd.methods.method import Method
from cmapkd.methods.objective import TASK
from cmapkd.policy import POLICIES
from cmapkd.tasks.open_task_loss import HostRun, open_task_loss
from cmapkd.tasks.task_loss import TaskLoss
from cmapkd.tasks.validation import Validation, open_validation
from cmapkd.teacher.faults import check_fault
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.named import identity
from cmapkd.train.runs.differences import refuse_other_data
from cmapkd.train.runs.dry_run import few


@dataclass(frozen=True)
class Plan:
    """pool, held: indices of the samples that are trained on, and of those that only a policy's credit sees.

    levels: those that teacher and student give. open_task: makes the head of L_task on a student, None where L_task has no data of its own.
    """

    method: Method
    stages: tuple[StageConfig, ...]
    samples: Samples
    validation: Validation
    pool: Pool
    held: np.ndarray
    device: torch.device
    open_task: Callable[[DualEncoder], TaskLoss] | None
    levels: tuple[str, ...] = LEVELS

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms that are computed on the run's own batches."""
        apart = self.open_task is not None
        return {name: weight for name, weight in self.method.weights.items() if not (apart and name == TASK)}


def plan_run(config: Config, evaluated: int | None = None) -> Plan:
    """Check the config and open the data. evaluated: at most so many samples of each task of a validation."""
    method = resolve(config.method, config.weights, config.share)
    check_options(config.options, {**METHODS[config.method].weights, **method.weights})
    check_student(config, method)
    check_fault(config.corrupt, config.cache)
    stages = resolve_schedule(config.schedule, method.stages)
    if config.policy.name not in POLICIES:
        raise UsageError(f"policy.name '{config.policy.name}' is unknown; known: {', '.join(POLICIES)}")
    weighted, trains = TASK in method.weights, method.student == "trained"
    host = HostRun(config.method, config.seed, config.eval.batch, TASK in config.weights, weighted, trains)
    task = open_task_loss(config.task, config.data, host)
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    for note in samples.notes:
        say(f"data: {note}")
    validation = few(
        open_validation(config.data, config.eval), evaluated
    )  # a wrong data.val is told before the teacher runs
    refuse_other_data(samples)
    refuse_uneven(config, world())
    pool, held = split_holdout(len(samples), config.data.holdout)
    return Plan(method, stages, samples, validation, pool, held, pick_device(config.train.device), task)


def refuse_uneven(config: Config, processes: int) -> None:
    """Raise UsageError where a batch cannot be divided into equal stripes."""
    batch, parts = config.train.batch, config.train.accumulate
    if batch % processes:
        raise UsageError(
            f"train.batch is {batch}, which {processes} processes cannot share equally; give a multiple of {processes}"
        )
    if processes > 1 and parts > batch // processes:
        raise UsageError(
            f"train.accumulate is {parts}, but a process has {batch // processes} samples of each batch; lower it, or raise train.batch"
        )


def check_student(config: Config, method: Method) -> None:
    """Raise UsageError for a frozen student that knows nothing, and for terms that cannot stand without their method."""
    if method.served is not None and (lost := [t for t in METHODS[config.method].weights if t not in method.weights]):
        raise UsageError(f"weights.{lost[0]}: 0 leaves nothing of method '{config.method}'; give it a weight")
    if method.served is None and (wraps := [name for name in method.weights if TERMS[name].wraps_student()]):
        raise UsageError(f"weights.{wraps[0]}: the student alone is not its result; set method: {wraps[0]} instead")
    if method.student == "trained":
        return
    if method.share:
        raise UsageError(f"share.{next(iter(method.share))}: method '{config.method}' trains no trunk; drop it")
    if identity(config.student)["weights"] == "random":
        raise UsageError(
            f"method '{config.method}' keeps the student as it is, but student.model {config.student.model} has no "
            "weights; set student.weights, or student.model: local-dir:FOLDER of a trained model"
        )
