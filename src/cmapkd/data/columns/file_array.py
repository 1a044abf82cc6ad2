"""A one-dimensional npy file as an array that is read at the places asked for.

It is read, not mapped: what a process has once touched of a mapping stays in its resident memory, a megabyte a touch, until all
of it is there. The bytes that are read are kept once for all processes, in the system's page cache.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 2**20  # bytes of an array that is kept in memory
FEW = 4096  # indices that are read one by one; more of them through a mapping


class FileArray:
    """The array of an npy file. An index or slice reads from the file; `np.asarray` maps the whole. Copied by its path."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, path.open("rb", buffering=0)
        if np.lib.format.read_magic(self._file) != (1, 0):
            raise ValueError("another version of npy")
        shape, _, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        self.length, self.start = int(shape[0]), self._file.tell()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            first, last, step = index.indices(self.length)
            return self._read(first, last)[::step] if step > 0 else np.asarray(self)[index]
        if isinstance(index, np.ndarray):
            if len(index) > FEW:
                return np.asarray(self)[index]
            return np.array([self[row] for row in index.tolist()], self.dtype)
        row = int(index) + (self.length if index < 0 else 0)
        if not 0 <= row < self.length:
            raise IndexError(f"{index} of {self.length}")
        return self._read(row, row + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        whole = np.frombuffer(mapped, self.dtype, self.length, self.start)
        return whole if dtype is None else whole.astype(dtype, copy=bool(copy))

    def __reduce__(self) -> tuple[type[FileArray], tuple[Path]]:
        return FileArray, (self.path,)

    def _read(self, first: int, last: int) -> np.ndarray:
        size, at = max(0, last - first) * self.dtype.itemsize, self.start + first * self.dtype.itemsize
        data = os.pread(self._file.fileno(), size, at)
        while len(data) < size:
            more = os.pread(self._file.fileno(), size - len(data), at + len(data))
            if not more:
                raise OSError(f"{self.path} ends early")
            data += more
        return np.frombuffer(data, self.dtype)


def open_array(path: Path) -> np.ndarray | FileArray:
    """The array of an npy file: in memory if it is small. Raises ValueError or OSError for a damaged file."""
    if path.stat().st_size < SMALL:
        return np.load(path, allow_pickle=False)
    return FileArray(path)
