"""A lock file that lets one process at a time into a folder, names its holder and is released when that dies. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; the system releases it when the process ends, however that happens.

    wait: until another holder releases it, instead of an error. Raises IntegrityError naming the holder, or DiskError where the file system has no locks.
    """
    fsio.make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise fsio.disk_error(path, error) from None
    try:
        _lock(path, descriptor, wait)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int, wait: bool) -> None:
    me = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip() or "another process"
            if not wait:
                raise IntegrityError(f"{path.parent}: in use by {holder}; wait for it to end, or end it") from None
            say(f"{path.stem}: waiting for {holder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, me.encode(), 0)
    except OSError as error:
        raise fsio.disk_error(path, error) from None
