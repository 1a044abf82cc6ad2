"""The feature store: fixed-stride memory-mapped shards, one per field, with a checksum of every record.

A folder holds `FIELD-00003.npy` arrays, `FIELD-00003.xxh3` with 8 bytes a record, and manifest.json written last. The
field's name and the row's number are part of every checksum, so that shards that were exchanged are found too.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError, UsageError

SCHEMA = 1
WAY_OUT = "delete that file and run `cmapkd cache` again"


@dataclass(frozen=True)
class Field:
    """A record's shape and dtype; int8 fields carry a scale per last-axis channel: x ≈ q · scale."""

    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values as stored; int8 rounds to the nearest step and saturates at ±127."""
        if self.scale is None:
            return np.ascontiguousarray(values, dtype=self.dtype)
        return np.clip(np.rint(values / self.scale), -127, 127).astype(np.int8)

    def describe(self) -> dict[str, object]:
        scale = None if self.scale is None else [float(v) for v in self.scale]
        return {"shape": list(self.shape), "dtype": self.dtype, "scale": scale}

    @staticmethod
    def parse(row: dict) -> Field:
        scale = None if row["scale"] is None else np.asarray(row["scale"], dtype=np.float32)
        return Field(tuple(row["shape"]), row["dtype"], scale)


def estimate_bytes(fields: dict[str, Field], rows: int) -> int:
    """Bytes on disk of `rows` records with their checksums."""
    return rows * sum(field.nbytes + 8 for field in fields.values())


class StoreWriter:
    """Writes a store shard by shard; what is complete is kept when the build is resumed, under the same key only."""

    def __init__(self, path: Path, fields: dict[str, Field], rows: int, shard_rows: int, key: dict[str, str]) -> None:
        self.path, self.fields, self.rows, self.shard_rows, self.key = path, fields, rows, shard_rows, key
        path.mkdir(parents=True, exist_ok=True)
        self._lease = fsio.exclusive(path / "writer.lock")
        self._lease.__enter__()
        fsio.sweep_temporaries(path)
        plan = {
            "key": key,
            "fields": {k: f.describe() for k, f in fields.items()},
            "rows": rows,
            "shard_rows": shard_rows,
        }
        building = path / "building.json"
        if building.is_file():
            _same_key(path, json.loads(building.read_text())["key"], key)
        missing = sum(len(rows) for rows in self.missing_shards())
        needed, free = estimate_bytes(fields, missing), fsio.free_bytes(path)
        if needed > free:
            raise DiskError(
                f"cache {path}: needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; "
                "use a smaller cache.grid, cache.rank or data.views, or another cache.path"
            )
        fsio.write_json(building, plan)

    def missing_shards(self) -> list[range]:
        """Row ranges whose arrays or checksums are not complete and valid."""
        ranges = [range(a, min(a + self.shard_rows, self.rows)) for a in range(0, self.rows, self.shard_rows)]
        return [r for r in ranges if not all(self._complete(name, r) for name in self.fields)]

    def write_shard(self, rows: range, arrays: dict[str, np.ndarray]) -> None:
        """Records of `rows` for every field, as float or raw arrays [len(rows), *shape]."""
        for name, field in self.fields.items():
            data = field.encode(arrays[name])
            if data.shape != (len(rows), *field.shape):
                raise ValueError(f"field {name}: shape {data.shape}, expected {(len(rows), *field.shape)}")
            array, sums = _files(self.path, name, rows.start // self.shard_rows)
            fsio.write_bytes(array, [_npy_header(data), data.reshape(-1).view(np.uint8).data])
            fsio.write_bytes(sums, checksums(name, rows.start, data).tobytes())

    def finish(self) -> None:
        """Check that every shard is there and write the manifest; the store can be opened from now on."""
        missing = self.missing_shards()
        if missing:
            raise IntegrityError(
                f"cache {self.path}: rows {missing[0].start}-{missing[0].stop} are missing; run `cmapkd cache` again"
            )
        shards = {}
        for file in sorted(self.path.glob("*.npy")) + sorted(self.path.glob("*.xxh3")):
            shards[file.name] = {"bytes": file.stat().st_size, "sha256": fsio.sha256_file(file)}
        manifest = {
            "schema": SCHEMA, "key": self.key, "rows": self.rows, "shard_rows": self.shard_rows,
            "fields": {k: f.describe() for k, f in self.fields.items()}, "shards": shards,
        }  # fmt: skip
        body = json.dumps(manifest, sort_keys=True)
        fsio.write_json(
            self.path / "manifest.json", {"manifest": manifest, "xxh3": xxhash.xxh3_64_hexdigest(body.encode())}
        )
        (self.path / "building.json").unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        self._lease.__exit__(None, None, None)

    def _complete(self, name: str, rows: range) -> bool:
        array, sums = _files(self.path, name, rows.start // self.shard_rows)
        if not array.is_file() or not sums.is_file():
            return False
        try:
            data = np.load(array, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return False
        field = self.fields[name]
        if data.shape != (len(rows), *field.shape) or data.dtype != np.dtype(field.dtype):
            return False
        return checksums(name, rows.start, data).tobytes() == sums.read_bytes()


class Store:
    """A finished store. `key` given: every field must agree. Each record is verified when it is read."""

    def __init__(self, path: Path, key: dict[str, str] | None = None, verify: bool = True) -> None:
        self.path, self.verify, self.bytes_read = path, verify, Counter()
        if not (path / "manifest.json").is_file():
            state = "is unfinished" if (path / "building.json").is_file() else "does not exist"
            raise UsageError(f"cache {path}: {state}; run `cmapkd cache` with this config first")
        try:
            whole = json.loads((path / "manifest.json").read_bytes())
            manifest = whole["manifest"]
            intact = xxhash.xxh3_64_hexdigest(json.dumps(manifest, sort_keys=True).encode()) == whole["xxh3"]
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise IntegrityError(
                f"cache {path}: manifest.json is corrupt; delete the folder and run `cmapkd cache` again"
            )
        if key is not None:
            _same_key(path, manifest["key"], key)
        self.key, self.rows, self.shard_rows = manifest["key"], manifest["rows"], manifest["shard_rows"]
        self.fields = {name: Field.parse(row) for name, row in manifest["fields"].items()}
        self._shards = manifest["shards"]
        self._open: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """Stored records [len(rows), *shape] in a fresh array, each checked. Raises IntegrityError naming a bad one."""
        layout = self.fields[field]
        out = np.empty((len(rows), *layout.shape), dtype=layout.dtype)
        self.bytes_read[field] += out.nbytes
        seed = field_seed(field)
        digest: Any = xxhash.xxh3_64_intdigest  # takes any buffer, though its stub says bytes
        for position, row in enumerate(rows.tolist()):
            if not 0 <= row < self.rows:
                raise IntegrityError(
                    f"cache {self.path}: row {row} of {self.rows} asked for; the data changed since it was written"
                )
            shard, place = divmod(row, self.shard_rows)
            data, sums = self._shard(field, shard)
            record = data[place]
            if self.verify and digest(record, seed + row) != sums[place]:
                file = _files(self.path, field, shard)[0].name
                raise IntegrityError(f"cache {self.path}: {field} of row {row} in {file} fails its checksum; {WAY_OUT}")
            out[position] = record.view(layout.dtype).reshape(layout.shape)
        return out

    def read_float(self, field: str, rows: np.ndarray) -> np.ndarray:
        """Records as float32, int8 fields dequantised."""
        values = self.read(field, rows).astype(np.float32)
        scale = self.fields[field].scale
        return values if scale is None else np.multiply(values, scale, out=values)

    def verify_all(self) -> None:
        """Every file against the manifest's SHA-256, every record against its checksum."""
        for name, stated in self._shards.items():
            file = self.path / name
            if (
                not file.is_file()
                or file.stat().st_size != stated["bytes"]
                or fsio.sha256_file(file) != stated["sha256"]
            ):
                raise IntegrityError(f"cache {self.path}: {name} is missing or differs from the manifest; {WAY_OUT}")
        for field in self.fields:
            for start in range(0, self.rows, self.shard_rows):
                self.read(field, np.arange(start, min(start + self.shard_rows, self.rows)))

    def _shard(self, field: str, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """(records as bytes [rows, nbytes], checksums [rows]) of a shard, mapped on first use."""
        if (field, shard) in self._open:
            return self._open[field, shard]
        array, sums = _files(self.path, field, shard)
        rows = min(self.shard_rows, self.rows - shard * self.shard_rows)
        layout = self.fields[field]
        for file in (array, sums):
            stated = self._shards.get(file.name)
            if stated is None or not file.is_file() or file.stat().st_size != stated["bytes"]:
                raise IntegrityError(f"cache {self.path}: {file.name} is missing or truncated; {WAY_OUT}")
        offset = array.stat().st_size - rows * layout.nbytes
        data = np.asarray(np.memmap(array, np.uint8, "r", offset, (rows, layout.nbytes)))
        self._open[field, shard] = data, np.fromfile(sums, dtype="<u8")
        return self._open[field, shard]


def checksums(field: str, first: int, data: np.ndarray) -> np.ndarray:
    """uint64 [n]: xxh3 of each record, seeded with its field and row number."""
    raw = np.ascontiguousarray(data).reshape(len(data), -1).view(np.uint8)
    seed = field_seed(field)
    return np.array([xxhash.xxh3_64_intdigest(raw[k], seed + first + k) for k in range(len(raw))], dtype="<u8")


def field_seed(field: str) -> int:
    """A 63-bit seed of the field's name, leaving room for the row number."""
    return xxhash.xxh3_64_intdigest(field.encode()) >> 1


def _files(path: Path, field: str, shard: int) -> tuple[Path, Path]:
    return path / f"{field}-{shard:05d}.npy", path / f"{field}-{shard:05d}.xxh3"


def _npy_header(data: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(data))
    return buffer.getvalue()


def _same_key(path: Path, known: dict[str, str], wanted: dict[str, str]) -> None:
    for name in sorted(set(known) | set(wanted)):
        if known.get(name) != wanted.get(name):
            raise IntegrityError(
                f"cache {path}: '{name}' is {_brief(known.get(name))} there but {_brief(wanted.get(name))} in this run; a cache serves "
                "one teacher, transform and data set: give another cache.path, or delete the folder and run `cmapkd cache`"
            )


def _brief(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-12:]}"
