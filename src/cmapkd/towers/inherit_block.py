"""One block of a student transformer from one of its teacher: heads by SVD, neurons by importance, outputs by ridge.

The student's stream y stands for E ᵀx of the teacher's stream x, with E [D, k] a basis that all blocks share. LN is a
LayerNorm without parameters; the student's own begins as one, for the teacher's is folded into the maps behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge

STRENGTH = 1e-3  # of the ridges
SMALLEST = 1e-8  # of a second moment's eigenvalues, against the largest


@dataclass(frozen=True)
class Passage:
    """A teacher's stream before a block, between its halves and after it, in the student's tokens: [n, L, D]."""

    before: Tensor
    between: Tensor
    after: Tensor


def bare(x: Tensor) -> Tensor:
    """LN(x), a LayerNorm without parameters over the last axis."""
    return F.layer_norm(x, x.shape[-1:])


def shared_basis(second: Tensor, width: int) -> Tensor:
    """E [D, width] in float32: the `width` − 1 widest directions of a second moment [D, D] of LN(x), as a stream whose mean is 0.

    A LayerNorm of E ᵀx takes the mean of its `width` channels off, so that E maps into what is orthogonal to 1; then
    LN(E ᵀx) is E ᵀLN(x) up to a factor, for all x that E keeps whole (Ashkboos et al. 2024, SliceGPT).
    """
    kept = min(width - 1, len(second) - 1)
    second = second.double() - second.trace().double() / len(second)  # 1 comes last, also where others have no variance
    top = torch.linalg.eigh(second)[1][:, -kept:].flip(1)
    without_mean = torch.linalg.svd(torch.ones(1, width).to(second))[2][1 : kept + 1]
    return (top @ without_mean).float()


def inherit_block(
    mine: Any, theirs: Any, stream: Tensor, theirs_at: Passage, basis: Tensor, real: Tensor, mask: Any
) -> Tensor:
    """Set the student's block `mine` from the teacher's `theirs`; gives the student's stream [n, L, k] behind it.

    stream: [n, L, k] before the block; theirs_at: where the teacher is there; basis: E [D, k]; real: bool [n, L], tokens
    that are fitted; mask: additive [L, L] of the attention, or None.
    """
    for norm in (mine.ln_1, mine.ln_2):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    seen = bare(stream)
    _attention(mine.attn, theirs, seen[real], bare(theirs_at.before)[real])
    heads = _mixed(mine.attn, seen, mask)
    stream = stream + _closing(mine.attn.out_proj, heads, theirs_at.between @ basis - stream, real)
    seen = bare(stream)
    neurons = _neurons(mine.mlp, theirs, seen, theirs_at.between, basis, real)
    return stream + _closing(mine.mlp.c_proj, neurons, theirs_at.after @ basis - stream, real)


def can_inherit(block: Any) -> bool:
    """Whether a block is a plain pre-norm one: attention with one input map, an MLP, no scale on its outputs."""
    attention = getattr(block, "attn", None)
    plain = (
        isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None and attention.batch_first
    )
    return plain and isinstance(block.ls_1, nn.Identity) and hasattr(block.mlp, "c_fc")


def _folded(norm: Any, weight: Tensor, bias: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """[k + 1, o], last row the bias: what `weight` says of the teacher's normed tokens `wanted` [t, D], read from `seen` [t, k]."""
    back, start = ridge(seen, wanted, STRENGTH)
    read = torch.cat([back, start[None]]) @ (weight * norm.weight).T
    read[-1] += weight @ norm.bias + bias
    return read


