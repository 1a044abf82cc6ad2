"""The one module that writes durably: temporary file, flush, fsync, rename, fsync of the folder. Imports no torch.

Every primitive goes through `system`, so that tests can make any of them fail, and can replay them to rebuild every
state that a power loss may leave. Names that a killed writer leaves: NAME.tmp.PID (half written), NAME.trash.PID (half
deleted) and NAME.old.PID (set aside while its successor takes the name); `sweep_temporaries` clears up after it.
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
    """Replace `path` by `data`, whole or not at all; returns the SHA-256 of what was written.

    data: bytes, or pieces that are buffers. size: total bytes where `data` is an iterator, for the message of a full
    disk. Raises DiskError; the old file then
    still stands and the temporary one is gone.
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
    """The one text that `write_json` gives a value, so that a reader can ask for exactly these bytes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON, whole or not at all. Raises DiskError."""
    write_bytes(path, json_bytes(value))


def make_folder(path: Path) -> None:
    """Make a folder and what is missing above it, so that it survives a power loss. Raises DiskError."""
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
    """Make a folder of durable files appear under its name; one that stood there is set aside first, deleted last.

    Raises DiskError; the folder that stood there then still does.
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
    """Delete a folder so that no half of it is ever seen under its name. Raises DiskError."""
    trash = folder.with_name(f"{folder.name}.trash.{os.getpid()}")
    try:
        system.rename(folder, trash)
        system.sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(folder, error) from None
    discard(trash)


def discard(path: Path) -> None:
    """Delete a file or a whole folder; what cannot be deleted stays for the next sweep."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for child in list(path.iterdir()):
                discard(child)
            system.rmdir(path)
        else:
            system.unlink(path)


def remove_file(path: Path) -> None:
    """Delete a file, if it is there, so that a power loss does not bring it back. Raises DiskError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            system.unlink(path)
            system.sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from None


def append_line(path: Path, text: str) -> None:
    """Append one line in a single write; it outlives a kill, but only a later fsync of the system a power loss.

    A write that fails half way is taken back, so that the next line starts on its own. Raises DiskError.
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
    """Cut a last line that a kill left torn, and any line that a power loss garbled; returns the bytes cut."""
    data = path.read_bytes()
    kept = b"".join(line + b"\n" for line in data.split(b"\n")[:-1] if _is_json(line))
    if len(kept) < len(data):
        write_bytes(path, kept)
    return len(data) - len(kept)


def sweep_temporaries(folder: Path) -> None:
    """Clear up what dead writers left below `folder`; a folder that one had set aside gets its name back."""
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
    """Hexadecimal SHA-256 of a file, read in pieces."""
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


def disk_error(path: Path, error: OSError, need: int | None = None) -> DiskError:
    """The one line for a failed write of `need` bytes."""
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
    """Whether another process of this machine has this number; our own number was a dead one's before."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()
