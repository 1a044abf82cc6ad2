"""`cmapkd eval`: any tower or run folder on any data, by the code that scores teacher and student alike."""

from __future__ import annotations

from pathlib import Path

from cmapkd.config.schema import Config, DataConfig, TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.data.readers import open_samples
from cmapkd.models.load import load_tower
from cmapkd.models.tower import Tower
from cmapkd.tasks.run import evaluate


def evaluate_folder(model: str, data: str | None, tasks: list[str], config: Config | None = None) -> None:
    """Score `model` (a run folder, an open_clip folder, `teacher` with a config, or any model name) and print each line."""
    tower = open_model(model, config)
    where = data or (config.data.val if config else None)
    if where is None:
        raise UsageError("eval: on what data? give --data PATH, or --config with data.val")
    settings = config.data if config else DataConfig(train=where)
    samples = open_samples(where, settings, settings.val_split)
    for task in tasks:
        print(evaluate(tower, samples, task, checkpoint=model).line())


def open_model(model: str, config: Config | None = None) -> Tower:
    """A run folder's student, an open_clip folder, a model name, or `teacher` of a config."""
    if model == "teacher":
        if config is None or config.teacher is None:
            raise UsageError("eval teacher: needs --config with teacher.model")
        return load_tower(config.teacher, words=config.cache.words)
    student = Path(model) / "student"
    return load_tower(TowerConfig(model=f"local-dir:{student}" if student.is_dir() else model))
