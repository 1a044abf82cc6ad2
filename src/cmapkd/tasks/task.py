"""Task: one entry per task, with its metrics, its protocols and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmapkd.config.suite import HeadData, ResultData
from cmapkd.data.readers import open_samples
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.evaluate import Scorer
from cmapkd.tasks.score import Score
from cmapkd.tasks.task_loss import Plan, TaskLoss
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder

Judge = Callable[[], Encoder]


@dataclass(frozen=True)
class Metric:
    """One metric of a task. about: what it is. column: its heading in the table of a suite, empty for no column.

    main: the metric that eval.metric should name unless there is a reason for another one.
    """

    about: str
    column: str = ""
    more_is_better: bool = True
    main: bool = False


@dataclass(frozen=True)
class LossOnData:
    """A task loss on data of its own.

    build: the loss beside a student. check: raises DataError for data that cannot be trained on or scored. check_both:
    raises DataError or UsageError for training and validation data that do not fit together. without_data: the error
    where task.train is not set; None where the run's own labels are used instead.
    """

    build: Callable[[Plan[Any], DualEncoder], TaskLoss]
    check: Callable[[Any], None] | None = None
    check_both: Callable[[Any, Any], None] | None = None
    without_data: str | None = "needs data of its own; set task.train (and task.val to score it)"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task. What it does not support is None.

    name: that of its folder. about: its line in `cmapkd list tasks`. place: its position in lists and tables.
    metrics: by their names in a Score. protocols: name → description; the first is the default.
    read: opens the task's data. labelled: `evaluate` is scored on eval.zeroshot instead of data.val.
    evaluate: scores a model as it is (`cmapkd eval`, suites, validation). probe: trains and scores a head on a frozen
    tower (`cmapkd train-head`, suites). options: keys of HeadData that only this task's head has.
    score: scores a result file (`cmapkd score`). judged: a CLIP-like model may judge its texts (CLIPScore).
    loss: the task loss in a run, called `loss_name` in task.name (default: the task's name).

    cmapkd/config/names.py reads `name`, `place`, `loss_name`, METRICS and which keywords are given from the source, so
    that these must be literals.
    """

    name: str
    about: str
    place: int = 100
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    read: Callable[..., Any] = open_samples
    labelled: bool = False
    evaluate: Scorer | None = None
    probe: Callable[[DualEncoder, Any, Any, HeadData, Encoder | None], TrainedHead] | None = None
    options: tuple[str, ...] = ()
    score: Callable[[Path, ResultData, Judge | None], Score] | None = None
    judged: bool = False
    loss: LossOnData | None = None
    loss_name: str = ""
