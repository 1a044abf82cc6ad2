"""The calibration that a cache keeps beside its features: fitted once on the train split, then only read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save
from torch import Tensor

from cmapkd.config.sources import CacheConfig, DataConfig
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say
from cmapkd.core.types import IMAGE_LEVELS, Inputs
from cmapkd.data.holdout import split_holdout
from cmapkd.data.loader import Ledger, read_views
from cmapkd.data.samples import Samples
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.calibrate import calibrate
from cmapkd.teacher.layout import reserved
from cmapkd.towers.dual import DualEncoder

BATCH = 64


def open_targets(folder: Path, key: dict[str, str], config: CacheConfig) -> Targets | None:
    """The stored calibration if it was made under the same key, else None."""
    record = folder / "calibration.json"
    if not record.is_file():
        return None
    known = record_of(record)
    different = [name for name in key if known["key"].get(name) != key[name]]
    if different:
        name = different[0]
        raise IntegrityError(
            f"cache {folder}: '{name}' is {known['key'].get(name)!r} there but {key[name]!r} in this run; a cache serves one "
            f"teacher, transform and data set: give another cache.path, or delete that folder and run `cmapkd cache`"
        )
    path = folder / "calibration.safetensors"
    if not path.is_file() or fsio.sha256_file(path) != known["sha256"]:
        raise IntegrityError(
            f"{path}: missing, or its hash differs from calibration.json; delete {folder} and run `cmapkd cache`"
        )
    return Targets(load_file(str(path)), config.grid, config.tokens, config.sampling)


def record_of(path: Path) -> dict[str, Any]:
    """A JSON record of the cache. Raises IntegrityError where it is torn or of something else."""
    try:
        known = json.loads(path.read_text())
        return known | {"key": dict(known["key"])}
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{path}: corrupt; delete it and run `cmapkd cache` again") from None


def open_targets_of(cache: CacheConfig) -> Targets | None:
    """The calibration in a cache folder, whatever its key; None where there is none."""
    folder = cache.path
    if folder is None or not (folder / "calibration.safetensors").is_file():
        return None
    return Targets(load_file(str(folder / "calibration.safetensors")), cache.grid, cache.tokens, cache.sampling)


def teacher_inputs(tower: DualEncoder, samples: Samples, data: DataConfig, indices: np.ndarray) -> Iterator[Inputs]:
    """Calibration batches: view 0.. of each sample in turn, with its first caption."""
    captions, ledger = samples.flat_captions(), Ledger()
    for chunk in np.array_split(indices, max(1, -(-len(indices) // BATCH))):
        ids, words = tower.tokenizer([captions[k] for k in samples.caption_spans(chunk)[0]])
        pixels = view_pixels(samples, data, chunk * data.views + chunk % data.views, tower.size, ledger)
        yield Inputs(pixels.to(tower.device), ids.to(tower.device), words.to(tower.device))


def calibrate_cache(
    folder: Path, key: dict[str, str], data: DataConfig, cache: CacheConfig, tower: DualEncoder, samples: Samples
) -> Targets:
    targets = fit_targets(data, cache, tower, samples)
    tensors = {k: v.contiguous() for k, v in targets.tensors().items()}
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(folder / "calibration.safetensors", save(tensors))
    digest = fsio.sha256_file(folder / "calibration.safetensors")
    fsio.write_json(folder / "calibration.json", {"key": key, "sha256": digest})
    return targets


def fit_targets(data: DataConfig, cache: CacheConfig, tower: DualEncoder, samples: Samples) -> Targets:
    """Calibrate on evenly spaced samples of the train split, a reserved slice of it left out."""
    pool, _ = split_holdout(len(samples), reserved(data))
    count = min(cache.calibration_samples, len(pool))
    indices = pool[np.unique(np.linspace(0, len(pool) - 1, count).astype(np.int64))]
    indices = indices[np.random.default_rng(0).permutation(len(indices))]
    say(f"calibrating the teacher's levels and bridge on {len(indices)} samples")
    targets = calibrate(
        tower,
        teacher_inputs(tower, samples, data, indices),
        cache.rank,
        cache.grid,
        cache.tokens,
        cache.sampling,
    )
    kept = ", ".join(f"{name} {float(targets.get(f'{name}/retained')):.0%}" for name in targets.levels)
    say(f"variance kept: {kept}")
    if targets.pairs is None:
        return targets
    table = "; ".join(
        f"{name} " + " ".join(f"{value:.2f}" for value in row)
        for name, row in zip(IMAGE_LEVELS, targets.pairs.recall.tolist(), strict=True)
    )
    say(f"bridge, held-out R@1 of {len(indices) // 5} (columns L1-L4): {table}")
    return targets


def view_pixels(samples: Samples, data: DataConfig, rows: np.ndarray, size: int, ledger: Ledger) -> Tensor:
    return read_views(samples, data, rows // data.views, rows % data.views, size, ledger)
