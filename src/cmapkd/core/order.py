"""Shuffling by keyed permutations: (seed, epoch, position) → sample, without storing a permutation of the samples."""

from __future__ import annotations

import hashlib

import numpy as np

ROUNDS = 4
SHARDS, WINDOW = 13, 17  # hash keys: the orders of shards and inside windows are independent of other draws


def keyed_hash(seed: int, *values: int) -> int:
    """A stable 64-bit hash of integers, the same on every machine and in every version."""
    text = ",".join(str(int(value)) for value in (seed, *values)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def permute(indices: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """The images of positions 0 ≤ i < n under a keyed permutation of 0..n-1 (Feistel network with cycle walking)."""
    half, keys = _rounds(n, seed, epoch)
    out = _feistel(indices.astype(np.uint64), half, keys)
    while (outside := out >= n).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def positions(images: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """The positions that `permute` maps to these images: its inverse."""
    half, keys = _rounds(n, seed, epoch)
    out = _feistel_back(images.astype(np.uint64), half, keys)
    while (outside := out >= n).any():
        out[outside] = _feistel_back(out[outside], half, keys)
    return out.astype(np.int64)


def _rounds(n: int, seed: int, epoch: int) -> tuple[int, list[np.uint64]]:
    """(bits of a half, keys of the rounds)."""
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    return half, [np.uint64(keyed_hash(seed, epoch, r)) for r in range(ROUNDS)]


def fingerprint(columns: np.ndarray, first: int = 0, of: int = 1) -> int:
    """64-bit fingerprint of the rows of int64 [n, k] in their order; the rows are those of number first, first + of, … of a whole.

    The fingerprints of the parts of a whole add up, modulo 2^64, to its own.
    """
    state = _mix(np.arange(first, first + of * len(columns), of, dtype=np.uint64))
    for column in columns.astype(np.int64).view(np.uint64).T:
        state = _mix(state ^ column)
    return int(state.sum(dtype=np.uint64))


def _feistel(x: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = x >> np.uint64(half), x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << np.uint64(half)) | right


def _feistel_back(x: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = x >> np.uint64(half), x & mask
    for key in reversed(keys):
        left, right = right ^ (_mix(left ^ key) & mask), left
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, in which every output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class ShardOrder:
    """An order of samples that lie in shards: shards in a keyed order, then a keyed shuffle inside windows of that sequence.

    bounds: int64 [shards + 1], the first sample of each shard, and the number of samples. A sample comes less than `window`
    places from its place in the sequence of whole shards; every epoch shows each sample once, and any position is
    computed alone.
    """

    def __init__(self, bounds: np.ndarray, window: int) -> None:
        self.bounds, self.window, self.n = bounds, window, int(bounds[-1])
        self._sequences: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The samples at positions 0 ≤ i < n of an epoch."""
        places = positions.astype(np.int64).copy()
        for number in np.unique(positions // self.window).tolist():
            inside, first = positions // self.window == number, number * self.window
            length = min(self.window, self.n - first)
            places[inside] = first + permute(positions[inside] - first, length, keyed_hash(seed, epoch, number), WINDOW)
        shards, ends = self._sequence(seed, epoch)
        at = np.searchsorted(ends, places, side="right")
        left = ends[at] - places  # samples of the shard from this one to its end
        return self.bounds[shards[at] + 1] - left

    def shards_of(self, window: int, seed: int, epoch: int) -> np.ndarray:
        """The first sample of each shard that a window of an epoch touches, in the order of the sequence."""
        shards, ends = self._sequence(seed, epoch)
        first, last = window * self.window, min((window + 1) * self.window, self.n) - 1
        begin, end = np.searchsorted(ends, [first, last], side="right")
        return self.bounds[shards[begin : end + 1]]

    def _sequence(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(shards in the order of an epoch, the end of each in that sequence); those of the last epochs are kept."""
        if (found := self._sequences.get((seed, epoch))) is None:
            count = len(self.bounds) - 1
            shards = permute(np.arange(count), count, keyed_hash(seed, epoch), SHARDS)
            found = shards, np.cumsum(np.diff(self.bounds)[shards])
            self._sequences = {**dict(list(self._sequences.items())[-1:]), (seed, epoch): found}
        return found
