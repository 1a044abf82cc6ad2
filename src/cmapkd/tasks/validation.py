"""The validation of a run: every task of `eval.tasks` on the config's own validation data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from msgspec import structs

from cmapkd.config.names import logged_name
from cmapkd.config.schema import HOLDOUT, DataConfig, EvalConfig
from cmapkd.core.errors import UsageError
from cmapkd.data.holdout import split_holdout
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.data.scripts import by_script
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.score import Score
from cmapkd.tasks.table import TASKS, evaluate


@dataclass(frozen=True)
class Validation:
    """The samples of each task, opened once. `identity` changes with the data and the tasks."""

    samples: dict[str, Samples]
    batch: int

    @property
    def identity(self) -> str:
        return " ".join(f"{task}:{samples.fingerprint()}" for task, samples in self.samples.items())

    @cached_property
    def languages(self) -> dict[str, Samples]:
        """The retrieval data of each script; {} where there is only one script."""
        return by_script(self.samples["retrieval"]) if "retrieval" in self.samples else {}

    def scores(self, encoder: Encoder) -> list[Score]:
        """One score per task; retrieval also of each language by itself, where captions have several scripts."""
        found = [evaluate(encoder, samples, task, self.batch) for task, samples in self.samples.items()]
        each = [(name, evaluate(encoder, part, "retrieval", self.batch)) for name, part in self.languages.items()]
        return found + [replace(score, task=name) for name, score in each]


def open_validation(data: DataConfig, evaluation: EvalConfig) -> Validation:
    """Open the data of every task of `eval.tasks`; without data.val there is nothing to score."""
    tasks = () if data.val is None else evaluation.tasks
    return Validation({task: open_task(task, data, evaluation) for task in tasks}, evaluation.batch)


def open_task(task: str, data: DataConfig, evaluation: EvalConfig) -> Samples:
    """eval.zeroshot for a task on labelled images, data.val for any other; holdout is the slice kept out of training.

    Raises UsageError where the config does not say which data that is.
    """
    if TASKS[task].labelled:
        if evaluation.zeroshot is None:
            raise UsageError(
                f"eval.tasks has {task}, but eval.zeroshot is not set; give an image folder with a folder a class"
            )
        return open_samples(evaluation.zeroshot, structs.replace(data, format="auto", images=None))
    if data.val is None:
        raise UsageError(f"{task}: on what data? data.val is not set; give --data PATH")
    if data.val != HOLDOUT:
        return open_samples(data.val, data, data.val_split)
    if data.holdout == 0:
        raise UsageError("data.val: holdout, but data.holdout is 0; set data.holdout: 0.1")
    train = open_samples(data.train, data, data.train_split)
    return train.subset(split_holdout(len(train), data.holdout)[1])


def merged(scores: list[Score]) -> dict[str, float]:
    """All figures in one table, by their names in metrics.jsonl; those of one language carry the name of its script:
    `cjk/mean_recall@1`."""
    return {logged_name(score.task, name): value for score in scores for name, value in score.metrics.items()}
