"""Durable, atomic writes: temporary file, fsync, rename, fsync of the folder. Imports no torch.

All durable writes of the package go through this module, and every primitive through `system`, so that tests can make
any of them fail and can rebuild every state that a power loss may leave. A killed writer leaves names such as
NAME.tmp.PID (half written), NAME.trash.PID (half deleted) and NAME.old.PID (moved away while its successor takes the
name); `sweep_temporaries` removes them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DiskError
from cmapkd.core.primitives import OS

CHUNK = 1 << 20
LEFT_BEHIND = re.compile(r"(?P<final>.+)\.(?P<kind>tmp|trash|old)\.(?P<pid>\d{1,18})")


system = OS()


def write_bytes(path: Path, data: bytes | Iterable[Any], size: int | None = None) -> str:
    """Replace the file atomically; returns the SHA-256 of the bytes written.

    data: bytes, or an iterable of buffers. size: total number of bytes where `data` is an iterator, for the message of a
    full disk. Raises DiskError; the old file is then unchanged and the temporary one is gone.
    """
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    chunks = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    if size is None and isinstance(chunks, list | tuple):
        size = sum(memoryview(chunk).nbytes for chunk in chunks)
    digest = hashlib.sha256()
    try:
        descriptor = system.create(temporary)
        try:
            for chunk in chunks:
                digest.update(chunk)
                _write_all(descriptor, chunk)
            system.fsync(descriptor)
        finally:
            system.close(descriptor)
        system.rename(temporary, path)
        system.sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            system.unlink(temporary)
        if isinstance(error, OSError):
            raise disk_error(path, error, size) from None
        raise
    return digest.hexdigest()


def json_bytes(value: object) -> bytes:
    """The exact bytes that `write_json` writes for a value."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Replace the file atomically by `value` as JSON. Raises DiskError."""
    write_bytes(path, json_bytes(value))


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents durably. Raises DiskError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        with contextlib.suppress(FileExistsError):
            system.mkdir(path)
        system.sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from None


def commit_dir(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its final name atomically; a previous folder there is moved away first, deleted last.

    Raises DiskError; the previous folder is then still in place.
    """
    old = final.with_name(f"{final.name}.old.{os.getpid()}")
    try:
        system.sync_folder(temporary)
        replaced = final.exists()
        if replaced:
            system.rename(final, old)
        try:
            system.rename(temporary, final)
        except OSError:
            if replaced:
                system.rename(old, final)
            raise
        system.sync_folder(final.parent)
    except OSError as error:
        raise disk_error(final, error) from None
    if replaced:
        retire_dir(old)


def retire_dir(folder: Path) -> None:
    """Delete a folder atomically: it is renamed first, so that no half of it is seen under its name. Raises DiskError."""
    trash = folder.with_name(f"{folder.name}.trash.{os.getpid()}")
    try:
        system.rename(folder, trash)
        system.sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(folder, error) from None
    discard(trash)


def discard(path: Path) -> None:
    """Delete a file or a whole folder, ignoring failures; the next sweep tries again."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for child in list(path.iterdir()):
                discard(child)
            system.rmdir(path)
        else:
            system.unlink(path)


def remove_file(path: Path) -> None:
    """Delete a file durably, if it exists. Raises DiskError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            system.unlink(path)
            system.sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from None


def append_line(path: Path, text: str) -> None:
    """Append one line in a single write. It survives a kill of the process; nothing is synced for a power loss.

    A partial write is undone, so that the next line starts on its own. Raises DiskError.
    """
    data = (text + "\n").encode()
    try:
        descriptor = system.append(path)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
            except OSError:
                with contextlib.suppress(OSError):
                    system.truncate(descriptor, before)
                raise
        finally:
            system.close(descriptor)
    except OSError as error:
        raise disk_error(path, error, len(data)) from None


def repair_jsonl(path: Path) -> int:
    """Remove an incomplete last line and lines that are no JSON; returns the number of bytes removed."""
    data = path.read_bytes()
    kept = b"".join(line + b"\n" for line in data.split(b"\n")[:-1] if _is_json(line))
    if len(kept) < len(data):
        write_bytes(path, kept)
    return len(data) - len(kept)


def sweep_temporaries(folder: Path) -> None:
    """Delete the temporary files of dead processes below `folder`; a folder that one had moved away gets its name back."""
    found = []
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            match = LEFT_BEHIND.fullmatch(name)
            if match and not _alive(int(match["pid"])):
                found.append((Path(parent, name), Path(parent, match["final"]), match["kind"]))
        folders[:] = [name for name in folders if not LEFT_BEHIND.fullmatch(name)]
    for path, final, kind in found:
        if kind == "old" and not final.exists():
            with contextlib.suppress(OSError):
                system.rename(path, final)
                system.sync_folder(final.parent)
        else:
            discard(path)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent if path != path.parent else Path()
    return shutil.disk_usage(path).free


def disk_error(path: Path, error: OSError, need: int | None = None) -> DiskError:
    """The DiskError of a failed write of `need` bytes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_bytes(path.parent) / 1e6
        wanted = "writing" if need is None else f"{need / 1e6:.3f} MB needed for"
        return DiskError(
            f"disk full: {wanted} {path}, {free:.3f} MB free; what was committed before is intact; free some room and repeat"
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DiskError(
        f"{path}: {reason}; what was committed before is intact; check the folder's permissions and disk, then repeat"
    )


def _write_all(descriptor: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        written = system.write(descriptor, view)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        view = view[written:]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _alive(pid: int) -> bool:
    """Whether another process of this machine has this number; a leftover with our own number is of a dead process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()
