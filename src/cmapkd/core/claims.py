"""Claims: named pieces of work that processes on one or several machines share, each taken by one process at a time. No torch.

A claim is a file NAME.GENERATION that its holder has created (O_EXCL), locks (flock) and writes a counter into every BEAT
seconds. Its holder is dead
- on the same machine: when the lock is free; the system releases it however the process ends;
- on another machine, or where the file system has no locks: when the counter has stood still for STALE seconds of the
  watcher's own monotonic clock. Clocks of different machines are never compared.
A dead holder's claim is taken over by creating the next generation, which one process only can. A holder that was stopped
for longer than STALE finds the newer generation in `held` and throws its work away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.log import say

BEAT = 10.0  # seconds
STALE = 180.0  # seconds: several times as long as network file systems keep file attributes (60 s by default on NFS)
POLL = (0.02, 1.0)  # seconds between two looks at a claim that is waited for: at first, at most
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass
class Claim:
    """One piece of work of this process, until it is released."""

    path: Path
    descriptor: int
    ended: threading.Event = field(default_factory=threading.Event)

    def held(self) -> bool:
        """Whether this process still has the claim: no other machine took it over while this process was stopped."""
        found = _newest(self.path.parent, self.path.stem)
        return found is not None and found == self.path

    def release(self) -> None:
        """Give the claim back; the folder goes with its last file."""
        if self.ended.is_set():
            return
        self.ended.set()
        for number in range(_number(self.path), 0, -1):  # from the newest, so that those left are numbered from 1
            fsio.discard(self.path.with_suffix(f".{number}"))
        os.close(self.descriptor)
        with contextlib.suppress(OSError):
            fsio.system.rmdir(self.path.parent)

    def beat(self) -> None:
        """Write a new number every BEAT seconds until the claim is released."""
        count = 0
        while not self.ended.wait(BEAT):
            count += 1
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, _content(count), 0)


class Claims:
    """The claims of a folder, which is created with the first one and deleted with its last file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def take(self, name: str) -> Claim | None:
        """The claim, or None while another process has it. Raises DiskError."""
        fsio.make_folder(self.folder)
        newest = _newest(self.folder, name)
        if newest is not None and not self._dead(newest):
            return None
        path = self.folder / f"{name}.{1 if newest is None else _number(newest) + 1}"
        try:
            descriptor = fsio.system.create_new(path)
        except (FileExistsError, FileNotFoundError):  # another process was faster, or removed the empty folder
            return None
        except OSError as error:
            raise fsio.disk_error(path, error) from None
        claim = Claim(path, descriptor)
        try:
            if _lock(descriptor) is False:
                return self._lost(claim)
            fsio.system.write(descriptor, _content(0))
        except OSError as error:
            claim.release()
            raise fsio.disk_error(path, error) from None
        if not claim.held():
            return self._lost(claim)
        if newest is not None:
            say(
                f"{self.folder.parent.name}: {name} is taken over from {_holder(newest)}, which ended before it was done"
            )
        threading.Thread(target=claim.beat, daemon=True, name=f"beat {name}").start()
        return claim

    @contextlib.contextmanager
    def turn(self, name: str, what: str) -> Iterator[None]:
        """Hold the claim, after waiting until no other process has it; `what` names the work in the line said meanwhile."""
        pause, said = POLL[0], False
        while (claim := self.take(name)) is None:
            holder = _newest(self.folder, name)
            if pause >= POLL[1] and not said and holder is not None:
                said = True
                say(f"waiting for {what}: {_holder(holder)} is at it")
            time.sleep(pause)
            pause = min(2 * pause, POLL[1])
        try:
            yield
        finally:
            claim.release()

    def _dead(self, path: Path) -> bool:
        """Whether the holder of a claim is dead, by the rules above."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # released meanwhile
            return False
        try:
            if (free := _lock(descriptor)) is False:
                return False
            content = os.pread(descriptor, 4096, 0)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        if free and content.split(b"\n")[0] in (b"", _machine()):
            return True
        seen, since = self._seen.get(path, (None, 0.0))
        if seen != content:
            self._seen[path] = content, time.monotonic()
            return False
        return time.monotonic() - since > STALE

    def _lost(self, claim: Claim) -> None:
        """Close a claim that another process took in the moment between its creation and its lock."""
        claim.ended.set()
        os.close(claim.descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock the file: True if done, False if another process has it locked, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _newest(folder: Path, name: str) -> Path | None:
    """The newest generation of a claim, or None if there is no claim."""
    number = 0
    while (folder / f"{name}.{number + 1}").exists():
        number += 1
    return folder / f"{name}.{number}" if number else None


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _content(beat: int) -> bytes:
    """Machine, holder, counter; of the same length at every beat."""
    return _machine() + f"\nprocess {os.getpid()} on {socket.gethostname()}\n{beat:020d}\n".encode()


def _holder(path: Path) -> str:
    try:
        return path.read_text().split("\n")[1]
    except (OSError, IndexError, UnicodeDecodeError):
        return "another process"


@cache
def _machine() -> bytes:
    """Host name and boot: two containers of one machine count as two machines."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ''}".strip().encode()
