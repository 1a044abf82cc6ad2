"""Section, the base of every config section, and the number types that sections share. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Level = Literal["P2", "P3", "P4", "P5", "L1", "L2", "L3", "L4"]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Decay = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
Weight = Annotated[float, Meta(ge=0.0)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys with their types and rules; `__post_init__` raises ValueError for keys that contradict each other."""
