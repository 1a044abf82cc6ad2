"""Score: a task's figures together with everything that says what they are figures of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

BY_TYPE = "question/"
EXTREMES = 5  # classes that are named at either end


@dataclass(frozen=True)
class ClassScore:
    """A class, how many images it has, and the share of them that was put there."""

    name: str
    images: int
    acc1: float


@dataclass(frozen=True)
class Score:
    """metrics: fractions in [0, 1], except the median ranks. n_captions is 0 where captions play no part.

    fingerprint: of the data, its first 12 digits are shown. checkpoint: of the evaluated weights, empty when the
    caller knows none. per_class: of the classes that occur, where the task has classes.
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
        return {**asdict(self), "notes": list(self.notes)}


def format_metric(name: str, value: float) -> str:
    """Fractions as percentages with two decimals, median ranks as they are."""
    return f"{value:g}" if name.endswith("medr") else f"{100 * value:.2f} %"
