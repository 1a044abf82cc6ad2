"""TASK_HEADS: what L_task can be on data of its own. A task costs its file here and its line in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from msgspec import structs

from cmapkd.config.schema import HOLDOUT, Config
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.holdout import hold_out
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from cmapkd.tasks.captioning.loss import Captioning, check_captions
from cmapkd.tasks.detection.loss import Detection, check_boxes
from cmapkd.tasks.retrieval.loss import Contrastive
from cmapkd.tasks.task_loss import Plan, TaskHead
from cmapkd.tasks.vqa.loss import Vqa, check_questions
from cmapkd.tasks.zeroshot.loss import Classification, require_labels
from cmapkd.towers.dual import Tower


@dataclass(frozen=True)
class Kind:
    """read: a set at a place; check: whether train and val can be learnt from and scored; head: what learns."""

    read: Callable[..., Any]
    check: Callable[[Any, Any], None]
    head: Callable[[Plan[Any], Tower], TaskHead]


TASK_HEADS: dict[str, Kind] = {
    "contrastive": Kind(open_samples, check_captions, Contrastive),
    "classification": Kind(open_samples, require_labels, Classification),
    "vqa": Kind(open_questions, check_questions, Vqa),
    "detection": Kind(open_boxes, check_boxes, Detection),
    "captioning": Kind(open_samples, check_captions, Captioning),
}


def open_task(config: Config, weighted: bool, trains: bool) -> Callable[[Tower], TaskHead] | None:
    """Read and check the task's own data; what comes back makes its head on a student. None: L_task has none, or no part.

    weighted: whether L_task is among the method's terms. trains: whether the method trains the student. Raises UsageError or DataError in one line.
    """
    task = config.task
    if not weighted:
        if task.train is not None and "task" not in config.weights:
            say(f"task: {task.name} has no part in this run, since weights.task is not set; set weights.task: 1.0")
        return None
    if task.train is None and task.name == "classification":
        return None
    if task.train is None and task.name == "contrastive":
        raise UsageError("task.name: contrastive on the run's own pairs is what `align` is already; set task.train")
    if task.train is None:
        raise UsageError(f"task.name: {task.name} needs data of its own; set task.train (and task.val to score it)")
    if not trains:
        raise UsageError(
            f"weights.task: method '{config.method}' trains no student for task.train; use `cmapkd train-head` on the result"
        )
    kind = TASK_HEADS[task.name]
    own = ("train", "val", "train_split", "val_split", "images", "classes")
    data = structs.replace(config.data, format="auto", **{key: getattr(task, key) for key in own})
    train, val = kind.read(task.train, data, task.train_split), None
    if task.val == HOLDOUT:
        train, val = hold_out(train, task.holdout)
    elif task.val is not None:
        val = kind.read(task.val, data, task.val_split)
    for note in train.notes:
        say(f"task data: {note}")
    kind.check(train, val)
    return partial(_build, kind, Plan(task, data, config.seed, train, val, config.eval.batch))


def _build(kind: Kind, plan: Plan[Any], student: Tower) -> TaskHead:
    """By the seed alone: what is initialised before or after it in the run is the same with a task and without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        head = kind.head(plan, student)
    if head.module is not None:
        head.module.to(student.device)
    size = 0 if head.module is None else sum(p.numel() for p in head.module.parameters())
    learnt = f"; a head of {size:,} parameters" if size else ""
    say(f"task: {plan.task.name} on {plan.train.name}: {head.says}{learnt}")
    return head
