"""Inheritance of an image tower: patches, extra tokens and positions, then the blocks, then pooling and head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.pyramid.resample import resample_grid, resize_matrix
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.inherit.blocks import basis_of, inherit_blocks
from cmapkd.towers.inherit.head import fit_head
from cmapkd.towers.inherit.image_parts import ImageParts
from cmapkd.towers.inherit.maps import bare, before_norm, fit_norm
from cmapkd.towers.inherit.probe import inherit_probe
from cmapkd.towers.inherit.streams import recorded


def image_streams(teacher: DualEncoder, theirs: ImageParts, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(streams before and after the norm in front of the blocks, [n, L, D] each, and what pooling and head read; final
    embeddings [n, E])."""
    modules: dict[str, nn.Module] = {"first": theirs.modules[0]}
    if theirs.before is not None:
        modules["raw"] = theirs.before
    if theirs.probe is not None:
        modules["last"] = theirs.last
    if theirs.head.hidden:
        modules["pooled"] = theirs.head.hidden[0][0]
    return recorded(modules, teacher.image.encode, teacher.normalise(images))


def inherit_image(
    mine: ImageParts, theirs: ImageParts, pixels: Tensor, grid: int,
    streams: dict[str, Tensor], end: Tensor, rotation: Tensor,
) -> None:  # fmt: skip
    """Set the student's image tower from the teacher's streams and its final embeddings `end` [n, E_s].

    pixels: normalised images [n, 3, S, S] of the student; grid: side of its map; rotation: [E, E_s], which gave `end`.
    """
    first = streams["first"]
    fit = _to_grid(first.shape[1], len(theirs.extra), grid, len(mine.extra))
    basis = basis_of(theirs.blocks, first, _all(first), None, mine.width)
    into = basis if theirs.before is None else before_norm(theirs.before.weight, basis)
    stream = _fit_patches(mine, pixels, fit(streams.get("raw", first) @ into))
    real = _all(stream)
    if mine.before is not None:
        stream = fit_norm(mine.before, bare(stream, mine.before.eps), fit(first @ basis), real)
    stream = inherit_blocks(mine.blocks, theirs.blocks, stream, first, fit, basis, real, None)
    if mine.probe is None or theirs.probe is None:
        nn.init.ones_(mine.last.weight)
        nn.init.zeros_(mine.last.bias)
        fit_head(mine.head, theirs.head, mine.pool(stream), streams.get("pooled"), end, mine.last)
        return
    patches = _to_grid(first.shape[1] - len(theirs.extra), 0, grid, 0)
    last = streams["last"][:, len(theirs.extra) :]
    there = rotation if theirs.head.weight is None else theirs.head.weight @ rotation
    norms = mine.last, theirs.last
    pooled = inherit_probe(mine.probe, theirs.probe, norms, stream[:, len(mine.extra) :], last, patches,
                           there if mine.head.weight is None else None)  # fmt: skip
    fit_head(mine.head, theirs.head, pooled, streams.get("pooled"), end, None)


def _all(stream: Tensor) -> Tensor:
    return torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)


def _to_grid(tokens: int, extra: int, mine: int, wanted: int) -> Callable[[Tensor], Tensor]:
    """A function from tokens [n, extra + side², c] to [n, wanted + mine², c]: it resizes the map and keeps the extra tokens.

    An extra token that the teacher has not stands for the mean of its patches.
    """
    side = round((tokens - extra) ** 0.5)
    if (side, extra) == (mine, wanted):
        return lambda x: x
    matrix = resize_matrix(side, mine)

    def fit(x: Tensor) -> Tensor:
        kept = [x[:, : min(extra, wanted)]]
        kept += [x[:, extra:].mean(1, keepdim=True)] * max(0, wanted - extra)
        return torch.cat([*kept, resample_grid(x[:, extra:], matrix.to(x))], 1)

    return fit


def _fit_patches(mine: ImageParts, images: Tensor, wanted: Tensor) -> Tensor:
    """Fit patch kernel, positions and extra tokens to a stream [n, p + h², k]; returns the stream that they then give."""
    side, extra = mine.patches.kernel_size[0], len(mine.extra)
    patches = nn.functional.unfold(images, side, stride=side).transpose(1, 2)  # [n, h², 3·side²]
    place = wanted.mean(0)
    weight, _ = ridge(patches.flatten(0, 1), (wanted - place)[:, extra:].flatten(0, 1), 1e-4)
    mine.patches.weight.copy_(weight.T.unflatten(1, (3, side, side)))
    if mine.patches.bias is not None:
        nn.init.zeros_(mine.patches.bias)
    shared = len(mine.positions) == len(place)
    for token, there in zip(mine.extra, place, strict=False):
        token.copy_(torch.zeros_like(there) if shared else there)
    mine.positions.copy_(place if shared else place[extra:])
    mine.positions[len(mine.positions) - patches.shape[1] :] -= (patches @ weight).mean(0)
    given = torch.cat([torch.zeros_like(wanted[:, :extra]), patches @ weight], 1)
    return given + (mine.positions if shared else torch.cat([place[:extra], mine.positions]))
