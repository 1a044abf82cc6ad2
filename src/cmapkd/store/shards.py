"""Shards: the records of one field for a range of rows, as a `.npy` file and a `.xxh3` file of 8-byte checksums.

Every checksum covers the name of the field and the row number, so that exchanged shards are detected too.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from cmapkd.core.errors import NonFiniteError

DTYPES = ("float16", "float32", "int8", "uint8", "bool", "int32", "int64")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one named array of a record; int8 may have a float32 scale per last-axis channel: x ≈ q · scale."""

    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"field dtype '{self.dtype}' is not stored; choose one of {', '.join(DTYPES)}")
        if self.scale is None:
            return
        scale = np.asarray(self.scale)
        if self.dtype != "int8" or scale.shape != self.shape[-1:] or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(
                f"field scale of shape {scale.shape} on {self.dtype} {self.shape}; only int8 fields have one, "
                "with a positive finite number for each channel of the last axis"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of one record."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values [n, *shape] as stored; int8 rounds to the nearest step and saturates at ±127.

        Raises ValueError for a wrong shape or values that an integer dtype cannot hold exactly, NonFiniteError for NaN,
        infinity or an overflow of float16.
        """
        if values.shape[1:] != self.shape:
            raise ValueError(f"records have shape {values.shape[1:]}, but the field's is {self.shape}")
        if self.scale is None:
            with np.errstate(over="ignore", invalid="ignore"):
                stored = np.ascontiguousarray(values, dtype=self.dtype)
            if stored.dtype.kind != "f" and not np.array_equal(stored, values):
                raise ValueError(f"some values cannot be stored as {self.dtype} without loss")
        else:
            _finite(values)
            # All three steps work in one buffer: a shard may fill most of the memory.
            steps = np.divide(values, self.scale, dtype=np.float32)
            stored = np.clip(np.rint(steps, out=steps), -127, 127, out=steps).astype(np.int8)
        if stored.dtype.kind == "f":
            _finite(stored)
        return stored

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Stored records [n, *shape] as float32, int8 fields dequantised."""
        values = stored.astype(np.float32)
        return values if self.scale is None else np.multiply(values, self.scale, out=values)

    def describe(self) -> dict[str, object]:
        scale = None if self.scale is None else [float(v) for v in self.scale]
        return {"shape": list(self.shape), "dtype": self.dtype, "scale": scale}

    @staticmethod
    def parse(row: dict) -> Field:
        scale = None if row["scale"] is None else np.asarray(row["scale"], dtype=np.float32)
        return Field(tuple(row["shape"]), row["dtype"], scale)


def shard_files(folder: Path, field: str, shard: int) -> tuple[Path, Path]:
    """(array, checksums) of a shard."""
    return folder / f"{field}-{shard:05d}.npy", folder / f"{field}-{shard:05d}.xxh3"


def checksums(field: str, first: int, records: np.ndarray) -> np.ndarray:
    """uint64 [n]: xxh3 of each record, seeded with its field and its row number, counted from `first`."""
    raw = as_bytes(records, len(records))
    seed, digest = field_seed(field), xxhash.xxh3_64_intdigest
    return np.array([digest(raw[k], seed + first + k) for k in range(len(raw))], dtype="<u8")


def field_seed(field: str) -> int:
    """A 63-bit hash of the field's name, to which the row number is added."""
    return xxhash.xxh3_64_intdigest(field.encode()) >> 1


def as_bytes(records: np.ndarray, rows: int) -> np.ndarray:
    """uint8 [rows, bytes of a record]; a view if the records are contiguous."""
    flat = np.ascontiguousarray(records).reshape(-1).view(np.uint8)
    return flat.reshape(rows, -1) if rows else flat.reshape(0, 0)


def npy_header(field: Field, rows: int) -> bytes:
    """The header of a `.npy` file of [rows, *shape], identical to the byte every time."""
    buffer = io.BytesIO()
    layout = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(field.dtype)),
        "fortran_order": False,
        "shape": (rows, *field.shape),
    }
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()


def map_shard(array: Path, field: Field, rows: int) -> np.ndarray | None:
    """uint8 [rows, bytes of a record], memory-mapped read-only; None if size or header of the file differ."""
    header, size = npy_header(field, rows), array.stat().st_size
    with array.open("rb") as file:
        if size != len(header) + rows * field.nbytes or file.read(len(header)) != header:
            return None
    # A plain ndarray view, because indexing np.memmap costs a microsecond more per record.
    return np.asarray(np.memmap(array, np.uint8, "r", len(header), (rows, field.nbytes)))


def _finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise NonFiniteError(
            f"record {row} of this shard is NaN, infinite or beyond the dtype's range; it would poison every epoch: "
            "check the teacher's weights, or store a wider dtype"
        )
