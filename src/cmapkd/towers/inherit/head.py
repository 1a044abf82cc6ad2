"""Head: what a tower does to its pooled vector, a projection and perhaps hidden layers before it; fitted by least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.towers.inherit.maps import STRENGTH, folded, through_origin
from cmapkd.towers.inherit.parts import Affine

Layer = tuple[nn.Linear, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Head:
    """hidden: linear maps, each with its activation, as in the pooler of a BERT; weight [k, E], bias [E]: views of the
    projection, None without one, when the embedding is the pooled vector or the last activation itself."""

    hidden: tuple[Layer, ...] = ()
    weight: Tensor | None = None
    bias: Tensor | None = None


def head_of(modules: list[nn.Module | None]) -> Head | None:
    """The head of linear maps and activations in their order; identities and dropout do nothing. None for any other."""
    steps = [m for m in modules if m is not None and not isinstance(m, nn.Identity | nn.Dropout)]
    hidden = []
    while len(steps) > 1 and isinstance(steps[0], nn.Linear) and not isinstance(steps[1], nn.Linear):
        hidden.append((steps[0], steps[1]))
        steps = steps[2:]
    if len(steps) > 1 or not all(isinstance(step, nn.Linear) for step in steps):
        return None
    if not steps:
        return Head(tuple(hidden))
    last = steps[0]
    return Head(tuple(hidden), last.weight.detach().T, None if last.bias is None else last.bias.detach())  # type: ignore[union-attr, operator]


def unfit(mine: Head, theirs: Head, widths: tuple[int, int], exact: bool) -> str:
    """The reason why a student's head cannot be fitted, empty where it can.

    widths: of the blocks of student and teacher; exact: whether a stream of the teacher's width keeps its channels.
    """
    if len(mine.hidden) not in (0, len(theirs.hidden)):
        return "its head has hidden layers that the teacher's has not; use a linear projection"
    if mine.weight is None and not (exact and theirs.weight is None and widths[0] == widths[1]):
        return "it has no projection of its pooled vector that could be fitted; give it a linear one"
    return ""


def fit_head(
    mine: Head, theirs: Head, pooled: Tensor, their_pooled: Tensor | None, end: Tensor, norm: nn.LayerNorm | None
) -> None:
    """Fit a head to final embeddings [n, E]; a constant that no bias can hold goes into the last norm's bias, the smallest
    that gives it.

    pooled, their_pooled: the pooled vectors of both towers, [n, k] and [n, D]; norm: the student's last norm, at 1 and 0,
    where all between it and the projection is linear; None where the pooled vectors have a mean of their own.
    """
    for index, (linear, act) in enumerate(mine.hidden):
        assert their_pooled is not None
        pooled, their_pooled = _fit_hidden(linear, act, theirs, index, pooled, their_pooled)
    if mine.weight is None:
        return
    if mine.bias is None and (mine.hidden or norm is None):
        mine.weight.copy_(through_origin(pooled, end))
        return
    weight, constant = ridge(pooled, end, STRENGTH)
    mine.weight.copy_(weight)
    if mine.bias is not None:
        mine.bias.copy_(constant)
    elif norm is not None:
        norm.bias.add_((torch.linalg.pinv(weight.T.double(), rtol=1e-2) @ constant.double()).to(norm.bias))


def _fit_hidden(
    linear: nn.Linear, act: Callable[[Tensor], Tensor], theirs: Head, index: int, pooled: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Copy the teacher's most important hidden channels, in their order; returns both towers' activations."""
    source, theirs_act = theirs.hidden[index]
    active = theirs_act(source(wanted))
    after = theirs.hidden[index + 1][0].weight.T if index + 1 < len(theirs.hidden) else theirs.weight
    importance = active.square().mean(0).sqrt() * (1 if after is None else after.norm(dim=1))
    kept = importance.topk(min(len(importance), linear.out_features)).indices.sort().values
    if linear.bias is None:
        linear.weight[: len(kept)] = (through_origin(pooled, wanted) @ source.weight[kept].T).T
    else:
        read = folded(
            None, Affine(source.weight[kept], None if source.bias is None else source.bias[kept]), pooled, wanted
        )
        linear.weight[: len(kept)] = read[:-1].T
        linear.bias[: len(kept)] = read[-1]
    return act(linear(pooled)), active
