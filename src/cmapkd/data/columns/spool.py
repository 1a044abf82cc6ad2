"""A growing array: in memory while it is small, then in a temporary file without a name, which is mapped."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from pathlib import Path
from typing import IO

import numpy as np

IN_MEMORY = 8 * 2**20  # bytes of one array
PART = 2**16  # numbers written at a time


class Spool:
    """Bytes that are appended. folder: of the temporary file, by default the system's."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.length = folder, 0
        self._memory, self._file = bytearray(), None
        self._file: IO[bytes] | None

    def add(self, data: bytes | memoryview) -> None:
        self._memory += data
        self.length += len(data)
        if len(self._memory) >= IN_MEMORY:
            self._spill()

    def array(self, dtype: str) -> np.ndarray:
        """All bytes as an array [n]; nothing may be added after this."""
        if self._file is None:
            return np.frombuffer(self._memory, dtype)
        self._spill()
        self._file.flush()
        with self._file:
            return np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY), dtype)

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self._file.write(self._memory)
        self._memory = bytearray()


class NumberSpool:
    """Whole numbers that are appended. code: as in `array.array`, such as q for int64."""

    def __init__(self, code: str, folder: Path | None = None) -> None:
        self._part, self._spool = array(code), Spool(folder)

    def add(self, value: int) -> None:
        self._part.append(value)
        if len(self._part) == PART:
            self._flush()

    def array(self) -> np.ndarray:
        """All numbers [n]; nothing may be added after this."""
        self._flush()
        return self._spool.array(self._part.typecode)

    def _flush(self) -> None:
        self._spool.add(self._part.tobytes())
        del self._part[:]
