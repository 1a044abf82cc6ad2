"""Heartbeat: threads that tell the other processes of a run that this one is alive, and notice those that are silent.

Each process writes a growing count into the store of the run twice a second. A process whose count stands still for longer
than the timeout is lost: killed, stopped, or cut off. Clocks of different machines are never compared. The store may stop
answering with the process that keeps it, so that only one thread talks to it and nobody waits for that thread.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from torch.distributed import Store

from cmapkd.core.errors import CmapkdError, PeerLostError, error_of

EVERY = 0.5  # seconds
GRACE = 10.0  # after the timeout: for the main thread to end by itself before the process is ended
SILENT = 4.0  # seconds without a beat after which a broken connection is put down to a process
PATIENCE = 3.0  # for words to a store that may not answer
WAY_OUT = "what was saved is intact: mend or replace it, and repeat the command with --resume"


class Heartbeat:
    """Beats of `rank` among `world` processes. timeout: seconds without a beat after which a process is lost.

    entered: number of collectives that this process has begun; all processes begin the same ones.
    """

    def __init__(self, store: Store, rank: int, world: int, timeout: float) -> None:
        self.store, self.rank, self.world, self.timeout, self.entered = store, rank, world, timeout, 0
        self._count, self._ended = 0, threading.Event()
        self._left: set[int] = set()
        self._faults: dict[int, CmapkdError] = {}
        self._beat()
        store.set(f"name/{rank}", f"rank {rank} (process {os.getpid()} on {socket.gethostname()})")
        self.names = {other: store.get(f"name/{other}").decode() for other in range(world)}  # waits for the others
        now = time.monotonic()
        self._seen = {other: ("", now) for other in range(world) if other != rank}
        self._answered = now
        for work in (self._talk, self._watch):
            threading.Thread(target=work, name=f"heartbeat{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """End the threads; the others know that this process left and is not lost."""
        self._patiently(lambda: self.store.set(f"left/{self.rank}", ""))
        self._ended.set()

    def everyone_left(self) -> bool:
        """Whether all other processes have left."""
        return len(self._left) == self.world - 1

    def tell(self, error: BaseException) -> None:
        """Let the others know why this process ends."""
        code = error.code if isinstance(error, CmapkdError | SystemExit) else 1
        text = json.dumps([code or 1, str(error) or type(error).__name__])
        self._patiently(lambda: self.store.set(f"fault/{self.rank}", text))

    def said_by_first(self, error: BaseException) -> bool:
        """Whether rank 0 ends, within a moment, with the same error, and so says it for all."""
        until, same = time.monotonic() + 4 * EVERY, f"{self.names[0]}: {error}"
        while self.rank and time.monotonic() < until:
            if 0 in self._faults:
                return str(self._faults[0]) == same
            time.sleep(0.05)
        return False

    def silent(self, seconds: float) -> list[int]:
        """The ranks without a beat for so long; rank 0, which keeps the store, where that does not answer."""
        now = time.monotonic()
        if now - self._answered > seconds:
            return [0] if self.rank else []
        return [k for k, (_, when) in self._seen.items() if now - when > seconds and k not in self._left]

    def fault(self) -> CmapkdError | None:
        """The error with which another process ended, as an error of its kind that names the rank."""
        return next(iter(self._faults.values()), None)

    def why(self, reason: str) -> CmapkdError:
        """The error for a connection that broke, or a wait that took too long: it names the process that is lost.

        A process that ended with an error of its own has told it; one that was killed is silent soon; one that hangs, but
        lives, has begun fewer collectives than this one.
        """
        until = time.monotonic() + SILENT + 2 * EVERY
        while time.monotonic() < until:
            if (fault := self.fault()) is not None:
                return fault
            if lost := self.silent(SILENT):
                return self.lost(lost)
            time.sleep(0.1)
        behind = [k for k, (beat, _) in self._seen.items() if int(beat.partition(":")[2] or 0) < self.entered]
        return self.lost(behind, f"no answer within {self.timeout:g} s: {reason}")

    def lost(self, ranks: list[int], how: str = "killed, hanging, or cut off: no sign of life") -> PeerLostError:
        who = ", ".join(self.names[rank] for rank in ranks) or "a process of this run"
        return PeerLostError(f"{who} was lost ({how}); {WAY_OUT}")

    def _beat(self) -> None:
        self._count += 1
        self.store.set(f"beat/{self.rank}", f"{self._count}:{self.entered}")

    def _talk(self) -> None:
        """Beat, and read the others' beats, until the end."""
        while not self._ended.wait(EVERY):
            try:
                self._beat()
                self._look()
            except RuntimeError:
                continue  # the store does not answer: `silent` counts for how long

    def _look(self) -> None:
        for other in self._seen:
            beat = self.store.get(f"beat/{other}").decode()
            if self._seen[other][0] != beat:
                self._seen[other] = beat, time.monotonic()
            if self.store.check([f"left/{other}"]):
                self._left.add(other)
            if other not in self._faults and self.store.check([f"fault/{other}"]):
                code, text = json.loads(self.store.get(f"fault/{other}"))
                self._faults[other] = error_of(int(code), f"{self.names[other]}: {text}")
                self._faults[other].told = True
        self._answered = time.monotonic()

    def _watch(self) -> None:
        """End the process where its main thread waits in vain for a lost one; stop the run where its starter is gone."""
        parent = os.getppid()
        while not self._ended.wait(EVERY):
            if parent not in (0, os.getppid()):
                parent = 0
                os.kill(os.getpid(), signal.SIGTERM)
            if lost := self.silent(self.timeout + GRACE):
                os.write(2, f"error: {self.lost(lost)}\n".encode())
                os._exit(PeerLostError.code)

    def _patiently(self, say: Callable[[], None]) -> None:
        """Say it to the store from a thread of its own, and wait for it a moment."""
        thread = threading.Thread(target=lambda: self._try(say), daemon=True)
        thread.start()
        thread.join(PATIENCE)

    @staticmethod
    def _try(say: Callable[[], None]) -> None:
        try:
            say()
        except RuntimeError:
            return
