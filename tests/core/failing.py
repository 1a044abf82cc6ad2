"""Injected failures: every system call of a durable write fails once, in turn."""

from __future__ import annotations

import os

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.core.primitives import OS
from tests.core.dying import OPERATIONS, Unsynced


class Failing(Unsynced):
    """Fails the n-th system call with an errno; a failed write has written a part."""

    def __init__(self, n: int, number: int) -> None:
        self.left, self.number, self.failed = n, number, False

    def __getattribute__(self, name):
        real = object.__getattribute__(self, name)
        if name not in OPERATIONS:
            return real

        def call(*args):
            if self.failed or self.left > 0:
                self.left -= 1
                return real(*args)
            self.failed = True
            if name == "write":
                real(args[0], args[1][:3])
            if name == "close":
                real(*args)
            raise OSError(self.number, os.strerror(self.number))

        return call


def every_failure(monkeypatch, number, act):
    """Run `act` with its first, second, … system call failing; yields the error of each run, until none fails."""
    for n in range(1000):
        failing = Failing(n, number)
        monkeypatch.setattr(fsio, "system", failing)
        try:
            act()
            error = None
        except DiskError as raised:
            error = raised
        monkeypatch.setattr(fsio, "system", Unsynced())
        yield error
        if not failing.failed:
            assert n >= 3
            monkeypatch.setattr(fsio, "system", OS())
            return
