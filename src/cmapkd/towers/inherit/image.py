"""Inheritance of an image tower: patches, class token and positions, then the blocks, then the projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.pyramid.resample import resample_grid, resize_matrix
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.inherit.blocks import basis_of, inherit_blocks
from cmapkd.towers.inherit.maps import bare, fit_projection
from cmapkd.towers.inherit.streams import recorded


def image_streams(teacher: DualEncoder, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(streams before and after the norm in front of the blocks, [n, L, D] each; final embeddings [n, E])."""
    visual: Any = teacher.image.native
    return recorded({"raw": visual.ln_pre, "first": visual.transformer}, visual, teacher.normalise(images))


def inherit_image(
    student: DualEncoder, teacher: DualEncoder, images: Tensor, streams: dict[str, Tensor], end: Tensor
) -> None:
    """Set the student's image tower from the teacher's streams and its final embeddings `end` [n, E_s].

    images: uint8 pixels [n, 3, S, S] of the student.
    """
    mine: Any = student.image.native
    theirs: Any = teacher.image.native
    blocks, first = theirs.transformer.resblocks, streams["first"]
    fit = _to_grid(round((first.shape[1] - 1) ** 0.5), student.image.grids[2])
    real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    basis = basis_of(blocks, first, real, None, len(mine.class_embedding))
    normed = isinstance(theirs.ln_pre, nn.LayerNorm)
    into = _before_norm(theirs.ln_pre.weight, basis) if normed else basis
    stream = _fit_patches(mine, student.normalise(images), fit(streams["raw"] @ into))
    if normed:
        stream = _fit_norm(mine.ln_pre, bare(stream), fit(first @ basis))
    real = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)
    stream = inherit_blocks(mine.transformer.resblocks, blocks, stream, first, fit, basis, real, None)
    fit_projection(mine.ln_post, mine.proj, stream[:, 0], end)


def _to_grid(side: int, mine: int) -> Callable[[Tensor], Tensor]:
    """A function from tokens [n, 1 + side², c] to [n, 1 + mine², c]: it resizes the map and keeps the class token."""
    if side == mine:
        return lambda x: x
    matrix = resize_matrix(side, mine)
    return lambda x: torch.cat([x[:, :1], resample_grid(x[:, 1:], matrix.to(x))], 1)


def _before_norm(scale: Tensor, basis: Tensor) -> Tensor:
    """[D, k]: from the teacher's stream before a norm of this scale to the student's before its own, up to a factor."""
    off = scale[:, None] * basis
    off = off - off.mean(0)
    return off - off.mean(1, keepdim=True)


def _fit_patches(mine: Any, images: Tensor, wanted: Tensor) -> Tensor:
    """Fit patch kernel, positions and class token to a stream [n, 1 + h², k]; returns the stream that they then give."""
    side = mine.conv1.kernel_size[0]
    patches = nn.functional.unfold(images, side, stride=side).transpose(1, 2)  # [n, h², 3·side²]
    place = wanted.mean(0)
    weight, _ = ridge(patches.flatten(0, 1), (wanted - place)[:, 1:].flatten(0, 1), 1e-4)
    mine.conv1.weight.copy_(weight.T.unflatten(1, (3, side, side)))
    mine.class_embedding.zero_()
    mine.positional_embedding.copy_(place)
    mine.positional_embedding[1:] -= (patches @ weight).mean(0)
    return torch.cat([torch.zeros_like(wanted[:, :1]), patches @ weight], 1) + mine.positional_embedding


def _fit_norm(norm: Any, normed: Tensor, wanted: Tensor) -> Tensor:
    """Fit a norm's scale and bias, channel by channel, to tokens [n, L, k]; returns its output for `normed`."""
    rows, goal = normed.flatten(0, 1), wanted.flatten(0, 1)
    off, away = rows - rows.mean(0), goal - goal.mean(0)
    norm.weight.copy_((off * away).mean(0) / off.square().mean(0).clamp_min(1e-12))
    norm.bias.copy_(goal.mean(0) - norm.weight * rows.mean(0))
    return normed * norm.weight + norm.bias
