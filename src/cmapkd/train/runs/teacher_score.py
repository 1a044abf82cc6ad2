"""The teacher's own score, printed before a run starts: a broken teacher is caught there."""

from __future__ import annotations

import json
from pathlib import Path

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.device import pick_device
from cmapkd.core.log import say
from cmapkd.tasks.validation import merged, open_validation
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import identity
from cmapkd.train.runs.dry_run import few


def teacher_metrics(config: Config, most: int | None = None) -> dict[str, float]:
    """The teacher's own score on data.val; kept beside the cache, so that the model is not woken for it again.

    most: at most so many samples of each task.
    """
    validation = few(open_validation(config.data, config.eval), most)
    if not validation.samples or config.teacher is None:
        return {}
    record = None if config.cache.path is None else config.cache.path / "scores.json"
    known = _known(record) if record is not None and record.is_file() else {}
    key = f"{identity(config.teacher)['weights']} {validation.identity}"
    if key not in known:
        tower = load_tower(config.teacher, words=config.cache.words).to(pick_device(config.train.device))
        scores = validation.scores(tower) if "text" in tower.shape.sides else []
        for score in scores:
            say(f"teacher: {score.line()}")
        known[key] = merged(scores)
        if record is not None and record.parent.is_dir():
            fsio.write_json(record, known)
    return known[key]


def _known(record: Path) -> dict[str, dict[str, float]]:
    """Scores from before; a record that cannot be read is scored again."""
    try:
        return dict(json.loads(record.read_text()))
    except (ValueError, TypeError):
        return {}
