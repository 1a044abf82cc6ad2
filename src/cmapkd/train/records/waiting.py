"""Time that the training step waits for its batches, as a share of all time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")
RECENT = 10  # steps


class Waiting:
    """Measures the seconds that `batches` makes its user wait, as a share of all the time that passes."""

    def __init__(self) -> None:
        self.waited, self.since = 0.0, time.perf_counter()
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)

    def on(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items, with the waiting for each of them measured."""
        with closing(items):  # type: ignore[type-var]
            while True:
                asked = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                self.waited += time.perf_counter() - asked
                yield item

    def share(self) -> float:
        """Share of the time since the last call that was spent waiting."""
        now = time.perf_counter()
        self._recent.append((self.waited, now - self.since))
        waited, passed = self._recent[-1]
        self.waited, self.since = 0.0, now
        return waited / passed if passed > 0 else 0.0

    def recently(self) -> float:
        """The same share over the last calls together, weighted by their time."""
        passed = sum(seconds for _, seconds in self._recent)
        return sum(waited for waited, _ in self._recent) / passed if passed > 0 else 0.0
