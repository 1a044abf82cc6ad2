"""A finished cache as the teacher that it stands for, refused where anything differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cmapkd.config.sources import CacheConfig, DataConfig, TowerConfig
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.data.loader import Ledger
from cmapkd.data.samples import Samples
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets
from cmapkd.store.store import Store
from cmapkd.teacher.cached import CachedTeacher
from cmapkd.teacher.calibration_file import open_targets, record_of, view_pixels
from cmapkd.teacher.layout import cache_key, similarity_of
from cmapkd.towers.dual import DualEncoder, evaluating

CANARIES = 8


def open_cached_teacher(
    config: TowerConfig | None, data: DataConfig, cache: CacheConfig, samples: Samples
) -> tuple[CachedTeacher, Targets, Shape]:
    """(teacher, targets, the teacher's shape) of a finished store of exactly this teacher, transform and data."""
    folder = cache.path
    assert folder is not None
    record = folder / "teacher.json"
    if not record.is_file():
        raise UsageError(f"cache {folder}: no finished cache here; run `cmapkd cache` with this config first")
    known, key = record_of(record), cache_key(config, data, cache, samples)
    targets = open_targets(folder, key, cache)
    if targets is None:
        raise IntegrityError(f"cache {folder}: calibration.json is missing; delete {folder} and run `cmapkd cache`")
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in known["shape"].items()}
    shape = Shape(**sizes)
    teacher = CachedTeacher(
        Store(folder / "image", key, how=cache.read),
        Store(folder / "text", key, how=cache.read) if "text" in shape.sides else None,
        data.views,
        similarity_of(known),
        shape.grids[2],
    )
    return teacher, targets, shape


def check_canaries(teacher: CachedTeacher, tower: DualEncoder, samples: Samples, data: DataConfig) -> float:
    """Re-encode 8 stored image views; the smallest cosine with the stored embedding. Refuses below 0.999."""
    rows = np.linspace(0, len(samples) * data.views - 1, CANARIES).astype(np.int64)
    with evaluating(tower), torch.inference_mode():
        pixels = view_pixels(samples, data, rows, tower.size, Ledger()).to(tower.device)
        fresh = tower.image.levels(tower.normalise(pixels)).final.float().cpu()
    stored = torch.from_numpy(teacher.image.read_float("final", rows))
    worst = float(torch.nn.functional.cosine_similarity(fresh, stored, dim=-1).min())
    if worst < 0.999:
        raise IntegrityError(
            f"cache {teacher.image.path}: a re-encoded image agrees with its stored embedding only to cosine {worst:.4f} "
            "(the rule is 0.999); a library or transform changed: delete the cache and run `cmapkd cache`"
        )
    return worst
