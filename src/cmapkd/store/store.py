"""The record store: the reader that verifies the checksum of every record."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.store.disks import network_type
from cmapkd.store.manifest import AGAIN, read_manifest, refuse_other
from cmapkd.store.opened import WAY_OUT, OpenShards, Records
from cmapkd.store.shards import Field, field_seed, shard_files
from cmapkd.store.sizes import estimate_bytes
from cmapkd.store.writer import StoreWriter

__all__ = ["Field", "Store", "StoreWriter", "estimate_bytes"]


class Store:
    """Reads a finished store and verifies each record. key: if given, the key that the store must have.

    how: by memory map, or plain (one read call per record), which auto chooses on network disks.
    Raises UsageError for a missing or unfinished store, IntegrityError for a corrupt or stale one. `bytes_read` counts the
    bytes read of each field.
    """

    def __init__(
        self, path: Path, key: dict[str, str] | None = None, verify: bool = True,
        how: Literal["auto", "map", "plain"] = "auto",
    ) -> None:  # fmt: skip
        self.path, self.verify, self.bytes_read = path, verify, Counter()
        manifest = read_manifest(path)
        if manifest is None:
            state = "is unfinished" if (path / "building.json").is_file() else "does not exist"
            raise UsageError(f"cache {path}: {state}; run `cmapkd cache --config …` with this config first")
        if key is not None:
            refuse_other(path, {"key": manifest["key"]}, {"key": key})
        self.key, self.rows, self.shard_rows = manifest["key"], manifest["rows"], manifest["shard_rows"]
        self.fields = {name: Field.parse(row) for name, row in manifest["fields"].items()}
        self._shards = manifest["shards"]
        self.plain = how == "plain" or how == "auto" and network_type(path) is not None
        self._opened = OpenShards(path, self.fields, self.rows, self.shard_rows, self._shards, self.plain)

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """Copies of the stored records [len(rows), *shape], each verified. Raises IntegrityError naming a bad record."""
        layout, wanted = self.fields[field], rows.tolist()
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.rows:
            raise IntegrityError(
                f"cache {self.path}: rows {min(wanted)} to {max(wanted)} asked for, {self.rows} are there; the data "
                f"changed since it was written: delete the folder and {AGAIN}"
            )
        size, shard_rows, verify = layout.nbytes, self.shard_rows, self.verify
        seed, digest = field_seed(field), xxhash.xxh3_64_intdigest
        out = np.empty(len(wanted) * size, dtype=np.uint8)
        self.bytes_read[field] += out.nbytes
        target, end, opened = out.data, 0, self._opened.by_field[field]
        for row in wanted:
            shard, place = row // shard_rows, row % shard_rows
            data, sums = opened.get(shard) or self._opened.open(field, shard)
            start, end = end, end + size
            copy = target[start:end]
            if isinstance(data, memoryview):
                copy[:] = data[place * size : place * size + size]
            else:
                self._fill(copy, data, place * size)
            # The copy is verified, not the map: the file under the map may change at any time.
            if verify and digest(copy, seed + row) != sums[place]:
                file = shard_files(self.path, field, shard)[0].name
                raise IntegrityError(f"cache {self.path}: {field} of row {row} in {file} fails its checksum; {WAY_OUT}")
        return out.view(layout.dtype).reshape(len(wanted), *layout.shape)

    def read_float(self, field: str, rows: np.ndarray) -> np.ndarray:
        """The records as float32 [len(rows), *shape], int8 fields dequantised."""
        return self.fields[field].decode(self.read(field, rows))

    def verify_all(self) -> tuple[int, int]:
        """Check every file against the manifest's SHA-256; returns (files, bytes). Raises IntegrityError naming a bad one."""
        for name, stated in self._shards.items():
            file = self.path / name
            there = file.is_file() and file.stat().st_size == stated["bytes"]
            if not there or fsio.sha256_file(file) != stated["sha256"]:
                raise IntegrityError(f"cache {self.path}: {name} is missing or differs from the manifest; {WAY_OUT}")
        for file in sorted(self.path.iterdir()):
            if file.suffix in (".npy", ".xxh3") and file.name not in self._shards:
                raise IntegrityError(f"cache {self.path}: {file.name} is not in the manifest; {WAY_OUT}")
        manifest = self.path / "manifest.json"
        return len(self._shards) + 1, sum(stated["bytes"] for stated in self._shards.values()) + manifest.stat().st_size

    def _fill(self, copy: memoryview, records: Records, offset: int) -> None:
        try:
            records.read_into(copy, offset)
        except OSError as error:
            raise self._opened.unreadable(error, records.array) from None
