"""The held-out slice of the train split: for policies that learn, and as validation when a setting is tuned."""

from __future__ import annotations

import numpy as np

from cmapkd.core.order import permute

HOLDOUT = "holdout"  # as data.val: validate on the slice that data.holdout keeps from training


def split_holdout(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(training pool, held-out slice) of sample indices, by a fixed keyed permutation; disjoint, train split only."""
    order = permute(np.arange(n), n, 0, 0)
    cut = n - round(share * n)
    return np.sort(order[:cut]), np.sort(order[cut:])
