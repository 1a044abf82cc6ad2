"""CPU time of contenders that take turns, and the row that reports a ratio against its target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved(rounds: int, contenders: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round, A/B/A/B, so that other load on the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratio_row(key: str, name: str, ratio: float, target: float, better: str, detail: str) -> dict[str, Any]:
    """One measured ratio. better: whether it should be `>=` or `<=` its target."""
    return {"id": key, "name": name, "ratio": ratio, "target": target, "better": better, "detail": detail}
