"""Score: a task's figures with their provenance: data, split, counts, protocol and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

BY_TYPE = "question/"
EXTREMES = 5  # classes that are named at either end
CORRELATIONS = ("pearson", "spearman")


@dataclass(frozen=True)
class ClassScore:
    """A class, its number of images, and the share of them that was classified right."""

    name: str
    images: int
    acc1: float


@dataclass(frozen=True)
class Score:
    """metrics: fractions in [0, 1], except median ranks and correlations; NaN where the data cannot give one.

    n_captions is 0 where captions play no part. fingerprint: of the data; its first 12 digits are shown.
    checkpoint: of the evaluated weights, empty when unknown. per_class: of the classes that occur, if the task has any.
    """

    task: str
    protocol: str
    metrics: dict[str, float]
    split: str
    n_images: int
    n_captions: int
    fingerprint: str
    checkpoint: str = ""
    notes: tuple[str, ...] = field(default=())
    per_class: tuple[ClassScore, ...] = field(default=())

    def provenance(self) -> str:
        """Split, counts, fingerprint, checkpoint and protocol, in words."""
        parts = [f"{self.task} ({self.protocol})", self.split, f"{self.n_images} images"]
        if self.n_captions:
            parts.append(f"{self.n_captions} captions")
        parts.append(f"data {self.fingerprint[:12]}")
        if self.checkpoint:
            parts.append(f"checkpoint {self.checkpoint}")
        return " · ".join([*parts, *self.notes])

    def line(self) -> str:
        """The figures with their provenance on one line; those of the question types, 65 in VQA v2, are counted only."""
        shown = {name: value for name, value in self.metrics.items() if not name.startswith(BY_TYPE)}
        figures = [f"{name} {format_metric(name, value)}" for name, value in shown.items()]
        if hidden := len(self.metrics) - len(shown):
            figures.append(f"and {hidden} question types in the JSON")
        return f"{self.provenance()}: {', '.join(figures)}"

    def extremes(self) -> list[str]:
        """Two lines, the worst and the best classes; none where the task has no classes."""
        ordered = sorted(self.per_class, key=lambda each: each.acc1)
        ends = (("worst", ordered[:EXTREMES]), ("best", ordered[: -EXTREMES - 1 : -1]))
        return [
            f"{self.task}, {end} classes: " + ", ".join(f"{c.name} {100 * c.acc1:.1f} % of {c.images}" for c in classes)
            for end, classes in ends
            if classes
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return {**asdict(self), "metrics": without_nan(self.metrics), "notes": list(self.notes)}


def format_metric(name: str, value: float) -> str:
    """Fractions as percentages with two decimals, median ranks and correlations as they are, NaN as `none`."""
    if math.isnan(value):
        return "none"
    if name in CORRELATIONS:
        return f"{value:.3f}"
    return f"{value:g}" if name.endswith("medr") else f"{100 * value:.2f} %"


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """NaN as None, since JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}
