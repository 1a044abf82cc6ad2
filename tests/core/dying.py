"""Simulated `kill -9`: a forked child dies at a chosen system call, and its log tells what was acknowledged before.

Nothing is synced here, for speed: the page cache survives a kill, and syncs are tested by the model of power losses.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.primitives import OS

OPERATIONS = {name for name in vars(OS) if not name.startswith("_")}
POINTS = int(os.environ.get("CMAPKD_FAULTS", "30"))


class Unsynced(OS):
    """The system calls without syncs, which matter for a power loss only."""

    fsync = staticmethod(lambda descriptor: None)
    sync_folder = staticmethod(lambda path: None)


class Dying(Unsynced):
    """Kills its process at the n-th system call: before the call or, for a write, half way through it."""

    def __init__(self, n: float) -> None:
        self.n, self.calls = n, 0

    def __getattribute__(self, name):
        real = object.__getattribute__(self, name)
        if name not in OPERATIONS:
            return real

        def call(*args):
            self.calls += 1
            if self.calls > self.n:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call


def primitives_of(act: Callable[[], object]) -> int:
    """The number of system calls of a whole run of `act`."""
    counting = fsio.system = Dying(float("inf"))
    try:
        act()
    finally:
        fsio.system = OS()
    return counting.calls


def points(total: int) -> list[int]:
    """CMAPKD_FAULTS points at which to kill, spread over all system calls."""
    rng = random.Random(POINTS)
    every = list(range(total)) * (POINTS // total + 1)
    return sorted(rng.sample(every, POINTS))


def killed(act: Callable[[], object], n: int, log: Path) -> bytes:
    """The content of `log`, to which `act` writes, after a child process died at system call n."""
    log.write_bytes(b"")
    pid = os.fork()
    if pid == 0:
        fsio.system = Dying(n)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the child was to die"
    return log.read_bytes()
