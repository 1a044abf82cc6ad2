"""A small store for tests: its fields and rows, and functions to write and to read all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmapkd.store.store import Field, Store, StoreWriter

KEY = {"teacher weights": "abc", "data": "flickr", "views": "4"}
SCALE = np.array([0.01, 0.5, 2.0], dtype=np.float32)
ROWS, SHARD = 20, 8
FIELDS = {
    "half": Field((2, 3), "float16"),
    "level": Field((4, 3), "int8", SCALE),
    "mask": Field((5,), "uint8"),
    "id": Field((), "int64"),
}


def arrays(rows: range) -> dict[str, np.ndarray]:
    every = {
        "half": np.random.default_rng(1).standard_normal((ROWS, 2, 3)).astype(np.float16),
        "level": np.random.default_rng(2).standard_normal((ROWS, 4, 3)).astype(np.float32),
        "mask": np.random.default_rng(3).integers(0, 2, (ROWS, 5)).astype(np.uint8),
        "id": np.arange(ROWS, dtype=np.int64) * 10**12,
    }
    return {name: values[rows.start : rows.stop] for name, values in every.items()}


def write(path: Path, key=KEY, shards: int | None = None, fields=FIELDS) -> StoreWriter:
    """Write all (or the first few) missing shards; finished when all are there."""
    with StoreWriter(path, fields, ROWS, SHARD, key) as writer:
        for rows in writer.missing_shards()[:shards]:
            writer.write_shard(rows, {name: arrays(rows)[name] for name in fields})
        if not writer.missing_shards():
            writer.finish()
    return writer


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def read_all(path: Path) -> None:
    store = Store(path, KEY)
    for field in FIELDS:
        store.read(field, np.arange(ROWS))
