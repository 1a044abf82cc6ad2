"""Exchange of outputs between processes: the one place where the rows of all processes come together, before any term.

Terms compare samples of the whole batch with one another, so each process needs the others' rows. In one process there is
nothing to exchange. Gradients of gathered rows are summed over processes and go back to the process that made the rows.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cmapkd.core.tree import map_tensors

Tree = TypeVar("Tree")


def exchange(tree: Tree) -> Tree:
    """The tree with the rows of all processes in every tensor, in the order of their ranks; as it is in one process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tree
    return map_tensors(tree, _gathered)


def _gathered(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:
        return _gathered(tensor.to(torch.uint8)).bool()
    return Gather.apply(tensor)  # type: ignore[return-value]


class Gather(torch.autograd.Function):
    """All-gather along the first axis; every process has as many rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]
