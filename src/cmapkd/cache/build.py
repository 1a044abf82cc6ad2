"""`cmapkd cache`: run the teacher once over every image view and caption, and keep what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cmapkd.cache.calibration import BATCH, calibrate_cache, open_targets, view_pixels
from cmapkd.cache.inherited import start_from_teacher
from cmapkd.cache.layout import cache_key, fields
from cmapkd.cache.pixels import write_pixels
from cmapkd.cache.place import refuse_place
from cmapkd.cache.reopen import CANARIES, check_canaries, open_cached_teacher
from cmapkd.cache.store import StoreWriter, estimate_bytes
from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.ahead import ahead, readers
from cmapkd.core.device import pick_device, pick_precision
from cmapkd.core.errors import UsageError
from cmapkd.core.log import Progress, say
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS
from cmapkd.data.loader import Ledger
from cmapkd.data.readers import open_samples
from cmapkd.models.load import load_tower
from cmapkd.models.named import image_size, warn_of_random
from cmapkd.models.targets import Targets
from cmapkd.models.tower import Tower, evaluating

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
    targets = open_targets(folder, key, config.cache) or calibrate_cache(folder, key, config, tower, samples)
    targets.to(device)
    if config.student.inherit and not config.student.tokenizer.startswith("train:"):  # that one is learnt by a run
        start_from_teacher(config, load_tower(config.student, teacher=config.teacher).to(device), samples, tower)
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
                lambda rows: (rows, view_pixels(samples, config.data, np.asarray(rows), tower.size, ledger)),
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
