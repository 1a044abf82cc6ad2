"""Local copies of remote shards in a folder of bounded size: each is fetched by one process, the least recently used go first."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.remote.download import download

POLL = 0.1  # seconds between looks at a shard that another process fetches


@dataclass(frozen=True)
class Copies:
    """Copies in `folder` of at most `limit` bytes together. checksums: file name → SHA-256."""

    folder: Path
    limit: int
    checksums: dict[str, str] = field(default_factory=dict, compare=False)

    def place(self, url: str) -> Path:
        """The path of a shard's copy, whether it is there or not."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])[-80:]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"

    def fetch(self, url: str, size: int) -> Path:
        """The path of a shard's copy, downloaded first where it is not there. Raises DataError, DiskError or UsageError."""
        path = self.place(url)
        if self._used(path):
            return path
        with _locked(self._lock(path)) as note:
            if not self._used(path):
                sha256 = self._checksum(url)
                while not self._reserve(url, size, note):
                    time.sleep(POLL)
                download(url, path, size, sha256)
                note("")
        return path

    def _used(self, path: Path) -> bool:
        """Whether a copy is there; it then counts as used now."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _checksum(self, url: str) -> str | None:
        if not self.checksums:
            return None
        if (found := self.checksums.get(url.rpartition("/")[2])) is None:
            raise DataError(f"{url}: data.checksums has no line for it; add one, or drop data.checksums")
        return found

    def _reserve(self, url: str, size: int, note: Callable[[str], None]) -> bool:
        """Delete the copies that were not used for longest, until `size` bytes more stay within the limit, and note these.

        False where what others are fetching leaves no room yet. Raises UsageError for a shard larger than the limit.
        """
        if size > self.limit:
            raise UsageError(f"{url}: {size / 1e9:.2f} GB, more than data.copies_gb {self.limit / 1e9:g}; raise it")
        with _locked(self.folder / "room.lock"):
            taken = self._coming()  # before the copies are listed, so that one that arrives meanwhile is not missed
            if taken + size > self.limit:
                return False
            copies = sorted(self._copies(), key=lambda path: path.stat().st_mtime_ns)
            taken += sum(path.stat().st_size for path in copies)
            for path in copies:
                if taken + size > self.limit:
                    taken -= path.stat().st_size
                    fsio.remove_file(path)
            note(str(size))
        return True

    def _copies(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not re.search(r"\.(lock|json)$|\.tmp\.\d+$", path.name)]

    def _coming(self) -> int:
        """Bytes that other processes and threads are fetching: the sizes noted in the locks that they hold."""
        total = 0
        for lock in self.folder.glob("*.lock"):
            with contextlib.suppress(OSError, ValueError), lock.open("rb") as file:
                noted = int(file.read() or b"0")
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    total += noted
        return total

    def _lock(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Callable[[str], None]]:
    """Hold a lock file, after waiting for it; gives a function that writes a note into it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise fsio.disk_error(path, error) from None
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL)

        def note(text: str) -> None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)

        yield note
    finally:
        os.close(descriptor)
