"""The order in which an epoch shows its samples: at random, or shard after shard for disks that are slow at random reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.core.order import ShardOrder, permute
from cmapkd.data.samples import Samples
from cmapkd.data.stored import Picture, Region

BLOCK = 1000  # images that are files of their own, in the order of the data set, are read as if in shards of this many

Order = Callable[[np.ndarray, int, int], np.ndarray]  # (positions, seed, epoch) → indices into the pool


def order_of(samples: Samples, data: DataConfig, pool: np.ndarray) -> Order:
    """The order of a pool of samples that data.order asks for; the pool must rise."""
    if data.order == "random":
        return partial(_at_random, len(pool))
    return ShardOrder(shard_bounds(samples, pool), data.window)


def shard_bounds(samples: Samples, pool: np.ndarray) -> np.ndarray:
    """int64 [shards + 1]: where in the pool each shard begins, and the length of the pool."""
    shards = [_shard(samples.paths[k], k) for k in pool.tolist()]
    new = [k for k in range(1, len(shards)) if shards[k] != shards[k - 1]]
    return np.array([0, *new, len(shards)], np.int64)


def order_note(order: Order) -> str:
    """What a sequential order does to the samples, in one line; empty for a random order."""
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


def _shard(picture: Picture, sample: int) -> object:
    """What a sample shares with the others of its shard: the file that contains them, or the block of its number."""
    if isinstance(picture, Path | Region):
        return sample // BLOCK
    return getattr(picture, "path", None) or sample // BLOCK
