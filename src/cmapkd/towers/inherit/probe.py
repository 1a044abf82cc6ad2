"""Inheritance of attention pooling: learnt probes that attend to the tokens, and the MLP behind them (SigLIP's MAP head)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.towers.inherit.attention import fit_heads
from cmapkd.towers.inherit.maps import STRENGTH, bare, folded
from cmapkd.towers.inherit.parts import Affine, BlockParts


@dataclass(frozen=True)
class ProbeParts:
    """block: keys, values, output map, norm and MLP as those of a block; its queries are those of the probe [1, c]."""

    block: BlockParts
    probe: Tensor


def timm_probe(pool: Any) -> ProbeParts | None:
    """The parts of timm's AttentionPoolLatent with one latent, an MLP and plain queries; None for another."""
    linear = isinstance(getattr(pool, "q", None), nn.Linear) and isinstance(getattr(pool, "proj", None), nn.Linear)
    if not linear or pool.latent_len != 1 or pool.pos_embed is not None or pool.mlp is None:
        return None
    if not isinstance(pool.q_norm, nn.Identity) or not isinstance(pool.norm, nn.LayerNorm) or pool.q.bias is None:
        return None
    weights, biases = pool.kv.weight.detach().chunk(2), pool.kv.bias.detach().chunk(2)
    qkv = (
        Affine(pool.q.weight.detach(), pool.q.bias.detach()),
        *(Affine(*pair) for pair in zip(weights, biases, strict=True)),
    )
    block = BlockParts(pool.norm, pool.norm, qkv, pool.num_heads, pool.proj, pool.mlp.fc1, pool.mlp.act, pool.mlp.fc2)  # type: ignore[arg-type]
    return ProbeParts(block, pool.latent.detach()[0])


def hugging_face_probe(head: Any) -> ProbeParts | None:
    """The parts of the pooling head of transformers' SigLIP; None for another."""
    attention = getattr(head, "attention", None)
    if not isinstance(attention, nn.MultiheadAttention) or not hasattr(head, "probe"):
        return None
    pairs = zip(attention.in_proj_weight.detach().chunk(3), attention.in_proj_bias.detach().chunk(3), strict=True)
    qkv = tuple(Affine(*pair) for pair in pairs)
    block = BlockParts(head.layernorm, head.layernorm, qkv, attention.num_heads, attention.out_proj,
                       head.mlp.fc1, head.mlp.activation_fn, head.mlp.fc2)  # type: ignore[arg-type]  # fmt: skip
    return ProbeParts(block, head.probe.detach()[0])


def inherit_probe(
    mine: ProbeParts, theirs: ProbeParts, norms: tuple[nn.LayerNorm, nn.LayerNorm],
    stream: Tensor, last: Tensor, fit: Callable[[Tensor], Tensor], into: Tensor | None,
) -> Tensor:  # fmt: skip
    """Set the student's pooling; returns its pooled vectors [n, F_s].

    norms: the last norms of student and teacher, which the tokens pass first; stream: the student's patches [n, L, k];
    last: the teacher's [n, M, D]; fit: from the teacher's patches to the student's; into: [F, F_s], from the teacher's
    pooled vectors to the student's; None for their principal directions.
    """
    block, source = mine.block, theirs.block
    for norm in (norms[0], block.second):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    seen, wanted = bare(stream, norms[0].eps), fit(bare(last, norms[1].eps))
    _inherit_keys(mine, theirs, norms[1], seen.flatten(0, 1), wanted.flatten(0, 1))
    between = source.out(_mixed(theirs, norms[1](last)))
    hidden = source.act(source.fc(source.second(between)))
    end = between + source.project(hidden)
    into = principal(end, block.out.out_features) if into is None else into
    student = _write(block.out, _mixed(mine, seen), between @ into)
    importance = hidden.square().mean(0).sqrt() * (into.T @ source.project.weight).norm(dim=0)
    kept = importance.topk(min(len(importance), block.fc.out_features)).indices
    normed, read = bare(student, block.second.eps), Affine(source.fc.weight[kept], source.fc.bias[kept])
    found = folded(source.second, read, normed, bare(between, source.second.eps))
    block.fc.weight[: len(kept)], block.fc.bias[: len(kept)] = found[:-1].T, found[-1]
    return student + _write(block.project, block.act(block.fc(normed)), end @ into - student)


def principal(rows: Tensor, width: int) -> Tensor:
    """[E, width]: an orthonormal map of rows [n, E] that keeps their inner products; to a smaller width, the principal directions."""
    rows = rows.double()
    if width >= rows.shape[1]:
        return torch.eye(rows.shape[1], width).to(rows.device)
    return torch.linalg.eigh(rows.T @ rows)[1][:, -width:].flip(1).float()


def _inherit_keys(mine: ProbeParts, theirs: ProbeParts, norm: nn.LayerNorm, seen: Tensor, wanted: Tensor) -> None:
    """Set queries, keys and values; the query is the same for all images, so that it is the bias alone."""
    block, source = mine.block, theirs.block
    keys, values = (folded(norm, read, seen, wanted) for read in source.qkv[1:])
    query = torch.zeros_like(keys)
    query[-1] = nn.functional.linear(theirs.probe, *_pair(source.qkv[0]))[0]
    split = [part.unflatten(1, (source.heads, source.width)).transpose(0, 1) for part in (query, keys, values)]
    out = source.writes(0).unflatten(1, (source.heads, source.width)).permute(1, 2, 0)
    fit_heads(block, *split, out, seen)
    nn.init.zeros_(block.qkv[0].weight)


def _mixed(parts: ProbeParts, tokens: Tensor) -> Tensor:
    """The values of tokens [n, L, c] mixed by the heads, [n, h·d]."""
    reads = [nn.functional.linear(given, *_pair(read)) for given, read in
             zip((parts.probe.expand(len(tokens), 1, -1), tokens, tokens), parts.block.qkv, strict=True)]  # fmt: skip
    split = [read.unflatten(-1, (parts.block.heads, -1)).transpose(1, 2) for read in reads]
    return nn.functional.scaled_dot_product_attention(split[0], split[1], split[2]).transpose(1, 2).flatten(1)


def _pair(read: Affine) -> tuple[Tensor, Tensor | None]:
    return read.weight, read.bias


def _write(linear: nn.Linear, given: Tensor, goal: Tensor) -> Tensor:
    """Fit a linear map to rows; returns its output."""
    weight, bias = ridge(given, goal, STRENGTH)
    linear.weight.copy_(weight.T)
    linear.bias.copy_(bias)
    return linear(given)
