"""TASKS: every folder of this package that has a `task.py` is a task; adding one costs its folder and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from cmapkd.config.names import require_evaluated_task
from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.evaluate import Pixels, evaluate_by
from cmapkd.tasks.score import Score
from cmapkd.tasks.task import Task


def _discovered() -> dict[str, Task]:
    """The TASK of every folder, sorted by place."""
    folders = [info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]) if info.ispkg]
    found: list[Task] = [importlib.import_module(f"cmapkd.tasks.{folder}.task").TASK for folder in folders]
    assert [task.name for task in found] == folders, "a task has the name of its folder"
    return {task.name: task for task in sorted(found, key=lambda task: (task.place, task.name))}


TASKS: dict[str, Task] = _discovered()
LOSSES: dict[str, Task] = {task.loss_name or name: task for name, task in TASKS.items() if task.loss is not None}


def evaluate(
    encoder: Encoder,
    samples: Samples,
    task: str,
    batch: int = 256,
    protocol: str | None = None,
    checkpoint: str = "",
    read: Pixels | None = None,
) -> Score:
    """Score `encoder` on `samples`. read: uint8 pixels of a range of images (default: the loader's).

    Raises UsageError for a task or protocol that does not exist, DataError for data without captions or labels.
    """
    protocol = chosen_protocol(task, protocol)
    scorer = TASKS[task].evaluate
    assert scorer is not None, "tasks without it were refused"
    return evaluate_by(scorer, task, protocol, encoder, samples, batch, checkpoint, read)


def chosen_protocol(task: str, protocol: str | None) -> str:
    """`protocol`, or the task's default. Raises UsageError for a task or protocol that does not exist."""
    require_evaluated_task(task)
    known = TASKS[task].protocols
    protocol = protocol or next(iter(known))
    if protocol not in known:
        near = did_you_mean(protocol, known)
        raise UsageError(f"task {task} has no protocol '{protocol}'; it has: {', '.join(known)}{near}")
    return protocol
