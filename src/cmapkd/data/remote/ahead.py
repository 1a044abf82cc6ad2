"""Fetches the shards of the next window while the current one is trained on, so that no step waits for a download."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cmapkd.core.errors import CmapkdError
from cmapkd.core.order import ShardOrder
from cmapkd.data.holdout import Pool
from cmapkd.data.remote.member import RemoteMember
from cmapkd.data.samples import Samples
from cmapkd.data.sequence import Order

AT_ONCE = 2  # downloads


class Ahead:
    """Downloads in the order in which windows will need their shards; does nothing for other data and other orders."""

    def __init__(self, samples: Samples, pool: Pool | np.ndarray, order: Order, seed: int) -> None:
        self.samples, self.pool, self.seed = samples, pool, seed
        remote = isinstance(samples.paths[int(pool[np.zeros(1, np.int64)][0])], RemoteMember)
        self.order = order if remote and isinstance(order, ShardOrder) else None
        self.window = -1
        self._threads: ThreadPoolExecutor | None = None
        self._coming: list[Future[None]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Ahead]:
        """Inside the block shards may be fetched; leaving it drops what has not begun, and waits for what has."""
        if self.order is None:
            yield self
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ahead") as self._threads:
            try:
                yield self
            finally:
                for future in self._coming:
                    future.cancel()

    def at(self, position: int, epoch: int) -> None:
        """Training has come to a position of an epoch: at each new window, the shards of the next one are fetched."""
        if self.order is None or self._threads is None:
            return
        per_epoch = -(-self.order.n // self.order.window)
        window = epoch * per_epoch + position // self.order.window
        if window <= self.window:
            return
        self.window = window
        later, number = divmod(window + 1, per_epoch)
        for first in self.order.shards_of(number, self.seed, later).tolist():
            member = self.samples.paths[int(self.pool[np.array([first])][0])]
            if isinstance(member, RemoteMember):
                self._coming.append(self._threads.submit(_fetch, member))


def _fetch(member: RemoteMember) -> None:
    """A failure is not told here: the step that needs the shard asks for it again, and tells it."""
    with contextlib.suppress(CmapkdError):
        member.fetch()
