"""`cmapkd cache`: run the teacher once over every image view and caption, and keep what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import cmapkd
from cmapkd.cache.pixels import readers, write_pixels
from cmapkd.cache.place import refuse_place
from cmapkd.cache.shards import Field
from cmapkd.cache.store import Store, StoreWriter, estimate_bytes
from cmapkd.cache.teacher import MASKED, CachedTeacher
from cmapkd.config.schema import CacheConfig, Config, DataConfig
from cmapkd.core import fsio
from cmapkd.core.ahead import ahead
from cmapkd.core.device import pick_device, pick_precision
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.log import Progress, say
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Inputs
from cmapkd.data.holdout import split_holdout
from cmapkd.data.loader import Ledger, read_views
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.models.load import identity, image_size, load_tower, warn_of_random
from cmapkd.models.targets import Targets, calibrate
from cmapkd.models.tower import Shape, Tower, evaluating

SPREAD = 5.0  # int8 covers ±5 standard deviations of a unit-variance channel; its rounding noise is FVU 1.3e-4
RESERVED = 0.1
CANARIES = 8
BATCH = 64
Read = TypeVar("Read")


def build_cache(config: Config, estimate_only: bool = False) -> Path:
    """Write (or finish) the feature store of `config.cache.path` and return its folder."""
    if config.cache.path is None or config.teacher is None:
        raise UsageError("cmapkd cache needs teacher.model and cache.path in the config; give both")
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    for note in samples.notes:
        say(f"data: {note}")
    warn_of_random(config.teacher, "teacher.model")
    tower = load_tower(config.teacher, words=config.cache.words)
    folder, key = config.cache.path, cache_key(config, samples)
    image_fields, text_fields = fields(tower.shape, tower.words, config.cache)
    image_rows, text_rows = len(samples) * config.data.views, samples.n_captions
    size = estimate_bytes(image_fields, image_rows) + estimate_bytes(text_fields, text_rows)
    say(
        f"cache of {len(samples)} images × {config.data.views} views and {text_rows} captions: {size / 1e6:.1f} MB "
        f"({estimate_bytes(image_fields, 1) / 1e3:.1f} kB a view, {estimate_bytes(text_fields, 1) / 1e3:.1f} kB a caption)"
    )
    if config.cache.pixels:
        side = image_size(config.student)
        say(f"and the views' pixels at {side}×{side}: {image_rows * 3 * side * side / 1e6:.1f} MB")
        size += image_rows * 3 * side * side
    if estimate_only:
        return folder
    refuse_place(folder, size)
    device = pick_device(config.train.device)
    tower.to(device)
    finished = (folder / "teacher.json").is_file()
    precision = pick_precision(config.train.precision, device)
    targets = open_targets(folder, key, config.cache) or _calibrate(folder, key, config, tower, samples)
    targets.to(device)
    ledger = Ledger()
    with (
        evaluating(tower),
        torch.inference_mode(),
        torch.autocast(device.type, precision, enabled=precision != torch.float32),
    ):
        with StoreWriter(folder / "image", image_fields, image_rows, config.cache.shard_rows, key) as writer:
            _fill(
                writer,
                "images",
                lambda rows: (rows, _pixels(samples, config.data, np.asarray(rows), tower.size, ledger)),
                lambda inputs: _image_records(tower, targets, config.data.views, *inputs),
            )
        captions = samples.flat_captions()
        with StoreWriter(folder / "text", text_fields, text_rows, config.cache.shard_rows, key) as writer:
            _fill(
                writer,
                "captions",
                lambda rows: tower.tokenizer([captions[k] for k in rows]),
                lambda tokens: _text_records(tower, targets, *tokens),
            )
    if config.cache.pixels:
        write_pixels(config, samples, image_size(config.student))
    fsio.write_json(
        folder / "teacher.json", {"key": key, "scale": float(tower.scale.detach()), "shape": asdict(tower.shape)}
    )
    if finished:
        worst = check_canaries(open_cached_teacher(config, samples)[0], tower, samples, config.data)
        say(f"{CANARIES} images re-encoded, smallest cosine with the stored ones {worst:.5f}")
    if ledger.quarantined:
        say(f"{len(ledger.quarantined)} unreadable images, which are not trained on: {ledger.shown()}")
    say(f"cache complete and verified: {folder}")
    return folder


def fields(shape: Shape, words: int, config: CacheConfig) -> tuple[dict[str, Field], dict[str, Field]]:
    """Record layouts of the image and the text store."""
    from cmapkd.models.levels import PHRASE
    from cmapkd.models.targets import rank_for, stored_side

    def level(tokens: int, width: int) -> Field:
        rank = rank_for(width, config.rank)
        if config.dtype == "fp16":
            return Field((tokens, rank), "float16")
        return Field((tokens, rank), "int8", np.full(rank, SPREAD / 127, dtype=np.float32))

    common = {"final": Field((shape.embedding,), "float16"), "bridge": Field((4, shape.embedding), "float16")}
    image = dict(common)
    for name, side, width in zip(IMAGE_LEVELS, shape.grids, shape.image_widths, strict=True):
        kept = stored_side(side, config.grid)
        cells = kept * kept if config.tokens is None or name == "P5" else min(config.tokens, shape.grids[2] ** 2)
        image[name] = level(cells + (2 if name == "P5" else 0), width)
    if config.tokens is not None:
        image["places"] = Field((min(config.tokens, shape.grids[2] ** 2),), "int32")
    text = dict(common)
    tokens = (words, -(-words // PHRASE), 1, 1)
    for name, count, width in zip(TEXT_LEVELS, tokens, shape.text_widths, strict=True):
        text[name] = level(count, width)
        if name in MASKED:
            text[f"{name}-mask"] = Field((count,), "uint8")
    return image, text


def cache_key(config: Config, samples: Samples) -> dict[str, str]:
    """Everything that a stored feature depends on; a store whose key differs in any field is refused. Builds no model."""
    assert config.teacher is not None
    return {
        "version": cmapkd.__version__.rsplit(".", 1)[0],
        **{f"teacher {name}": value for name, value in identity(config.teacher).items()},
        "data": samples.fingerprint(),
        "views": f"{config.data.views} crop {config.data.crop} flip {config.data.flip}",
        "rank": str(config.cache.rank),
        "grid": f"{config.cache.grid} tokens {config.cache.tokens}{f' {config.cache.sampling}' if config.cache.tokens else ''}",
        "dtype": config.cache.dtype,
        "words": str(config.cache.words),
        "calibration": f"{config.cache.calibration_samples} samples, held out {reserved(config.data)}",
    }


def open_targets(folder: Path, key: dict[str, str], config: CacheConfig) -> Targets | None:
    """The stored calibration if it was made under the same key, else None."""
    record = folder / "calibration.json"
    if not record.is_file():
        return None
    known = _record(record)
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


def _record(path: Path) -> dict[str, Any]:
    """A JSON record of the cache. Raises IntegrityError where it is torn or of something else."""
    try:
        known = json.loads(path.read_text())
        return known | {"key": dict(known["key"])}
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{path}: corrupt; delete it and run `cmapkd cache` again") from None


def open_targets_of(config: Config) -> Targets | None:
    """The calibration in the config's cache folder, whatever its key; None where there is none."""
    folder = config.cache.path
    if folder is None or not (folder / "calibration.safetensors").is_file():
        return None
    kept = config.cache
    return Targets(load_file(str(folder / "calibration.safetensors")), kept.grid, kept.tokens, kept.sampling)


