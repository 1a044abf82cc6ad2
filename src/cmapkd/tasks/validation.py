"""The validation of a run: every task of `eval.tasks` on the config's own validation data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from msgspec import structs

from cmapkd.config.schema import HOLDOUT, Config
from cmapkd.core.errors import UsageError
from cmapkd.data.holdout import split_holdout
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.data.scripts import by_script
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.score import Score
from cmapkd.tasks.table import evaluate


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
        """The retrieval data of each script; {} where there is one."""
        return by_script(self.samples["retrieval"]) if "retrieval" in self.samples else {}

    def scores(self, encoder: Encoder) -> list[Score]:
        """One score a task; retrieval also of each language by itself, where captions have several scripts."""
        found = [evaluate(encoder, samples, task, self.batch) for task, samples in self.samples.items()]
        each = [(name, evaluate(encoder, part, "retrieval", self.batch)) for name, part in self.languages.items()]
        return found + [replace(score, task=name) for name, score in each]


def open_validation(config: Config) -> Validation:
    """Open the data of every task of `eval.tasks`; without data.val there is nothing to score."""
    tasks = () if config.data.val is None else config.eval.tasks
    return Validation({task: open_task(config, task) for task in tasks}, config.eval.batch)


def open_task(config: Config, task: str) -> Samples:
    """eval.zeroshot for zero-shot, data.val for any other task; data.val: holdout is the slice kept out of training.

    Raises UsageError where the config does not say which data that is.
    """
    if task == "zeroshot":
        if config.eval.zeroshot is None:
            raise UsageError(
                "eval.tasks has zeroshot, but eval.zeroshot is not set; give an image folder with a folder a class"
            )
        data = structs.replace(config.data, format="auto", images=None)
        return open_samples(config.eval.zeroshot, data)
    if config.data.val is None:
        raise UsageError(f"{task}: on what data? data.val is not set; give --data PATH")
    if config.data.val != HOLDOUT:
        return open_samples(config.data.val, config.data, config.data.val_split)
    if config.data.holdout == 0:
        raise UsageError("data.val: holdout, but data.holdout is 0; set data.holdout: 0.1")
    train = open_samples(config.data.train, config.data, config.data.train_split)
    return train.subset(split_holdout(len(train), config.data.holdout)[1])


def merged(scores: list[Score]) -> dict[str, float]:
    """All figures in one table; those of other tasks than retrieval carry the task's name: `zeroshot/acc1`, and those of
    one language alone the name of its script: `cjk/mean_recall@1`."""
    return {
        name if score.task == "retrieval" else f"{score.task}/{name}": value
        for score in scores
        for name, value in score.metrics.items()
    }
