"""TaskHead: L_task on data of its own, from a step's batch to the figures at the end; and what one is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from msgspec import structs
from torch import Tensor, nn

from cmapkd.config.schema import DataConfig, TaskConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.order import keyed_hash
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.samples import Samples
from cmapkd.tasks.headed import Headed
from cmapkd.towers.dual import Tower

T = TypeVar("T")
TASK = 17  # keeps the task's draws apart from the pairs', also where both come from one file
WHOLE = {"views": 1}  # what is asked or said of an image is of the whole of it, unmirrored


class TaskHead(Protocol):
    """One step is loss(outputs(student, batch(step)), batch); only `outputs` runs in the run's precision.

    says: what is trained, in words. module: what is learnt beside the student, None where nothing is.
    """

    says: str

    @property
    def module(self) -> nn.Module | None: ...

    @property
    def unreadable(self) -> int:
        """Images that were found unreadable so far."""
        ...

    def batch(self, step: int) -> Any:
        """The batch of a global step; the same for the same (data, seed, step). Any thread may ask for it."""
        ...

    def outputs(self, student: Tower, batch: Any) -> tuple[Tensor, ...]: ...

    def loss(self, outputs: tuple[Tensor, ...], batch: Any) -> Tensor:
        """A scalar of float32 outputs."""
        ...

    def result(self, student: Tower) -> Headed:
        """The head, and its figures on the validation data where there are any."""
        ...


def task_loss(task: TaskHead, student: Tower, work: Any, precision: torch.dtype) -> Tensor:
    """L_task of a batch of its own, float32; student and head run under autocast when precision is bf16."""
    with torch.autocast(student.device.type, precision, enabled=precision != torch.float32):
        outputs = task.outputs(student, work)
    return task.loss(tuple(tensor.float() for tensor in outputs), work)


@dataclass(frozen=True)
class Plan(Generic[T]):
    """What a TaskHead is built from. data: the run's data config with the task's own places in it."""

    task: TaskConfig
    data: DataConfig
    seed: int
    train: T
    val: T | None
    scoring: int  # images at a time, where a score is counted


def task_loader(plan: Plan[Any], samples: Samples, student: Tower, whole: bool = False) -> Loader:
    """The loader of the task's own batches; `whole` images, or the data's views. Raises UsageError for too few images."""
    if plan.task.batch > len(samples):
        raise UsageError(
            f"task.batch is {plan.task.batch}, but {samples.name} has only {len(samples)} images to train on; lower task.batch"
        )
    data = structs.replace(plan.data, **WHOLE) if whole else plan.data
    spec = InputSpec(student.size, student.tokenizer)
    return Loader(samples, data, spec, None, plan.task.batch, keyed_hash(plan.seed, TASK))
