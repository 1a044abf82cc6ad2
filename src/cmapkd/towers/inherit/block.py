"""Inheritance of one block: heads by SVD, hidden neurons by importance, output maps by ridge regression.

The student's stream y stands for E ᵀx of the teacher's stream x, with E [D, k] a basis that all blocks share. LN is a
LayerNorm without parameters; the student's norms start as LN, because the teacher's are folded into the maps after them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cmapkd.towers.inherit.attention import inherit_heads, mixed_values
from cmapkd.towers.inherit.maps import bare, fit_output, folded
from cmapkd.towers.inherit.streams import Passage


def inherit_block(
    mine: Any, theirs: Any, stream: Tensor, theirs_at: Passage, basis: Tensor, real: Tensor, mask: Any
) -> Tensor:
    """Set the student's block `mine` from the teacher's `theirs`; returns the student's stream [n, L, k] after it.

    stream: [n, L, k] before the block; theirs_at: the teacher's stream at the student's tokens; basis: E [D, k];
    real: bool [n, L], tokens that are fitted; mask: additive [L, L] of the attention, or None.
    """
    for norm in (mine.ln_1, mine.ln_2):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    seen = bare(stream)
    inherit_heads(mine.attn, theirs, seen[real], bare(theirs_at.before)[real])
    values = mixed_values(mine.attn, seen, mask)
    stream = stream + fit_output(mine.attn.out_proj, values, theirs_at.between @ basis - stream, real)
    seen = bare(stream)
    hidden = _inherit_neurons(mine.mlp, theirs, seen, theirs_at.between, basis, real)
    return stream + fit_output(mine.mlp.c_proj, hidden, theirs_at.after @ basis - stream, real)


def _inherit_neurons(mine: Any, theirs: Any, seen: Tensor, between: Tensor, basis: Tensor, real: Tensor) -> Tensor:
    """Copy the hidden neurons that change the stream most; returns the student's activations [n, L, hidden].

    Importance of a neuron: root mean square of its activation times the norm of its output weights in the basis.
    """
    fc, project = theirs.mlp.c_fc, theirs.mlp.c_proj
    active = theirs.mlp.gelu(fc(theirs.ln_2(between[real])))
    importance = active.square().mean(0).sqrt() * (basis.T @ project.weight).norm(dim=0)
    kept = importance.topk(min(len(importance), mine.c_fc.out_features)).indices
    read = folded(theirs.ln_2, fc.weight[kept], fc.bias[kept], seen[real], bare(between)[real])
    mine.c_fc.weight[: len(kept)] = read[:-1].T
    mine.c_fc.bias[: len(kept)] = read[-1]
    return mine.gelu(mine.c_fc(seen))
