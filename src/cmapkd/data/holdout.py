"""Holding out a share of data that has one split only: for policies that learn, for tuning, and for trained heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from cmapkd.core.errors import DataError
from cmapkd.core.order import permute
from cmapkd.data.boxes import Boxes
from cmapkd.data.questions import Questions
from cmapkd.data.samples import Samples

Data = TypeVar("Data", Samples, Questions, Boxes)


class Pool:
    """The numbers 0 ≤ i < n without some, in order; each is computed when it is asked for. without: int64 [k], sorted."""

    def __init__(self, n: int, without: np.ndarray | None = None) -> None:
        self.n, self.without = n, np.empty(0, np.int64) if without is None else without
        self._before = self.without - np.arange(len(self.without))  # numbers of the pool before each that is left out

    def __len__(self) -> int:
        return self.n - len(self.without)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """The numbers at these positions, int64 [m] from 0 to len(pool) - 1."""
        return positions + np.searchsorted(self._before, positions, side="right")

    def __iter__(self) -> Iterator[int]:
        return iter(self[np.arange(len(self))].tolist())


def split_holdout(n: int, share: float) -> tuple[Pool, np.ndarray]:
    """(training indices, held-out indices) of n samples, by a fixed keyed permutation."""
    held = np.sort(permute(np.arange(n - round(share * n), n), n, 0, 0))
    return Pool(n, held), held


def hold_out(data: Data, share: float) -> tuple[Data, Data]:
    """(the rest, the held-out share of the images with all that belongs to them); always the same images.

    Raises DataError where one of the two would be empty.
    """
    numbers = np.arange(len(data)) if isinstance(data, Samples) else _numbered(data.image_ids)
    images = int(numbers.max(initial=-1)) + 1
    held = split_holdout(images, share)[1]
    if not 0 < len(held) < images:
        raise DataError(
            f"{data.name}: a share of {share:g} of its {images} images leaves nothing to train on or to score; "
            "give another share or more images"
        )
    inside = np.zeros(images, bool)
    inside[held] = True
    inside = inside[numbers]
    rest, kept = (data.subset(np.flatnonzero(which)) for which in (~inside, inside))
    words = f"held-out {share:.0%} of the images"
    return replace(rest, name=f"{data.name} without the {words}"), replace(kept, name=f"{data.name}, {words}")


def _numbered(keys: Sequence[int]) -> np.ndarray:
    """int64 [n]: the number of each key, counted from 0 in the order in which different keys come first."""
    known: dict[int, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
