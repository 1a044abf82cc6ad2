"""The one module that writes durably: temporary file, flush, fsync, rename, fsync of the folder. Imports no torch.

Every primitive goes through `OS`, so that tests can make any of them fail, and can replay them to rebuild every state
that a power loss may leave.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DiskError, IntegrityError

CHUNK = 1 << 20


class OS:
    """The primitives, one method each."""

    @staticmethod
    def create(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    @staticmethod
    def append(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    rename = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)

    @staticmethod
    def sync_folder(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


system = OS()


def write_bytes(path: Path, data: bytes | Iterable[Any]) -> None:
    """Replace `path` by `data`, whole or not at all. Raises DiskError; the old file then still stands."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    chunks = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    try:
        descriptor = system.create(temporary)
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            system.fsync(descriptor)
        finally:
            system.close(descriptor)
        system.rename(temporary, path)
        system.sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise disk_error(path, error) from None


def write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def commit_dir(temporary: Path, final: Path) -> None:
    """Make a finished folder appear under its name; one that stood there is moved away first and deleted last."""
    try:
        system.sync_folder(temporary)
        retired = None
        if final.exists():
            retired = final.with_name(f"{final.name}.trash.{os.getpid()}")
            system.rename(final, retired)
        system.rename(temporary, final)
        system.sync_folder(final.parent)
        if retired is not None:
            shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise disk_error(final, error) from None


def retire_dir(folder: Path) -> None:
    """Delete a folder so that it is never seen half there: rename first."""
    trash = folder.with_name(f"{folder.name}.trash.{os.getpid()}")
    system.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def append_line(path: Path, text: str) -> None:
    """Append one line in a single write."""
    try:
        descriptor = system.append(path)
        try:
            _write_all(descriptor, (text + "\n").encode())
        finally:
            system.close(descriptor)
    except OSError as error:
        raise disk_error(path, error) from None


def repair_jsonl(path: Path) -> int:
    """Cut a last line that a kill left torn; returns the number of bytes cut."""
    data = path.read_bytes()
    keep = len(data)
    if data and not data.endswith(b"\n"):
        keep = data.rfind(b"\n") + 1
    while keep:
        start = data.rfind(b"\n", 0, keep - 1) + 1
        try:
            json.loads(data[start:keep])
            break
        except ValueError:
            keep = start
    if keep < len(data):
        write_bytes(path, data[:keep])
    return len(data) - keep


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left: `*.tmp.PID` files and folders, `*.trash.PID` folders."""
    for path in folder.rglob("*"):
        stem, _, pid = path.name.rpartition(".")
        if pid.isdigit() and stem.endswith((".tmp", ".trash")) and not _alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Free bytes on the disk that `path` is or will be on."""
    while not path.exists():
        path = path.parent if path != path.parent else Path()
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lease file `path`; a second holder gets an IntegrityError that names the first. Dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise IntegrityError(
                f"{path.parent}: in use by {file.read().strip() or 'another process'}; wait for it or end it"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def disk_error(path: Path, error: OSError) -> DiskError:
    """The one line for a failed write."""
    if error.errno == errno.ENOSPC:
        return DiskError(
            f"disk full: writing {path} failed with {free_bytes(path.parent) / 1e6:.1f} MB free; what was committed before is intact; free some room and repeat"
        )
    return DiskError(
        f"{path}: {os.strerror(error.errno or 0)}; what was committed before is intact; check the folder's permissions and disk"
    )


def _write_all(descriptor: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[system.write(descriptor, view) :]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
