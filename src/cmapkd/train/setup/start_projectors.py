"""Projectors of a student that inherits begin as least-squares maps, since such a student knows the teacher's features from the start.

While an adapter knows nothing, the gradient that it sends into the trunk is noise, scaled up to the gradient ratio of its
term. A trunk at random loses little by that and an adapter fitted to it holds it back; one that is inherited is spoilt
(docs/LOG.md has both measured).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.tree import rows
from cmapkd.core.types import IMAGE_LEVELS, SIDES, TEXT_LEVELS, Batch, Features, Pair, TeacherOutputs, Tokens
from cmapkd.distributed.collectives import sum_
from cmapkd.towers.dual import evaluating
from cmapkd.train.learner import Learner

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

    def join(self) -> None:
        """Take in the rows of the other processes."""
        assert isinstance(self.gram, Tensor) and isinstance(self.cross, Tensor)
        sum_([self.gram, self.cross])

    def weight(self) -> Tensor:
        """[e, d], as nn.Linear has it."""
        assert isinstance(self.gram, Tensor)
        damped = self.gram + STRENGTH * self.gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(self.gram)).to(
            self.gram
        )
        return torch.linalg.solve(damped, self.cross).T


@torch.no_grad()
def fit_projectors(learner: Learner, batches: Iterable[tuple[Batch, TeacherOutputs]]) -> None:
    """Set adapters, bridge heads and projectors to the ridge maps from the student as it is to the teacher, on a few batches."""
    fits: dict[Any, Fit] = {}
    with evaluating(learner.student):
        for batch, whole in batches:
            for piece in torch.arange(len(batch)).split(CHUNK):
                inputs, teacher = rows((batch.student, whole), piece)
                for linear, x, y in _pairs(learner, learner.student(inputs), teacher):
                    fits.setdefault(linear, Fit()).add(x, y)
    for linear, fit in fits.items():
        fit.join()
        linear.weight.copy_(fit.weight())
        nn.init.zeros_(linear.bias)


def _pairs(
    learner: Learner, features: Pair[Features], teacher: TeacherOutputs
) -> Iterator[tuple[nn.Linear, Tensor, Tensor]]:
    """(a linear map to fit, its inputs, its targets) of every adapter, bridge head and embedding projector."""
    projectors, bridge = learner.projectors, teacher.bridge
    assert projectors is not None
    for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
        for name, raw, mask in zip(names, part.levels, part.masks, strict=False):
            if name in projectors.adapters and name in teacher.levels:
                norm, linear = projectors.adapters[name].children()
                match = learner.errors.matches[name]
                yield linear, *match.paired(Tokens(norm(raw), mask), teacher.levels[name])  # type: ignore[misc]
    if bridge is not None:
        heads = ((IMAGE_LEVELS, projectors.v2l, features.image, bridge.image),
                 (TEXT_LEVELS, projectors.l2v, features.text, bridge.text))  # fmt: skip
        for names, modules, part, goal in heads:
            for name, head in modules.items():
                norm, linear = head.children()
                k = names.index(name)
                yield linear, norm(part.pooled[k]), goal[:, k]  # type: ignore[misc]
    finals = features.zip(teacher.final)
    for linear, side in zip(projectors.project, SIDES, strict=False):
        part, goal = finals.of(side)
        if side in teacher.sides:
            yield linear, part.final, goal  # type: ignore[misc]
