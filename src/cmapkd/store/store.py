"""The record store: a writer that can resume, and a reader that verifies the checksum of every record."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import xxhash

import cmapkd
from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError, NonFiniteError, UsageError
from cmapkd.core.lease import exclusive
from cmapkd.store.manifest import AGAIN, SCHEMA, plan_of, read_manifest, refuse_other, sealed
from cmapkd.store.shards import NAME, Field, as_bytes, checksums, field_seed, map_shard, npy_header, shard_files

__all__ = ["Field", "Store", "StoreWriter", "estimate_bytes"]

WAY_OUT = f"delete that file and {AGAIN}"


def estimate_bytes(fields: dict[str, Field], rows: int) -> int:
    """Bytes on disk of `rows` records with their checksums."""
    return rows * sum(field.nbytes + 8 for field in fields.values())


class StoreWriter:
    """Writes a store shard by shard; a resumed build under the same key keeps the complete shards.

    Locks the folder until the store is finished or closed, or its context ends. Raises DiskError where the disk is too
    small, IntegrityError when another process writes here or the folder was begun under another key or layout.
    """

    def __init__(self, path: Path, fields: dict[str, Field], rows: int, shard_rows: int, key: dict[str, str]) -> None:
        wrong = [name for name in fields if not NAME.fullmatch(name)]
        if wrong or rows < 1 or shard_rows < 1:
            raise ValueError(
                f"store of {rows} rows in shards of {shard_rows}, field names {list(fields)}: not possible"
            )
        self.path, self.fields, self.rows, self.shard_rows, self.key = path, fields, rows, shard_rows, key
        self._plan = {"key": key, "fields": {k: f.describe() for k, f in fields.items()}, "rows": rows,
                      "shard_rows": shard_rows}  # fmt: skip
        self._written: dict[str, dict[str, object]] = {}
        self._lease = exclusive(path / "writer.lock")
        self._lease.__enter__()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        fsio.sweep_temporaries(self.path)
        known = plan_of(self.path)
        if known is not None:
            refuse_other(self.path, known, self._plan)
            for rows in self._ranges():
                for name in self.fields:
                    self._keep_if_complete(name, rows)
        missing = self.missing_shards()
        needed, free = estimate_bytes(self.fields, sum(len(rows) for rows in missing)), fsio.free_bytes(self.path)
        if needed > free:
            raise DiskError(
                f"cache {self.path}: needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
                "use a smaller cache.grid, cache.rank or data.views, or another cache.path"
            )
        if missing:
            fsio.write_json(self.path / "building.json", self._plan)
            # Readers must not open a store while it is being repaired.
            fsio.remove_file(self.path / "manifest.json")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def missing_shards(self) -> list[range]:
        """Row ranges still to be written: those without complete arrays and valid checksums."""
        return [r for r in self._ranges() if not all(file in self._written for file in self._files(r))]

    def write_shard(self, rows: range, arrays: dict[str, np.ndarray]) -> None:
        """Write the records of `rows` for every field, given as float or raw arrays [len(rows), *shape].

        Raises DiskError, NonFiniteError, or ValueError when `rows` is not a shard or an array has another shape.
        """
        if rows not in self._ranges() or set(arrays) != set(self.fields):
            raise ValueError(f"rows {rows} with fields {sorted(arrays)}: not a shard of {self.path}")
        for name, field in self.fields.items():
            try:
                data = field.encode(arrays[name])
            except (NonFiniteError, ValueError) as error:
                raise type(error)(f"cache {self.path}: field {name} of rows from {rows.start}: {error}") from None
            array, sums = shard_files(self.path, name, rows.start // self.shard_rows)
            parts = [npy_header(field, len(rows)), as_bytes(data, len(rows)).reshape(-1).data]
            self._note(array, fsio.write_bytes(array, parts))
            self._note(sums, fsio.write_bytes(sums, checksums(name, rows.start, data).tobytes()))

    def finish(self) -> None:
        """Write the manifest, after which the store can be opened. Raises IntegrityError when shards are missing."""
        missing = self.missing_shards()
        if missing:
            raise IntegrityError(f"cache {self.path}: rows {missing[0].start}-{missing[0].stop} are missing; {AGAIN}")
        manifest = {"schema": SCHEMA, "tool": cmapkd.__version__, **self._plan, "shards": self._written}
        fsio.write_bytes(self.path / "manifest.json", sealed(manifest))
        fsio.remove_file(self.path / "building.json")
        self.close()

    def close(self) -> None:
        """Release the lock. Complete shards stay, and a later writer resumes from them."""
        self._lease.__exit__(None, None, None)

    def _ranges(self) -> list[range]:
        return [range(a, min(a + self.shard_rows, self.rows)) for a in range(0, self.rows, self.shard_rows)]

    def _files(self, rows: range) -> list[str]:
        return [f.name for name in self.fields for f in shard_files(self.path, name, rows.start // self.shard_rows)]

    def _note(self, file: Path, sha256: str) -> None:
        self._written[file.name] = {"bytes": file.stat().st_size, "sha256": sha256}

    def _keep_if_complete(self, name: str, rows: range) -> None:
        array, sums = shard_files(self.path, name, rows.start // self.shard_rows)
        if not array.is_file() or not sums.is_file():
            return
        data = map_shard(array, self.fields[name], len(rows))
        if data is not None and checksums(name, rows.start, data).tobytes() == sums.read_bytes():
            self._note(array, fsio.sha256_file(array))
            self._note(sums, fsio.sha256_file(sums))


class Store:
    """Reads a finished store and verifies each record. key: if given, the key that the store must have.

    Raises UsageError for a missing or unfinished store, IntegrityError for a corrupt or stale one. `bytes_read` counts the
    bytes read of each field.
    """

    def __init__(self, path: Path, key: dict[str, str] | None = None, verify: bool = True) -> None:
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
        self._mapped: dict[str, dict[int, tuple[memoryview, list[int]]]] = {name: {} for name in self.fields}

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
        target, end, mapped = out.data, 0, self._mapped[field]
        for row in wanted:
            shard, place = row // shard_rows, row % shard_rows
            data, sums = mapped.get(shard) or self._map(field, shard)
            start, end = end, end + size
            copy = target[start:end]
            copy[:] = data[place * size : place * size + size]
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

    def _map(self, field: str, shard: int) -> tuple[memoryview, list[int]]:
        """(bytes of all records, their checksums) of a shard, memory-mapped on first use."""
        array, sums = shard_files(self.path, field, shard)
        rows = min(self.shard_rows, self.rows - shard * self.shard_rows)
        try:
            stated = sums.read_bytes()
            data = map_shard(array, self.fields[field], rows)
        except OSError as error:
            name = Path(error.filename or array).name
            raise IntegrityError(f"cache {self.path}: {name} is missing or unreadable; {WAY_OUT}") from None
        if hashlib.sha256(stated).hexdigest() != self._shards[sums.name]["sha256"]:
            raise IntegrityError(f"cache {self.path}: {sums.name} differs from the manifest; {WAY_OUT}")
        if data is None:
            raise IntegrityError(
                f"cache {self.path}: {array.name} does not have the size and header of a shard; {WAY_OUT}"
            )
        self._mapped[field][shard] = data.reshape(-1).data, np.frombuffer(stated, dtype="<u8").tolist()
        return self._mapped[field][shard]
