"""`cmapkd eval`: any tower or run folder on any data, by the code that scores teacher and student alike."""

from __future__ import annotations

import json
from pathlib import Path

from cmapkd.config.schema import Config, DataConfig, TowerConfig
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.readers import open_samples
from cmapkd.models.load import load_tower
from cmapkd.models.tower import Tower
from cmapkd.tasks.run import evaluate


def evaluate_folder(model: str, data: str | None, tasks: list[str], config: Config | None = None) -> None:
    """Score `model` (a run folder, an open_clip folder, `teacher` with a config, or any model name) and print each line."""
    if model == "teacher":
        if config is None or config.teacher is None:
            raise UsageError("`cmapkd eval teacher` needs --config with teacher.model")
        tower = load_tower(config.teacher)
    else:
        student = Path(model) / "student"
        tower = load_tower(TowerConfig(model=f"local-dir:{student}" if student.is_dir() else model))
    where = data or (config.data.val if config else None)
    if where is None:
        raise UsageError("what to evaluate on? give --data PATH or --config with data.val")
    settings = config.data if config else DataConfig(train=where)
    samples = open_samples(where, settings, settings.val_split)
    for task in tasks or ["retrieval"]:
        say(evaluate(tower, samples, task, 256).line())


def teacher_metrics(config: Config, tower: Tower | None = None) -> dict[str, float]:
    """The teacher's own score on data.val; kept beside the cache, so that the model is not woken for it again."""
    if config.data.val is None or config.teacher is None:
        return {}
    val = open_samples(config.data.val, config.data, config.data.val_split)
    record = config.cache.path / "scores.json" if config.cache.path is not None else None
    known = json.loads(record.read_text()) if record is not None and record.is_file() else {}
    key = f"{config.teacher.model} {val.fingerprint()} {','.join(config.eval.tasks)}"
    if key not in known:
        tower = tower or load_tower(config.teacher, words=config.cache.words)
        out: dict[str, float] = {}
        for task in config.eval.tasks:
            samples = val
            if task == "zeroshot" and config.eval.zeroshot is not None:
                samples = open_samples(config.eval.zeroshot, config.data.model_copy(update={"format": "auto"}), None)
            found = evaluate(tower, samples, task, config.eval.batch)
            say(f"teacher: {found.line()}")
            out |= {k if task == "retrieval" else f"{task}/{k}": v for k, v in found.metrics.items()}
        known[key] = out
        if record is not None and record.parent.is_dir():
            fsio.write_json(record, known)
    return known[key]
