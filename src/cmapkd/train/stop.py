"""Stop: signals that end a run after the current step."""

from __future__ import annotations

import signal
import threading
from typing import Any

from cmapkd.distributed.collectives import start_maximum
from cmapkd.distributed.group import world


class Stop:
    """Inside the block SIGTERM and SIGINT ask for a stop after the current step; a second one ends the process at once.

    number: of the signal, 0 without. In a run of several processes a signal to any of them stops all, after the step at whose
    begin all knew of it.
    """

    def __enter__(self) -> Stop:
        self.signal, self._agreed = 0, self._own
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Begin to ask the other processes, at the start of a step."""
        self._agreed = self._own if world() == 1 else start_maximum(self.signal)

    @property
    def number(self) -> int:
        return self._agreed()

    @property
    def asked(self) -> bool:
        return self.number != 0

    def _own(self) -> int:
        return self.signal

    def _ask(self, number: int, frame: object) -> None:
        if self.signal:
            raise SystemExit(128 + number)
        self.signal = number
