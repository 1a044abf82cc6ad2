"""Means, 95 % t-intervals, and differences that pair by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half-width of the 95 % t-interval); the half-width of one value is NaN."""
    if len(values) < 2:
        return values[0], math.nan
    quantile = T95[min(len(values) - 2, len(T95) - 1)]
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean difference a − b over paired seeds and its 95 % half-width."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


def differ(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the paired 95 % interval of a − b excludes 0; never with one seed."""
    value, half = paired(a, b)
    return not math.isnan(half) and abs(value) > half
