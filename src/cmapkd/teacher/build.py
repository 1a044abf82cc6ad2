"""The teacher's features of every image view and caption, written to its store shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.device import pick_precision
from cmapkd.core.log import Progress, say
from cmapkd.core.prefetch import prefetch, reader_threads
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Features
from cmapkd.data.loader import Ledger
from cmapkd.data.samples import Samples
from cmapkd.pyramid.targets import Targets
from cmapkd.store.store import StoreWriter, estimate_bytes
from cmapkd.teacher.calibration_file import BATCH, view_pixels
from cmapkd.teacher.layout import cache_key, fields
from cmapkd.teacher.reopen import CANARIES, check_canaries, open_cached_teacher
from cmapkd.towers.dual import DualEncoder, evaluating

Read = TypeVar("Read")


def feature_bytes(config: Config, samples: Samples, tower: DualEncoder) -> tuple[int, str]:
    """Bytes on disk of all features, and a sentence that says how they come about."""
    image_fields, text_fields = fields(tower.shape, tower.text.words, config.cache)
    image_rows, text_rows = len(samples) * config.data.views, samples.n_captions
    size = estimate_bytes(image_fields, image_rows) + (estimate_bytes(text_fields, text_rows) if text_fields else 0)
    a_view = f"{estimate_bytes(image_fields, 1) / 1e3:.1f} kB a view"
    if not text_fields:
        return size, f"cache of {len(samples)} images × {config.data.views} views: {size / 1e6:.1f} MB ({a_view})"
    return size, (
        f"cache of {len(samples)} images × {config.data.views} views and {text_rows} captions: {size / 1e6:.1f} MB "
        f"({a_view}, {estimate_bytes(text_fields, 1) / 1e3:.1f} kB a caption)"
    )


def write_features(
    config: Config, samples: Samples, tower: DualEncoder, targets: Targets, check: bool = True
) -> Ledger:
    """Write both stores of `config.cache.path`, or what of them is missing, together with all other workers.

    check: verify every record of a store that is finished. Returns the ledger of unreadable images.
    """
    folder, key = config.cache.path, cache_key(config.teacher, config.data, config.cache, samples)
    assert folder is not None
    image_fields, text_fields = fields(tower.shape, tower.text.words, config.cache)
    precision = pick_precision(config.train.precision, tower.device)
    ledger = Ledger()
    with (
        evaluating(tower),
        torch.inference_mode(),
        torch.autocast(tower.device.type, precision, enabled=precision != torch.float32),
    ):
        rows = len(samples) * config.data.views
        with StoreWriter(folder / "image", image_fields, rows, config.cache.shard_rows, key, check) as writer:
            _fill(
                writer,
                "images",
                lambda rows: (rows, view_pixels(samples, config.data, np.asarray(rows), tower.size, ledger)),
                lambda inputs: _image_records(tower, targets, config.data.views, *inputs),
            )
        if not text_fields:
            return ledger
        captions = samples.flat_captions()
        with StoreWriter(
            folder / "text", text_fields, samples.n_captions, config.cache.shard_rows, key, check
        ) as writer:
            _fill(
                writer,
                "captions",
                lambda rows: tower.tokenizer([captions[k] for k in rows]),
                lambda tokens: _text_records(tower, targets, *tokens),
            )
    return ledger


def seal_features(config: Config, samples: Samples, tower: DualEncoder, check: bool) -> None:
    """Mark the cache as finished. check: one that was finished before is compared with images encoded anew."""
    folder = config.cache.path
    assert folder is not None
    facts = {
        "key": cache_key(config.teacher, config.data, config.cache, samples),
        **asdict(tower.similarity.fixed()),
        "shape": asdict(tower.shape),  # the fields that an earlier version did not write have defaults
    }
    if check or not (folder / "teacher.json").is_file():
        fsio.write_json(folder / "teacher.json", facts)
    if check:
        worst = check_canaries(
            open_cached_teacher(config.teacher, config.data, config.cache, samples)[0], tower, samples, config.data
        )
        say(f"{CANARIES} images re-encoded, smallest cosine with the stored ones {worst:.5f}")


def _fill(
    writer: StoreWriter,
    what: str,
    read: Callable[[range], Read],
    records: Callable[[Read], dict[str, np.ndarray]],
) -> None:
    """Every missing shard: records(read(rows)) batch by batch; other threads read ahead of the teacher."""
    progress = Progress(writer.rows, f"teacher on {what}")
    for rows in writer.work():
        before, note = writer.rows_done(), f"{writer.done()} of {writer.shards} shards done by all workers"
        chunks = [range(start, min(start + BATCH, rows.stop)) for start in range(rows.start, rows.stop, BATCH)]
        parts: list[dict[str, np.ndarray]] = []
        for chunk, inputs in zip(chunks, prefetch(read, chunks, reader_threads()), strict=True):
            parts.append(writer.encode(chunk, records(inputs)))
            progress.update(before + chunk.stop - rows.start, note)
        writer.write_encoded(rows, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    writer.finish()
    progress.close()


def _image_records(
    tower: DualEncoder, targets: Targets, views: int, rows: range, pixels: Tensor
) -> dict[str, np.ndarray]:
    features = tower.image.levels(tower.normalise(pixels.to(tower.device)))
    index = torch.arange(rows.start, rows.stop)
    levels = targets.image_levels(features, targets.levels, (index // views, index % views))
    places = next((tokens.places for tokens in levels.values() if tokens.places is not None), None)
    kept = {} if places is None else {"places": places.cpu().numpy()}
    return _numpy({k: v.values for k, v in levels.items()} | _common(targets, features, IMAGE_LEVELS)) | kept


def _text_records(tower: DualEncoder, targets: Targets, ids: Tensor, words: Tensor) -> dict[str, np.ndarray]:
    features = tower.text.levels(ids.to(tower.device), words.to(tower.device))
    levels = targets.text_levels(features, targets.levels)
    masks = {f"{k}-mask": v.mask.cpu().numpy().astype(np.uint8) for k, v in levels.items() if v.mask is not None}
    return _numpy({k: v.values for k, v in levels.items()} | _common(targets, features, TEXT_LEVELS)) | masks


def _common(targets: Targets, features: Features, levels: tuple[str, ...]) -> dict[str, Tensor]:
    final = {"final": torch.nn.functional.normalize(features.final.float(), dim=-1)}
    return final | {"bridge": targets.bridge(features, levels)} if features.levels else final


def _numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
