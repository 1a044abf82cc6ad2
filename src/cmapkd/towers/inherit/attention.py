"""Inheritance of attention: each head's two bilinear forms cut to the student's rank by SVD."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.towers.inherit.maps import folded

SMALLEST = 1e-8  # smallest eigenvalue of a second moment, relative to the largest


def inherit_heads(mine: nn.MultiheadAttention, theirs: Any, seen: Tensor, wanted: Tensor) -> None:
    """Set the student's queries, keys and values: the best of their rank under the second moment of their inputs.

    A head is two bilinear forms of the tokens, q ᵀk / √d and W_o·v, each of rank d; each is cut to the student's rank.
    theirs: the teacher's block; seen [t, k], wanted [t, D]: normed tokens of the student and of the teacher.
    """
    attention = theirs.attn
    heads, d = attention.num_heads, attention.head_dim
    read = folded(theirs.ln_1, attention.in_proj_weight, attention.in_proj_bias, seen, wanted)
    query, key, value = read.unflatten(1, (3, heads, d)).permute(1, 2, 0, 3)  # each [h, k + 1, d]
    out = attention.out_proj.weight.unflatten(1, (heads, d)).permute(1, 2, 0)  # [h, d, D]
    root, unroot = _roots(seen)
    left, size, right = thin_svd(root @ query.double(), root @ key.double())
    bring, energy, _ = thin_svd(root @ value.double(), out.double().mT)
    rank = min(d, mine.head_dim, len(root))
    scale = size[:, None, :rank].sqrt() * (mine.head_dim / d) ** 0.25  # the student divides by its own √d
    parts = (unroot @ left[..., :rank] * scale, unroot @ right[..., :rank] * scale, unroot @ bring[..., :rank])
    chosen = energy.square().sum(1).topk(min(mine.num_heads, heads)).indices.tolist()
    _write_heads(mine, parts, chosen, rank)


def mixed_values(attention: nn.MultiheadAttention, seen: Tensor, mask: Any) -> Tensor:
    """The values mixed by the heads, [n, L, k]: the input of the attention's output map."""
    parts = F.linear(seen, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
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


def _write_heads(mine: nn.MultiheadAttention, parts: tuple[Tensor, ...], chosen: list[int], rank: int) -> None:
    """Write queries, keys and values [h, k + 1, rank] of the chosen teacher heads into the student's input map.

    Further channels of a wider head get queries of 0, so that it attends as the teacher's head does; their keys and
    values stay as they were.
    """
    width, d = mine.embed_dim, mine.head_dim
    nn.init.zeros_(mine.in_proj_weight[:width])
    nn.init.zeros_(mine.in_proj_bias[:width])
    for part, maps in enumerate(parts):
        for mine_head, head in enumerate(chosen):
            rows = slice(part * width + mine_head * d, part * width + mine_head * d + rank)
            mine.in_proj_weight[rows] = maps[head, :-1].T.to(mine.in_proj_weight)
            mine.in_proj_bias[rows] = maps[head, -1].to(mine.in_proj_bias)