def open_cached_teacher(config: Config, samples: Samples) -> tuple[CachedTeacher, Targets, Shape]:
    """(teacher, targets, the teacher's shape) of a finished store of exactly this teacher, transform and data."""
    folder = config.cache.path
    assert folder is not None
    record = folder / "teacher.json"
    if not record.is_file():
        raise UsageError(f"cache {folder}: no finished cache here; run `cmapkd cache` with this config first")
    known, key = _record(record), cache_key(config, samples)
    targets = open_targets(folder, key, config.cache)
    if targets is None:
        raise IntegrityError(f"cache {folder}: calibration.json is missing; delete {folder} and run `cmapkd cache`")
    teacher = CachedTeacher(
        Store(folder / "image", key),
        Store(folder / "text", key),
        config.data.views,
        known["scale"],
        known["shape"]["grids"][2],
    )
    s = known["shape"]
    shape = Shape(tuple(s["image_widths"]), tuple(s["grids"]), tuple(s["text_widths"]), s["embedding"])
    return teacher, targets, shape


def check_canaries(teacher: CachedTeacher, tower: Tower, samples: Samples, data: DataConfig) -> float:
    """Re-encode 8 stored image views; the smallest cosine with the stored embedding. Refuses below 0.999."""
    rows = np.linspace(0, len(samples) * data.views - 1, CANARIES).astype(np.int64)
    with evaluating(tower), torch.inference_mode():
        fresh = tower.image(_pixels(samples, data, rows, tower.size, Ledger()).to(tower.device)).final.float().cpu()
    stored = torch.from_numpy(teacher.image.read_float("final", rows))
    worst = float(torch.nn.functional.cosine_similarity(fresh, stored, dim=-1).min())
    if worst < 0.999:
        raise IntegrityError(
            f"cache {teacher.image.path}: a re-encoded image agrees with its stored embedding only to cosine {worst:.4f} "
            "(the rule is 0.999); a library or transform changed: delete the cache and run `cmapkd cache`"
        )
    return worst


