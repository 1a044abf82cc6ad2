"""Necks of a student that inherits begin as least-squares maps, for it says most of what the teacher says from the start.

While an adapter knows nothing, the gradient that it sends into the trunk is noise, scaled up to the share that its term is
due. A trunk at random loses little by that and an adapter fitted to it holds it back; one that is inherited is spoilt
(docs/LOG.md has both measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, Teaching
from cmapkd.pyramid.resample import both_axes, sample_at
from cmapkd.pyramid.targets import SPATIAL
from cmapkd.towers.dual import evaluating
from cmapkd.train.learner import Learner
from cmapkd.train.step import slice_teaching, take

CHUNK, STRENGTH = 64, 0.01


class Fit:
    """Streaming normal equations of W, minimising ‖xW − y‖² + STRENGTH · mean-square · n · ‖W‖²; no constant, for y is centred."""

    def __init__(self) -> None:
        self.gram: Tensor | float = 0.0
        self.cross: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows x [..., d] and y [..., e], as many of each."""
        x, y = x.flatten(0, -2).double(), y.flatten(0, -2).double()
        self.gram, self.cross = self.gram + x.T @ x, self.cross + x.T @ y

    def weight(self) -> Tensor:
        """[e, d], as nn.Linear has it."""
        assert isinstance(self.gram, Tensor)
        damped = self.gram + STRENGTH * self.gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(self.gram)).to(
            self.gram
        )
        return torch.linalg.solve(damped, self.cross).T


@torch.no_grad()
def fit_necks(learner: Learner, lessons: Iterable[tuple[Batch, Teaching]]) -> None:
    """Set adapters, bridge heads and projectors to the ridge maps from the student as it is to the teacher, on a few batches."""
    necks = learner.necks
    assert necks is not None
    fits: dict[Any, Fit] = {}

    def add(linear: Any, x: Tensor, y: Tensor) -> None:
        fits.setdefault(linear, Fit()).add(x, y)

    with evaluating(learner.student):
        for batch, whole in lessons:
            for rows in torch.arange(len(batch)).split(CHUNK):
                features, teaching = learner.student(take(batch.student, rows)), slice_teaching(whole, rows)
                assert teaching is not None
                for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
                    for name, raw, mask in zip(names, part.levels, part.masks, strict=True):
                        if name in necks.adapters and name in teaching.levels:
                            norm, linear = necks.adapters[name].children()
                            add(linear, *_compared(learner, name, norm(raw), mask, teaching))
                for heads, part, goal in (
                    (necks.v2l, features.image, teaching.bridge.image), (necks.l2v, features.text, teaching.bridge.text),
                ):  # fmt: skip
                    for k, (norm, linear) in enumerate(head.children() for head in heads.values()):
                        add(linear, norm(part.pooled[k]), goal[:, k])
                for linear, part, goal in zip(
                    necks.project,
                    (features.image, features.text),
                    (teaching.final.image, teaching.final.text),
                    strict=False,
                ):
                    add(linear, part.final, goal)
    for linear, fit in fits.items():
        linear.weight.copy_(fit.weight())
        nn.init.zeros_(linear.bias)


def _compared(learner: Learner, name: str, x: Tensor, mask: Tensor | None, teaching: Teaching) -> tuple[Tensor, Tensor]:
    """The student's normed tokens and the teacher's targets of a level as its error compares them, row by row."""
    target = teaching.levels[name]
    if teaching.places is not None and name in SPATIAL:
        return sample_at(x, teaching.places, teaching.side), target
    if (grid := learner.geometry.get(name)) is None:
        theirs = teaching.masks.get(name)
        both = mask if theirs is None else theirs if mask is None else mask & theirs
        return (x, target) if both is None else (x[both], target[both])
    extra = 2 if name == "P5" else 0  # tokens beside the map
    maps = (
        both_axes(grid.left, x[:, : x.shape[1] - extra]),
        both_axes(grid.target, target[:, : target.shape[1] - extra]),
    )
    beside = (x[:, x.shape[1] - extra :], target[:, target.shape[1] - extra :])
    mine, theirs = (torch.cat([m.flatten(0, 2), b.flatten(0, 1)]) for m, b in zip(maps, beside, strict=True))
    return mine, theirs
