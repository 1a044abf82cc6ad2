"""What is made of a number (a batch of a step) is made by threads while the one before it is used."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], numbers: Iterable[int], threads: int = 1) -> Iterator[T]:
    """make(k) of each number in their order, one more than `threads` begun ahead; an error surfaces in its place."""
    threads = max(1, threads)
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[T]] = deque()
        try:
            for number in numbers:
                coming.append(pool.submit(make, number))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def readers() -> int:
    """How many threads may read ahead in this process: all its processors but one, and no more than eight."""
    return max(1, min(8, processors() - 1))


def processors() -> int:
    """How many processors this process may run on, which is fewer than the machine's where it is pinned."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
