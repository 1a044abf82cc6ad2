"""`cmapkd.distill`: the same run as `cmapkd distill`, from keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Section = Mapping[str, Any]


def distill(
    teacher: str | Section | None,
    student: str | Section,
    data: str | Path | Section,
    val: str | Path | None = None,
    run: str | Path = "runs/student",
    method: str = "cmapkd",
    steps: int | None = None,
    batch: int | None = None,
    cache: str | Path | Section | None = None,
    **settings: Any,
) -> Path:
    """Distil `teacher` into `student` on `data` and return the run folder; its `student/` loads in open_clip.

    teacher, student: as in a config's model key (`ViT-L-14:/path.safetensors`, `local-dir:PATH`, a known name), or their
    whole section (`{"model": …, "tokenizer": "teacher"}`); teacher=None for methods without a teacher. data, val: captions
    files or folders, or the whole section; cache: folder of the teacher's outputs (written first if absent), None runs
    the teacher in every step. steps: 1000 unless train has steps or epochs; settings: other config sections by name, as
    dicts.
    Raises the errors of cmapkd.core.errors.
    """
    from cmapkd.config.load import check
    from cmapkd.train.runs.distill import distill as train
    from cmapkd.train.setup.prepare import build_cache

    tree: dict[str, Any] = {
        "run": str(run),
        "method": method,
        "data": _section(data, "train"),
        "teacher": None if teacher is None else _section(teacher, "model"),
        "student": _section(student, "model"),
        "cache": {} if cache is None else _section(cache, "path"),
        **settings,
    }
    if val is not None:
        tree["data"]["val"] = str(val)
    if isinstance(length := settings.get("train", {}), Mapping):
        given = {key: value for key, value in (("steps", steps), ("batch", batch)) if value is not None}
        tree["train"] = {**length, **given}
        if not {"steps", "epochs"} & set(tree["train"]):
            tree["train"]["steps"] = 1000
    config = check(tree, "arguments of distill()")
    if config.cache.path is not None and config.teacher is not None:
        build_cache(config)
    return train(config)


def _section(given: Any, key: str) -> Any:
    """A config section: as given, or made of one key from a plain value."""
    if isinstance(given, Mapping):
        return dict(given)
    return {key: str(given) if isinstance(given, Path) else given}
