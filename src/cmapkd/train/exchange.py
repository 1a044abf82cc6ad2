"""Exchange of outputs between processes: the one place where the rows of all processes come together, before any term.

Terms compare the samples of the whole batch with one another, so each process needs the others' rows. In one process there is
nothing to exchange. Every process computes the same loss of the whole batch; the gradient of its own rows, times the number of
processes, becomes with the mean over processes (train/loop.py) the gradient of one process that has all the rows.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from cmapkd.core.tree import map_tensors, tensors
from cmapkd.distributed.collectives import gathered, own_rows
from cmapkd.distributed.group import world

Tree = TypeVar("Tree")


def exchange(tree: Tree) -> Tree:
    """The tree with the rows of all processes in every tensor, in the order of one process; as it is in one process."""
    if world() == 1:
        return tree
    found = iter(Gather.apply(*tensors(tree)))  # type: ignore[call-overload]
    return map_tensors(tree, lambda _: next(found))


class Gather(torch.autograd.Function):
    """All-gather of the rows of several tensors, in one message; every process has as many rows."""

    @staticmethod
    def forward(ctx: Any, *own: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        found = tuple(gathered(own))
        ctx.mark_non_differentiable(*(tensor for tensor in found if not tensor.is_floating_point()))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if gradient is None else world() * own_rows(gradient) for gradient in gradients)
