"""ActiveStage: a schedule at one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActiveStage:
    """The stage at one step: its levels that are on, each term's factor, the learning-rate factor, the policy's part.

    progress: share of the training that is done.
    """

    name: str
    levels: tuple[str, ...]
    factors: dict[str, float]
    lr: float
    policy: str
    trainable: str
    progress: float = 0.0