def _attention(mine: nn.MultiheadAttention, theirs: Any, seen: Tensor, wanted: Tensor) -> None:
    """Queries, keys and values of the student's heads: the best of their rank under the second moment of what they see.

    A head acts by two forms of the tokens alone, q ᵀk / √d and W_o·v, each of rank d, and each is cut to the student's.
    """
    attention = theirs.attn
    width, d, mine_d = mine.embed_dim, attention.head_dim, mine.head_dim
    read = _folded(theirs.ln_1, attention.in_proj_weight, attention.in_proj_bias, seen, wanted)
    query, key, value = read.unflatten(1, (3, attention.num_heads, d)).permute(1, 2, 0, 3)  # each [h, k + 1, d]
    out = attention.out_proj.weight.unflatten(1, (attention.num_heads, d)).permute(1, 2, 0)  # [h, d, D]
    ones = torch.cat([seen, torch.ones_like(seen[:, :1])], 1).double()
    values, vectors = torch.linalg.eigh(ones.T @ ones / len(ones))
    values = values.clamp_min(SMALLEST * values[-1])
    root, unroot = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    left, size, right = _thin_svd(root @ query.double(), root @ key.double())
    bring, energy, _ = _thin_svd(root @ value.double(), out.double().mT)
    rank = min(d, mine_d, len(root))
    scale = size[:, None, :rank].sqrt() * (mine_d / d) ** 0.25  # the student divides by √d of its own
    parts = (unroot @ left[..., :rank] * scale, unroot @ right[..., :rank] * scale, unroot @ bring[..., :rank])
    # What a wider head has beyond this: queries of 0, so that it attends as the teacher's, and keys and values as they were.
    nn.init.zeros_(mine.in_proj_weight[:width])
    nn.init.zeros_(mine.in_proj_bias[:width])
    chosen = energy.square().sum(1).topk(min(mine.num_heads, attention.num_heads)).indices.tolist()
    for part, maps in enumerate(parts):
        for mine_head, head in enumerate(chosen):
            rows = slice(part * width + mine_head * mine_d, part * width + mine_head * mine_d + rank)
            mine.in_proj_weight[rows] = maps[head, :-1].T.to(mine.in_proj_weight)
            mine.in_proj_bias[rows] = maps[head, -1].to(mine.in_proj_bias)


def _thin_svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U [h, n, r], S [h, r], V [h, m, r]) of a bᵀ, for a [h, n, d] and b [h, m, d] that are tall: through their QR forms."""
    (qa, ra), (qb, rb) = torch.linalg.qr(a), torch.linalg.qr(b)
    left, size, right = torch.linalg.svd(ra @ rb.mT)
    return qa @ left[..., : size.shape[-1]], size, qb @ right.mT[..., : size.shape[-1]]


def _mixed(attention: nn.MultiheadAttention, seen: Tensor, mask: Any) -> Tensor:
    """What the heads hand to the output map, [n, L, k]."""
    parts = F.linear(seen, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def _neurons(mine: Any, theirs: Any, seen: Tensor, between: Tensor, basis: Tensor, real: Tensor) -> Tensor:
    """Take over the hidden neurons that move the stream most, by their mean square and the size of what they write; gives
    the student's activations [n, L, hidden]."""
    fc, project = theirs.mlp.c_fc, theirs.mlp.c_proj
    active = theirs.mlp.gelu(fc(theirs.ln_2(between[real])))
    moved = active.square().mean(0).sqrt() * (basis.T @ project.weight).norm(dim=0)
    kept = moved.topk(min(len(moved), mine.c_fc.out_features)).indices
    read = _folded(theirs.ln_2, fc.weight[kept], fc.bias[kept], seen[real], bare(between)[real])
    mine.c_fc.weight[: len(kept)] = read[:-1].T
    mine.c_fc.bias[: len(kept)] = read[-1]
    return mine.gelu(mine.c_fc(seen))


def _closing(output: nn.Linear, given: Tensor, gap: Tensor, real: Tensor) -> Tensor:
    """Fit an output map so that it closes the gap [n, L, k] to the teacher from what it is given; what it then adds."""
    gap = gap - gap.mean(-1, keepdim=True)
    weight, bias = ridge(given[real], gap[real], STRENGTH)
    output.weight.copy_(weight.T)
    output.bias.copy_(bias)
    return output(given)
