"""Inheritance of attention: each head's two bilinear forms cut to the student's rank by SVD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.towers.inherit.maps import folded
from cmapkd.towers.inherit.parts import Affine, BlockParts

SMALLEST = 1e-8  # smallest eigenvalue of a second moment, relative to the largest


def inherit_heads(mine: BlockParts, theirs: BlockParts, seen: Tensor, wanted: Tensor) -> None:
    """Set the student's queries, keys and values: the best of their rank under the second moment of their inputs.

    A head is two bilinear forms of the tokens, q ᵀk / √d and W_o·v, each of rank d; each is cut to the student's rank.
    seen [t, k], wanted [t, D]: tokens as the attention of the student and of the teacher reads them, the teacher's before
    the scale and bias of its norm.
    """
    heads, d = theirs.heads, theirs.width
    read = folded(None if theirs.post else theirs.first, theirs.joined(), seen, wanted)
    query, key, value = read.unflatten(1, (3, heads, d)).permute(1, 2, 0, 3)  # each [h, k + 1, d]
    fit_heads(mine, query, key, value, theirs.writes(0).unflatten(1, (heads, d)).permute(1, 2, 0), seen)


def fit_heads(mine: BlockParts, query: Tensor, key: Tensor, value: Tensor, out: Tensor, seen: Tensor) -> None:
    """Set the student's queries, keys and values from maps [h, k + 1, d] of [seen ‖ 1]; out: [h, d, D]."""
    d, width = query.shape[-1], mine.width
    root, unroot = _roots(seen)
    left, size, right = thin_svd(root @ query.double(), root @ key.double())
    bring, energy, _ = thin_svd(root @ value.double(), out.double().mT)
    rank = min(d, width, len(root))
    scale = size[:, None, :rank].sqrt() * (width / d) ** 0.25  # the student divides by its own √d
    parts = (unroot @ left[..., :rank] * scale, unroot @ right[..., :rank] * scale, unroot @ bring[..., :rank])
    chosen = energy.square().sum(1).topk(min(mine.heads, len(query))).indices.tolist()
    _write_heads(mine, parts, chosen, rank)


def attend(block: BlockParts, x: Tensor, mask: Tensor | None) -> Tensor:
    """The attention of a block with its output map and scale, for x [n, L, D] as it reads them.

    mask: of the attention, additive [L, L], or bool [n, 1, 1, L] that is True for the tokens that are read; None for all.
    """
    if block.own is not None:
        found = block.own(x, mask)
    else:
        found = block.out(mixed_values(block, x, mask))
    return found if block.scales[0] is None else found * block.scales[0]


def mixed_values(block: BlockParts, seen: Tensor, mask: Tensor | None) -> Tensor:
    """The values mixed by the heads, [n, L, h·d]: the input of the attention's output map."""
    read = block.joined()
    parts = F.linear(seen, read.weight, read.bias).chunk(3, -1)
    query, key, value = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in parts)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def thin_svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U [h, n, r], S [h, r], V [h, m, r]) of a bᵀ, for tall a [h, n, d] and b [h, m, d]: through their QR forms."""
    (qa, ra), (qb, rb) = torch.linalg.qr(a), torch.linalg.qr(b)
    left, size, right = torch.linalg.svd(ra @ rb.mT)
    return qa @ left[..., : size.shape[-1]], size, qb @ right.mT[..., : size.shape[-1]]


def _roots(seen: Tensor) -> tuple[Tensor, Tensor]:
    """(square root, its inverse), [k + 1, k + 1] each, of the second moment of [seen ‖ 1]."""
    ones = torch.cat([seen, torch.ones_like(seen[:, :1])], 1).double()
    values, vectors = torch.linalg.eigh(ones.T @ ones / len(ones))
    values = values.clamp_min(SMALLEST * values[-1])
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def _write_heads(mine: BlockParts, parts: tuple[Tensor, ...], chosen: list[int], rank: int) -> None:
    """Write queries, keys and values [h, k + 1, rank] of the chosen teacher heads into the student's input maps.

    Further channels of a wider head get queries of 0, so that it attends as the teacher's head does; their keys and
    values stay as they were.
    """
    d, queries = mine.width, mine.qkv[0]
    nn.init.zeros_(queries.weight)
    nn.init.zeros_(_bias(queries))
    for read, maps in zip(mine.qkv, parts, strict=True):
        for mine_head, head in enumerate(chosen):
            rows = slice(mine_head * d, mine_head * d + rank)
            read.weight[rows] = maps[head, :-1].T.to(read.weight)
            _bias(read)[rows] = maps[head, -1].to(read.weight)


def _bias(read: Affine) -> Tensor:
    assert read.bias is not None, "eligible.py refuses a student without"
    return read.bias
