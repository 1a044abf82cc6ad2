"""A store of decoded views at the student's size, beside the teacher's features, so that training decodes no image."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import PIL

import cmapkd
from cmapkd.config.schema import CacheConfig, DataConfig
from cmapkd.core.log import Progress
from cmapkd.core.prefetch import prefetch, reader_threads
from cmapkd.data.decoders import rendered, views_key
from cmapkd.data.images import Unreadable
from cmapkd.data.loader import StoredPixels
from cmapkd.data.samples import Samples
from cmapkd.data.views import view_of
from cmapkd.store.shards import Field
from cmapkd.store.store import Store, StoreWriter

FIELDS = ("pixels", "readable")


def write_pixels(samples: Samples, data: DataConfig, cache: CacheConfig, size: int) -> Path:
    """Store every view as uint8 [3, size, size]; resumes by shard. An unreadable image is marked as such."""
    folder, key = pixels_folder(cache, size), pixels_key(data, samples, size)
    fields = {"pixels": Field((3, size, size), "uint8"), "readable": Field((1,), "uint8")}
    rows = len(samples) * data.views
    with StoreWriter(folder, fields, rows, cache.shard_rows, key) as writer:
        missing = writer.missing_shards()
        progress, done = Progress(sum(map(len, missing)), "pixels of views"), 0
        for shard in missing:
            records = []
            for record in prefetch(partial(_record, data, samples, size), shard, reader_threads()):
                records.append(record)
                done += 1
                progress.update(done)
            pixels, readable = (np.stack(column) for column in zip(*records, strict=True))
            writer.write_shard(shard, dict(zip(FIELDS, (pixels, readable), strict=True)))
        writer.finish()
        progress.close()
    return folder


def _record(data: DataConfig, samples: Samples, size: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, [1]) of a readable view, (grey, [0]) of an unreadable one."""
    sample, view = divmod(row, data.views)
    shape = view_of(sample, view, data.views, data.crop, data.flip)
    try:
        return rendered(samples.paths[sample], shape, [size], data.decoder)[0], np.ones(1, np.uint8)
    except Unreadable:
        return np.full((3, size, size), 127, np.uint8), np.zeros(1, np.uint8)


def open_pixels(samples: Samples, data: DataConfig, cache: CacheConfig, size: int) -> StoredPixels | None:
    """A lookup (sample, view) → stored pixels, or None for an unreadable image; no lookup without cache.pixels.

    Raises UsageError for a missing store, IntegrityError for one of other data, views or size.
    """
    if not cache.pixels or cache.path is None:
        return None
    store = Store(pixels_folder(cache, size), pixels_key(data, samples, size))

    def read(sample: int, view: int) -> np.ndarray | None:
        row = np.array([sample * data.views + view])
        return store.read("pixels", row)[0] if store.read("readable", row)[0, 0] else None

    return read


def pixels_folder(cache: CacheConfig, size: int) -> Path:
    """The folder of the pixel store inside the cache."""
    assert cache.path is not None
    return cache.path / f"pixels-{size}"


def pixels_key(data: DataConfig, samples: Samples, size: int) -> dict[str, str]:
    """Everything that the pixels of a view depend on."""
    return {
        "version": cmapkd.__version__.rsplit(".", 1)[0],
        "data": samples.fingerprint(),
        "views": views_key(data),
        "size": str(size),
        "pillow": PIL.__version__,
    }
