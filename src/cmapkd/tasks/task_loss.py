"""TaskLoss: L_task on data of its own, from a step's batch to the score at the end of the run."""

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
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder

T = TypeVar("T")
TASK = 17  # keeps the task's random draws apart from the pairs', also where both come from one file
WHOLE = {"views": 1}  # questions and captions are about the whole image, unmirrored


class TaskLoss(Protocol):
    """One step is loss(outputs(student, batch(step)), batch); only `outputs` runs in the run's precision.

    says: the training data, in words. module: the head that is trained beside the student, None where there is none.
    """

    says: str

    @property
    def module(self) -> nn.Module | None: ...

    @property
    def unreadable(self) -> int:
        """Number of unreadable images found so far."""
        ...

    def batch(self, step: int) -> Any:
        """The batch of a global step; the same for the same (data, seed, step). Safe to call from any thread."""
        ...

    def outputs(self, student: DualEncoder, batch: Any) -> tuple[Tensor, ...]:
        """Outputs of student and head on a batch."""
        ...

    def loss(self, outputs: tuple[Tensor, ...], batch: Any) -> Tensor:
        """The scalar loss of float32 outputs."""
        ...

    def result(self, student: DualEncoder) -> TrainedHead:
        """The head, with its score on the validation data if there are any."""
        ...


def task_loss(task: TaskLoss, student: DualEncoder, work: Any, precision: torch.dtype) -> Tensor:
    """L_task of a batch of its own, float32; student and head run under autocast when precision is bf16."""
    with torch.autocast(student.device.type, precision, enabled=precision != torch.float32):
        outputs = task.outputs(student, work)
    return task.loss(tuple(tensor.float() for tensor in outputs), work)


@dataclass(frozen=True)
class Plan(Generic[T]):
    """The inputs of a TaskLoss. data: the run's data config with the task's own paths in it."""

    task: TaskConfig
    data: DataConfig
    seed: int
    train: T
    val: T | None
    scoring: int  # batch size of the scoring


class ReadByLoader:
    """Part of every TaskLoss whose batches come from a Loader: the batches and the count of unreadable images."""

    def __init__(self, plan: Plan[Any], samples: Samples, student: DualEncoder, whole: bool = False) -> None:
        self.plan, self.loader = plan, task_loader(plan, samples, student, whole)
        self.batch = self.loader.batch

    @property
    def unreadable(self) -> int:
        return len(self.loader.ledger.quarantined)


def task_loader(plan: Plan[Any], samples: Samples, student: DualEncoder, whole: bool = False) -> Loader:
    """The loader of the task's own batches: `whole` images, or augmented views. Raises UsageError for too few images."""
    if plan.task.batch > len(samples):
        raise UsageError(
            f"task.batch is {plan.task.batch}, but {samples.name} has only {len(samples)} images to train on; lower task.batch"
        )
    data = structs.replace(plan.data, **WHOLE) if whole else plan.data
    spec = InputSpec(student.size, student.tokenizer)
    return Loader(samples, data, spec, None, plan.task.batch, keyed_hash(plan.seed, TASK))
