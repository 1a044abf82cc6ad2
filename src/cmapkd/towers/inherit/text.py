"""Inheritance of a text tower: token and positional embeddings, then the blocks, then the projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.families.trimmed import trimmed_length
from cmapkd.towers.inherit.blocks import basis_of, inherit_blocks
from cmapkd.towers.inherit.maps import fit_projection
from cmapkd.towers.inherit.streams import recorded


def text_streams(teacher: DualEncoder, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(the stream before the blocks [n, L, D], final embeddings [n, E])."""
    text: Any = teacher.text.native
    return recorded({"first": text.transformer}, teacher.text.encode, ids)


def inherit_text(
    student: DualEncoder, teacher: DualEncoder, ids: Tensor, streams: dict[str, Tensor], end: Tensor
) -> None:
    """Set the student's text tower from the teacher's streams and its final embeddings `end` [n, E_s]; ids: [n, L]."""
    mine: Any = student.text.native
    theirs: Any = teacher.text.native
    context = min(len(mine.positional_embedding), len(theirs.positional_embedding))
    last = (ids == teacher.tokenizer.end).int().argmax(1)
    length = min(context, trimmed_length(ids, teacher.tokenizer.end))
    fitting = last < length  # a caption that the shorter context cuts off ends at another token in the other tower
    ids, last, end, first = ids[fitting, :length], last[fitting], end[fitting], streams["first"][fitting, :length]
    real = torch.arange(length, device=ids.device)[None] <= last[:, None]
    blocks, mask = theirs.transformer.resblocks, theirs.attn_mask[:length, :length]
    basis = basis_of(blocks, first, real, mask, mine.token_embedding.embedding_dim)
    mine.token_embedding.weight.copy_(theirs.token_embedding.weight @ basis)
    mine.positional_embedding[:context] = theirs.positional_embedding[:context] @ basis
    stream = inherit_blocks(mine.transformer.resblocks, blocks, first @ basis, first, lambda x: x, basis, real, mask)
    fit_projection(mine.ln_final, mine.text_projection, stream[torch.arange(len(stream)), last], end)
