"""Inheritance of a stack of blocks: the basis that all blocks share, and each student block from its teacher block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmapkd.towers.inherit.block import inherit_block
from cmapkd.towers.inherit.maps import bare
from cmapkd.towers.inherit.parts import BlockParts
from cmapkd.towers.inherit.streams import Passage, passage, rows_of

SPARSE = 4  # the shared basis is fitted on every fourth sample


def basis_of(blocks: list[BlockParts], x: Tensor, real: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """E [D, width] of the teacher's normed streams at the attention and at the MLP of all blocks.

    x: the stream [n, L, D] before the first block; real: bool [n, L], tokens that count; mask: of the attention.
    Norms behind the parts scale the channels of the stream itself, which no other basis keeps exactly: at the teacher's
    own width they are taken as they are.
    """
    if blocks[0].post and width == x.shape[-1]:
        return torch.eye(width).to(x)
    second = torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
    x, real, mask = x[::SPARSE], real[::SPARSE], rows_of(mask, slice(None, None, SPARSE))
    for block in blocks:
        at = passage(block, x, mask)
        for stream in (at.before, at.between):
            rows = bare(stream)[real]
            second += (rows.T @ rows / len(rows)).double()
        x = at.after
    return shared_basis(second, width)


def shared_basis(second: Tensor, width: int) -> Tensor:
    """E [D, width] in float32: the `width` − 1 widest directions of a second moment [D, D] of LN(x), as a stream of mean 0.

    A LayerNorm of E ᵀx subtracts the mean of its `width` channels, so E maps into the space orthogonal to 1; then
    LN(E ᵀx) is E ᵀLN(x) up to a factor, for all x that E keeps whole (Ashkboos et al. 2024, SliceGPT).
    """
    kept = min(width - 1, len(second) - 1)
    second = second.double() - second.trace().double() / len(second)  # 1 comes last, also where others have no variance
    top = torch.linalg.eigh(second)[1][:, -kept:].flip(1)
    without_mean = torch.linalg.svd(torch.ones(1, width).to(second))[2][1 : kept + 1]
    return (top @ without_mean).float()


def inherit_blocks(
    mine: list[BlockParts], theirs: list[BlockParts], stream: Tensor, x: Tensor, fit: Callable[[Tensor], Tensor],
    basis: Tensor, real: Tensor, mask: Tensor | None,
) -> Tensor:  # fmt: skip
    """Set the student's blocks one by one; returns the student's stream [n, L, k] after the last.

    stream, x: the student's and the teacher's stream before their first block; fit: from the teacher's tokens to the
    student's; basis: E [D, k]; real: bool [n, L], tokens that are fitted; mask: of the attention.
    """
    done = 0
    for block, until in zip(mine, sources(len(mine), len(theirs)), strict=True):
        for skipped in theirs[done : until - 1]:
            x = passage(skipped, x, mask).after
        source = theirs[until - 1]
        # A student deeper than its teacher uses some teacher blocks twice, the second time on an unchanged stream.
        at = passage(source, x, mask) if until > done else Passage(x, x, x, (x, x))
        stream = inherit_block(block, source, stream, at.mapped(fit), basis, real, mask)
        x, done = at.after, until
    return stream


def sources(depth: int, theirs: int) -> list[int]:
    """Number (from 1) of the teacher block for each of `depth` student blocks: evenly spread, first and last kept."""
    return [theirs] if depth == 1 else [round(1 + k * (theirs - 1) / (depth - 1)) for k in range(depth)]
