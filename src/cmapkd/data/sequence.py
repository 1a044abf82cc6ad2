"""The order in which an epoch shows its samples: at random, or shard after shard for disks that are slow at random reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.core.order import ShardOrder, permute
from cmapkd.data.columns.pictures import containers_of
from cmapkd.data.holdout import Pool
from cmapkd.data.samples import Samples

BLOCK = 1000  # images that are files of their own, in the order of the data set, are read as if in shards of this many

Order = Callable[[np.ndarray, int, int], np.ndarray]  # (positions, seed, epoch) → indices into the pool


def order_of(samples: Samples, data: DataConfig, pool: Pool | np.ndarray) -> Order:
    """The order of a pool of samples that data.order asks for; the pool must rise."""
    if data.order == "random":
        return partial(_at_random, len(pool))
    return ShardOrder(shard_bounds(samples, pool), data.window)


def shard_bounds(samples: Samples, pool: Pool | np.ndarray) -> np.ndarray:
    """int64 [shards + 1]: where in the pool each shard begins, and the length of the pool."""
    indices = pool[np.arange(len(pool))]
    containers = containers_of(samples.paths, indices)  # what a sample shares with the others of its shard
    shards = np.where(containers < 0, -1 - indices // BLOCK, containers)
    return np.concatenate([[0], 1 + np.flatnonzero(np.diff(shards)), [len(pool)]]).astype(np.int64)


def order_note(order: Order) -> str:
    """Log line of a sequential order: how far a sample may move; empty for a random order."""
    if not isinstance(order, ShardOrder):
        return ""
    shards, window = len(order.bounds) - 1, min(order.window, order.n)
    return (
        f"data.order sequential: {shards} shards in a new order each epoch, shuffled inside windows of {window} samples "
        f"(about {max(1, round(window * shards / order.n))} shards), so that a sample moves at most {window - 1} places; "
        "a larger data.window mixes better"
    )


def _at_random(n: int, positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return permute(positions, n, seed, epoch)
