"""Shuffling by a keyed permutation: (seed, epoch, position) → sample, without storing a permutation."""

from __future__ import annotations

import hashlib

import numpy as np

ROUNDS = 4


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
