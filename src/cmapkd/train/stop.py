"""Stop: signals that end a run after the current step."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stop:
    """Inside the block SIGTERM and SIGINT ask for a stop after the current step; a second one ends the process at once."""

    def __enter__(self) -> Stop:
        self.number = 0
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        return self.number != 0

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise SystemExit(128 + number)
        self.number = number
