"""Open shards: their records memory-mapped, or read with pread where maps are not safe; so many at a time as the system allows."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
from pathlib import Path

import numpy as np

from cmapkd.core.errors import IntegrityError
from cmapkd.store.manifest import AGAIN
from cmapkd.store.shards import Field, map_shard, npy_header, shard_files

WAY_OUT = f"delete that file and {AGAIN}"
MOST = 1 << 16  # files or maps of a process; Linux allows 65530 maps
PART = 6  # a store may use this part of them: a run reads several stores, and opens other files too
SUMS = 1 << 30  # bytes of checksums in memory, per store


class Records:
    """The records of one shard in an open file; every read is one system call, and the file is closed with the object."""

    def __init__(self, array: Path, field: Field, rows: int) -> None:
        self.array = array
        self.descriptor = os.open(array, os.O_RDONLY | os.O_CLOEXEC)
        header = npy_header(field, rows)
        self.start = len(header)
        size = os.fstat(self.descriptor).st_size
        self.sound = size == self.start + rows * field.nbytes and os.pread(self.descriptor, self.start, 0) == header

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset`. Raises OSError, also where the file ends too early."""
        if os.preadv(self.descriptor, [target], self.start + offset) != len(target):
            raise OSError(None, "ends too early", str(self.array))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


Shard = tuple[memoryview | Records, memoryview]  # records, their checksums as uint64


class OpenShards:
    """The open shards of a store, by field. stated: the SHA-256 of each file; plain: read instead of mapping."""

    def __init__(
        self, path: Path, fields: dict[str, Field], rows: int, shard_rows: int, stated: dict[str, dict], plain: bool
    ) -> None:
        self.path, self.fields, self.rows, self.shard_rows = path, fields, rows, shard_rows
        self.stated, self.plain = stated, plain
        self.by_field: dict[str, dict[int, Shard]] = {name: {} for name in fields}
        most = most_open(plain)
        if plain:
            most = min(most, SUMS // (8 * shard_rows))
        self.limit = max(1, most // len(fields))  # per field
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    def open(self, field: str, shard: int) -> Shard:
        """Open a shard; of too many open ones the first opened is closed. Raises IntegrityError naming a bad file."""
        array, sums = shard_files(self.path, field, shard)
        rows = min(self.shard_rows, self.rows - shard * self.shard_rows)
        try:
            numbers = self._checksums(sums)
            records = self._records(array, self.fields[field], rows)
        except OSError as error:
            raise self.unreadable(error, array) from None
        if records is None:
            raise IntegrityError(
                f"cache {self.path}: {array.name} does not have the size and header of a shard; {WAY_OUT}"
            )
        with self._lock:
            opened = self.by_field[field]
            while len(opened) >= self.limit:
                del opened[next(iter(opened))]
            opened[shard] = records, numbers
        return records, numbers

    def unreadable(self, error: OSError, file: Path) -> IntegrityError:
        """The error of a file that vanished, or whose disk or server did."""
        name = Path(error.filename or file).name
        return IntegrityError(f"cache {self.path}: {name} is missing or unreadable ({error.strerror}); {WAY_OUT}")

    def _records(self, array: Path, field: Field, rows: int) -> memoryview | Records | None:
        """None if the file does not have the size and header of a shard."""
        if self.plain:
            records = Records(array, field, rows)
            return records if records.sound else None
        data = map_shard(array, field, rows)
        return None if data is None else data.reshape(-1).data

    def _checksums(self, sums: Path) -> memoryview:
        """The checksums of a shard, whose file is compared with the manifest when it is first opened."""
        if self.plain or sums.name not in self._verified:
            content = sums.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.stated[sums.name]["sha256"]:
                raise IntegrityError(f"cache {self.path}: {sums.name} differs from the manifest; {WAY_OUT}")
            self._verified.add(sums.name)
            if self.plain:
                return memoryview(content).cast("Q")
        return np.asarray(np.memmap(sums, np.uint64, "r")).data


def most_open(plain: bool) -> int:
    """Number of shards that one store may have open: one file each where they are read, two where they are mapped.

    A map keeps its file open, too. The limit of open files is raised to what the system lets this process have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted // (PART if plain else 2 * PART)
