"""Waiting for a condition in another process, with a limit that only a hang reaches."""

import time
from collections.abc import Callable

LIMIT = 300.0  # seconds: far more than a slow machine needs


def until(condition: Callable[[], object], seconds: float = LIMIT) -> bool:
    """Poll until the condition holds; False after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
