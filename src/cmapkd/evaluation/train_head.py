"""`cmapkd train-head`: a frozen probe, that is, a head trained on a frozen tower, its scores and its result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmapkd.config.schema import HOLDOUT, DataConfig
from cmapkd.config.suite import HeadData
from cmapkd.config.tree import plain
from cmapkd.core.errors import UsageError
from cmapkd.data.holdout import hold_out
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.table import TASKS
from cmapkd.tasks.trained_head import TrainedHead, write_head
from cmapkd.towers.dual import DualEncoder


def train_head(task: str, tower: DualEncoder, data: HeadData, out: Path, judge: Encoder | None = None) -> TrainedHead:
    """Train, score, and write head.safetensors, head.json, results.json and, last, scores.json into `out`."""
    refuse_options(task, data)
    probe = TASKS[task].probe
    assert probe is not None, "only tasks with a head are offered"
    train, val = open_data(task, data)
    done = probe(tower, train, val, data, judge)
    write_head(task, done, plain(data), out)
    return done


def refuse_options(task: str, data: HeadData) -> None:
    """Raise UsageError for an option that only another task's head has."""
    for other, entry in TASKS.items():
        for key in entry.options:
            if getattr(data, key) is not None and key not in TASKS[task].options:
                raise UsageError(f"{task}: {key} is a choice of {other}; drop it")


def open_data(task: str, data: HeadData) -> tuple[Any, Any]:
    """(training data, validation data) of a frozen probe."""
    read = TASKS[task].read
    train = read(data.train, DataConfig(train=data.train, images=data.images), data.train_split)
    if data.val == HOLDOUT:
        return hold_out(train, data.holdout)
    return train, read(data.val, DataConfig(train=data.val, images=data.images), data.val_split)
