"""`cmapkd distill --dry-run`: the whole way in small, and what the real run will take."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from cmapkd.config.schema import Config
from cmapkd.core.log import read_rows, say
from cmapkd.tasks.validation import Validation
from cmapkd.train.setup.prepare import build_cache

STEPS = 2
EVALUATED = 32  # samples of each task
CALIBRATED = 256


def shortened(config: Config, number: int) -> Config:
    """Two steps in a folder of its own; a cache that is not there yet is replaced by the live teacher."""
    run = config.run.with_name(f"{config.run.name}-dry-{number}")
    small = {"steps": STEPS, "epochs": None, "checkpoint_every": STEPS, "track": (), "centre": False}
    live = {"path": None, "ensemble": (), "calibration_samples": min(config.cache.calibration_samples, CALIBRATED)}
    cache = config.cache if cached(config) else structs.replace(config.cache, **live)
    return structs.replace(config, run=run, train=structs.replace(config.train, **small), cache=cache)


def cached(config: Config) -> bool:
    return config.cache.path is not None and (config.cache.path / "teacher.json").is_file()


def few(validation: Validation, most: int | None) -> Validation:
    """At most `most` samples of each task, evenly spread; all of them with None."""
    if most is None:
        return validation
    kept = {
        task: samples.subset(np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(np.int64)))
        for task, samples in validation.samples.items()
    }
    return replace(validation, samples=kept)


def outlook(config: Config, folder: Path) -> None:
    """Say what the run of `config` will take, from the metrics of its dry run in `folder`."""
    rows = read_rows(folder / "metrics.jsonl")
    start, final = rows[0], rows[-1]
    steps = config.train.steps or max(1, round(float(config.train.epochs or 0) * start["steps_per_epoch"]))
    pace = final["train_seconds"] / STEPS
    hours, minutes = divmod(math.ceil(steps * pace / 60), 60)
    if config.teacher is not None and config.cache.path is not None and not cached(config):
        say(f"cache {config.cache.path}: not there yet, so that the teacher ran in every step; it will take:")
        build_cache(config, estimate_only=True)
    say(f"memory: at most {peak_bytes() / 1e9:.2f} GB")
    say(f"dry run passed; the run: {steps} steps of {config.train.batch}, {pace:.2f} s a step here, "
        f"about {hours}:{minutes:02d} h with no evaluation counted; nothing was kept of the dry run")  # fmt: skip


def peak_bytes() -> int:
    """The highest memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
