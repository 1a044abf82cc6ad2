"""The Python entry: the same run as the command line's, from keyword arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def distill(
    teacher: str,
    student: str,
    data: str,
    val: str | None = None,
    run: str | Path = "runs/student",
    method: str = "cmapkd",
    steps: int = 1000,
    batch: int = 128,
    cache: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Distil `teacher` into `student` on `data` and return the run folder; its `student/` loads in open_clip.

    teacher, student: as in a config's model key (`ViT-L-14:/path.safetensors`, `local-dir:PATH`, a known name);
    data, val: captions files or folders; cache: where the teacher's features are kept (written first if absent), None
    runs the teacher in every step; settings: further config sections by name, as dicts, over the defaults.
    Raises the errors of cmapkd.core.errors.
    """
    from cmapkd.cache.build import build_cache
    from cmapkd.config.load import check
    from cmapkd.train.run import distill as train

    tree: dict[str, Any] = {
        "run": str(run),
        "method": method,
        "data": {"train": data, "val": val},
        "teacher": {"model": teacher},
        "student": {"model": student},
        "cache": {"path": None if cache is None else str(cache)},
        "train": {"steps": steps, "batch": batch},
    }
    for name, value in settings.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) and isinstance(tree.get(name), dict) else value
    config = check(tree, "arguments of distill()")
    if config.cache.path is not None:
        build_cache(config)
    return train(config)
