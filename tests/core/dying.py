"""`kill -9` at a chosen primitive: a forked child works until then, and says what was acknowledged before.

Nothing is synced here, for speed: the page cache outlives a kill, and the simulator of power losses is what tests syncs.
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
    """The primitives without those that only a power loss needs."""

    fsync = staticmethod(lambda descriptor: None)
    sync_folder = staticmethod(lambda path: None)


class Dying(Unsynced):
    """Kills its process at the n-th primitive, before it is done or, if it is a write, half way through."""

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
    """How many primitives `act` takes when nothing stops it."""
    counting = fsio.system = Dying(float("inf"))
    try:
        act()
    finally:
        fsio.system = OS()
    return counting.calls


def points(total: int) -> list[int]:
    """CMAPKD_FAULTS kill points, spread over all primitives and each at most a few times."""
    rng = random.Random(POINTS)
    every = list(range(total)) * (POINTS // total + 1)
    return sorted(rng.sample(every, POINTS))


def killed(act: Callable[[], object], n: int, log: Path) -> bytes:
    """What `act` wrote to `log` (a path it knows) before it died at primitive n in a child process."""
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
