"""Ordered prefetch on threads: later items are computed while the current one is used."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int = 1, depth: int | None = None
) -> Generator[Made, None, None]:
    """Yield make(item) for each item in order, while threads compute the next `depth` of them (default: one per thread).

    An error in make(item) is raised when that item is due. Closing the iterator early cancels what has not begun and waits
    for what has.
    """
    threads = max(1, threads)
    depth = threads if depth is None else depth
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[Made]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def reader_threads() -> int:
    """Number of threads for reading files: this process's share of the processors but one, at most eight."""
    return max(1, min(8, processor_share() - 1))


def processor_share() -> int:
    """Number of processors for this process, where several processes of a run (LOCAL_WORLD_SIZE) share the machine."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, processors() // max(1, int(local) if local.isdecimal() else 1))


def processors() -> int:
    """Number of processors this process may run on; fewer than the machine has when the process is pinned."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
