"""Holding out a share of data that has one split only: for policies that learn, for tuning, and for trained heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from cmapkd.core.errors import DataError
from cmapkd.core.order import permute
from cmapkd.data.boxes import Boxes
from cmapkd.data.questions import Questions
from cmapkd.data.samples import Samples

Data = TypeVar("Data", Samples, Questions, Boxes)


def split_holdout(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(training indices, held-out indices) of n samples, by a fixed keyed permutation."""
    order = permute(np.arange(n), n, 0, 0)
    cut = n - round(share * n)
    return np.sort(order[:cut]), np.sort(order[cut:])


def hold_out(data: Data, share: float) -> tuple[Data, Data]:
    """(the rest, the held-out share of the images with all that belongs to them); always the same images.

    Raises DataError where one of the two would be empty.
    """
    keys: tuple[Any, ...] = data.ids if isinstance(data, Samples) else data.image_ids
    distinct = list(dict.fromkeys(keys))
    held = {distinct[i] for i in split_holdout(len(distinct), share)[1].tolist()}
    if not 0 < len(held) < len(distinct):
        raise DataError(
            f"{data.name}: a share of {share:g} of its {len(distinct)} images leaves nothing to train on or to score; "
            "give another share or more images"
        )
    inside = np.array([key in held for key in keys])
    rest, kept = (data.subset(np.flatnonzero(which)) for which in (~inside, inside))
    words = f"held-out {share:.0%} of the images"
    return replace(rest, name=f"{data.name} without the {words}"), replace(kept, name=f"{data.name}, {words}")
