"""Inheritance of one block: heads by SVD, hidden neurons by importance, output maps by ridge regression.

The student's stream y stands for E ᵀx of the teacher's stream x, with E [D, k] a basis that all blocks share. LN is a
LayerNorm without parameters. In a block with norms before its parts they start as LN, because the teacher's are folded into
the maps after them. Norms behind them are part of the stream itself: they are fitted to it, channel by channel.
"""

from __future__ import annotations

from torch import Tensor, nn

from cmapkd.towers.inherit.attention import inherit_heads, mixed_values
from cmapkd.towers.inherit.maps import bare, fit_norm, fit_output, folded
from cmapkd.towers.inherit.parts import Affine, BlockParts
from cmapkd.towers.inherit.streams import Passage


def inherit_block(
    mine: BlockParts,
    theirs: BlockParts,
    stream: Tensor,
    theirs_at: Passage,
    basis: Tensor,
    real: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Set the student's block `mine` from the teacher's `theirs`; returns the student's stream [n, L, k] after it.

    stream: [n, L, k] before the block; theirs_at: the teacher's stream at the student's tokens; basis: E [D, k];
    real: bool [n, L], tokens that are fitted; mask: of the attention, as `attend` has it.
    """
    for norm, scale in zip((mine.first, mine.second), mine.scales, strict=True):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
        if scale is not None:
            nn.init.ones_(scale)
    seen = read_by(mine, mine.first, stream)
    inherit_heads(mine, theirs, seen[real], read_by(theirs, theirs.first, theirs_at.before)[real])
    values = mixed_values(mine, seen, mask)
    stream = stream + fit_output(mine.out, values, theirs_at.sums[0] @ basis - stream, real)
    if mine.post:
        stream = fit_norm(mine.first, bare(stream, mine.first.eps), theirs_at.between @ basis, real)
    seen = read_by(mine, mine.second, stream)
    hidden = _inherit_neurons(mine, theirs, seen, theirs_at.between, basis, real)
    stream = stream + fit_output(mine.project, hidden, theirs_at.sums[1] @ basis - stream, real)
    if mine.post:
        stream = fit_norm(mine.second, bare(stream, mine.second.eps), theirs_at.after @ basis, real)
    return stream


def read_by(block: BlockParts, norm: nn.LayerNorm, stream: Tensor) -> Tensor:
    """A stream as a part of the block reads it, before the scale and bias of its norm."""
    return stream if block.post else bare(stream, norm.eps)


def _inherit_neurons(
    mine: BlockParts, theirs: BlockParts, seen: Tensor, between: Tensor, basis: Tensor, real: Tensor
) -> Tensor:
    """Copy the hidden neurons that change the stream most; returns the student's activations [n, L, hidden].

    Importance of a neuron: root mean square of its activation times the norm of its output weights in the basis.
    """
    fc, norm = theirs.fc, None if theirs.post else theirs.second
    active = theirs.act(fc(between[real] if norm is None else norm(between[real])))
    importance = active.square().mean(0).sqrt() * (basis.T @ theirs.writes(1)).norm(dim=0)
    kept = importance.topk(min(len(importance), mine.fc.out_features)).indices
    wanted = read_by(theirs, theirs.second, between)[real]
    read = folded(norm, Affine(fc.weight[kept], fc.bias[kept]), seen[real], wanted)
    mine.fc.weight[: len(kept)] = read[:-1].T
    mine.fc.bias[: len(kept)] = read[-1]
    return mine.act(mine.fc(seen))
