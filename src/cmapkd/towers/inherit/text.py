"""Inheritance of a text tower: token and positional embeddings, then the blocks, then the head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.families.trimmed import STEP
from cmapkd.towers.inherit.blocks import basis_of, inherit_blocks
from cmapkd.towers.inherit.head import fit_head
from cmapkd.towers.inherit.maps import bare, before_norm, fit_norm
from cmapkd.towers.inherit.streams import recorded
from cmapkd.towers.inherit.text_parts import TextParts


@dataclass(frozen=True)
class Texts:
    """The captions that are fitted: ids and real tokens [n, L], and which of all captions they are, bool [N]."""

    ids: Tensor
    real: Tensor
    fitting: Tensor


def text_streams(teacher: DualEncoder, theirs: TextParts, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(the stream before the blocks [n, L, D], and the head's input where it has hidden layers; final embeddings [n, E])."""
    modules: dict[str, nn.Module] = {"first": theirs.modules[0]}
    if theirs.head.hidden:
        modules["pooled"] = theirs.head.hidden[0][0]
    return recorded(modules, teacher.text.encode, ids)


def inherit_text(mine: TextParts, theirs: TextParts, ids: Tensor, streams: dict[str, Tensor], end: Tensor) -> None:
    """Set the student's text tower from the teacher's streams and its final embeddings `end` [n, E_s]; ids: [n, L]."""
    texts = fitted(mine, theirs, ids)
    first, mask = streams["first"][texts.fitting, : texts.ids.shape[1]], mine.mask(texts.real)
    basis = basis_of(theirs.blocks, first, texts.real, mask, mine.width)
    stream = _fit_embeddings(mine, theirs, texts, first, basis)
    stream = inherit_blocks(mine.blocks, theirs.blocks, stream, first, lambda x: x, basis, texts.real, mask)
    if mine.last is not None:
        nn.init.ones_(mine.last.weight)
        nn.init.zeros_(mine.last.bias)
        stream = bare(stream, mine.last.eps)
    pooled, theirs_pooled = mine.pool(stream, texts.real, texts.ids), streams.get("pooled")
    theirs_pooled = None if theirs_pooled is None else theirs_pooled[texts.fitting]
    fit_head(mine.head, theirs.head, pooled, theirs_pooled, end[texts.fitting], mine.last)


def fitted(mine: TextParts, theirs: TextParts, ids: Tensor) -> Texts:
    """The captions that end within both contexts (one that is cut off ends at another token in the other tower)."""
    context = min(len(mine.positions), len(theirs.positions), ids.shape[1])
    if theirs.attention == "whole":
        everything = torch.ones_like(ids[:, :context], dtype=torch.bool)
        return Texts(ids[:, :context], everything, everything[:, 0])
    real = theirs.real(ids)
    last = (real * torch.arange(ids.shape[1], device=ids.device)).max(1).values
    length = min(context, -(-(int(last.max()) + 1) // STEP) * STEP)
    fitting = last < length
    return Texts(ids[fitting, :length], real[fitting, :length], fitting)


def _fit_embeddings(mine: TextParts, theirs: TextParts, texts: Texts, first: Tensor, basis: Tensor) -> Tensor:
    """Set the embeddings, and the norm behind them; returns the student's stream before its blocks."""
    into = basis
    if mine.first is not None and theirs.first is not None and mine.width != theirs.width:
        into = before_norm(theirs.first.weight, basis)  # the tables take the norm's scale, which is not the basis's own
    words, context = theirs.words.weight, min(len(mine.positions), len(theirs.positions))
    if mine.types is not None:
        mine.types.zero_()
        if theirs.types is not None:
            count = min(len(mine.types), len(theirs.types))
            mine.types[:count] = theirs.types[:count] @ into
    elif theirs.types is not None:
        words = words + theirs.types[0]
    mine.words.weight.copy_(words @ into)
    mine.positions[:context] = theirs.positions[:context] @ into
    if mine.first is None:
        return first @ basis
    stream = mine.words.weight[texts.ids] + mine.positions[: texts.ids.shape[1]]
    stream = stream if mine.types is None else stream + mine.types[0]
    return fit_norm(mine.first, bare(stream, mine.first.eps), first @ basis, texts.real)
