"""Method: a named, weighted list of terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cmapkd.config.schema import StageConfig


@dataclass(frozen=True)
class Method:
    """Terms with their numbers, and how the student begins and trains.

    weights: each term's fixed weight. share: the target ratio of a term's trunk gradient to the final terms';
    where a share stands, the weight is only the term's first weight, until it is calibrated.
    stages: the method's own schedule, where it has one; a schedule in the config replaces it. student: a frozen one
    stays as it was pre-trained, and only the terms' modules learn. served: the term (a ServedTerm) whose result is more
    than the student. start: whether the student inherits from the teacher: as the config says, never (`random`), or
    always (`inherited`).
    """

    weights: dict[str, float]
    share: dict[str, float] = field(default_factory=dict)
    about: str = ""
    stages: tuple[StageConfig, ...] = ()
    student: Literal["trained", "frozen"] = "trained"
    served: str | None = None
    start: Literal["config", "random", "inherited"] = "config"

    def inherits(self, asked: bool) -> bool:
        """Whether the student begins from the teacher's weights, where the config asks for it or not."""
        return self.start == "inherited" or (asked and self.start == "config")