def teacher_inputs(tower: Tower, samples: Samples, data: DataConfig, indices: np.ndarray) -> Iterator[Inputs]:
    """Calibration batches: view 0.. of each sample in turn, with its first caption."""
    captions, ledger = samples.flat_captions(), Ledger()
    for chunk in np.array_split(indices, max(1, -(-len(indices) // BATCH))):
        ids, words = tower.tokenizer([captions[samples.caption_offsets[k]] for k in chunk])
        pixels = _pixels(samples, data, chunk * data.views + chunk % data.views, tower.size, ledger)
        yield Inputs(pixels.to(tower.device), ids.to(tower.device), words.to(tower.device))


def _calibrate(folder: Path, key: dict[str, str], config: Config, tower: Tower, samples: Samples) -> Targets:
    targets = fit_targets(config, tower, samples)
    tensors = {k: v.contiguous() for k, v in targets.tensors().items()}
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(folder / "calibration.safetensors", save(tensors))
    digest = fsio.sha256_file(folder / "calibration.safetensors")
    fsio.write_json(folder / "calibration.json", {"key": key, "sha256": digest})
    return targets


def reserved(data: DataConfig) -> float:
    """Share of the train split that calibration never sees: at least a tenth, so that a cache serves any smaller holdout."""
    return max(RESERVED, data.holdout)


def fit_targets(config: Config, tower: Tower, samples: Samples) -> Targets:
    """Calibrate on evenly spaced samples of the train split, a reserved slice of it left out."""
    pool, _ = split_holdout(len(samples), reserved(config.data))
    count = min(config.cache.calibration_samples, len(pool))
    indices = pool[np.unique(np.linspace(0, len(pool) - 1, count).astype(np.int64))]
    indices = indices[np.random.default_rng(0).permutation(len(indices))]
    say(f"calibrating the teacher's levels and bridge on {len(indices)} samples")
    targets = calibrate(
        tower,
        teacher_inputs(tower, samples, config.data, indices),
        config.cache.rank,
        config.cache.grid,
        config.cache.tokens,
        config.cache.sampling,
    )
    kept = ", ".join(f"{name} {float(targets.get(f'{name}/retained')):.0%}" for name in LEVELS)
    say(f"variance kept: {kept}")
    table = "; ".join(
        f"{name} " + " ".join(f"{value:.2f}" for value in row)
        for name, row in zip(IMAGE_LEVELS, targets.pairs.recall.tolist(), strict=True)
    )
    say(f"bridge, held-out R@1 of {len(indices) // 5} (columns L1-L4): {table}")
    return targets


def _fill(
    writer: StoreWriter,
    what: str,
    read: Callable[[range], Read],
    records: Callable[[Read], dict[str, np.ndarray]],
) -> None:
    """Every missing shard: records(read(rows)) batch by batch; other threads read ahead of the teacher."""
    missing = writer.missing_shards()
    progress, done = Progress(sum(len(rows) for rows in missing), f"teacher on {what}"), 0
    for rows in missing:
        chunks = [range(start, min(start + BATCH, rows.stop)) for start in range(rows.start, rows.stop, BATCH)]
        parts: list[dict[str, np.ndarray]] = []
        for chunk, inputs in zip(chunks, ahead(lambda k: read(chunks[k]), range(len(chunks)), readers()), strict=True):  # noqa: B023
            parts.append(records(inputs))
            done += len(chunk)
            progress.update(done, "")
        writer.write_shard(rows, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    writer.finish()
    progress.close()


def _image_records(tower: Tower, targets: Targets, views: int, rows: range, pixels: Tensor) -> dict[str, np.ndarray]:
    features = tower.image(pixels.to(tower.device))
    index = torch.arange(rows.start, rows.stop)
    out, places, _ = targets.image_levels(features, IMAGE_LEVELS, (index // views, index % views))
    kept = {} if places is None else {"places": places.cpu().numpy()}
    return _numpy(out | _common(targets, features, IMAGE_LEVELS)) | kept


def _text_records(tower: Tower, targets: Targets, ids: Tensor, words: Tensor) -> dict[str, np.ndarray]:
    features = tower.text(ids.to(tower.device), words.to(tower.device))
    out = {name: targets.level(name, tokens) for name, tokens in zip(TEXT_LEVELS, features.levels, strict=True)}
    masks = {f"{name}-mask": mask for name, mask in zip(TEXT_LEVELS, features.masks, strict=True) if mask is not None}
    return _numpy(out | _common(targets, features, TEXT_LEVELS)) | {
        k: m.cpu().numpy().astype(np.uint8) for k, m in masks.items()
    }


def _common(targets: Targets, features, levels: tuple[str, ...]) -> dict[str, Tensor]:  # noqa: ANN001
    final = torch.nn.functional.normalize(features.final.float(), dim=-1)
    return {"final": final, "bridge": targets.bridge(features, levels)}


def _numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}


def _pixels(samples: Samples, data: DataConfig, rows: np.ndarray, size: int, ledger: Ledger) -> Tensor:
    return read_views(samples, data, rows // data.views, rows % data.views, size, ledger)
