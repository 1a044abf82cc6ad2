"""Eligibility of a student tower to inherit from a teacher tower, with the reason where it cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.types import SIDES, Inputs, Pair
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.families.text_clip import has_blocks
from cmapkd.towers.families.trimmed import can_trim


def refusals(student: DualEncoder, teacher: DualEncoder, mine: Inputs, theirs: Inputs) -> Pair[str]:
    """Per modality the reason why the student's tower cannot inherit from the teacher's; empty where it can."""
    image, text = (f"it is the teacher's own {side} tower" if student.kept == side else "" for side in SIDES)
    visuals: list[Any] = [student.image.native, teacher.image.native]
    if image:
        pass
    elif not all(_plain_image(visual) for visual in visuals):
        image = "only open_clip ViTs with a class token, a projection and plain blocks do"
    elif len({isinstance(visual.ln_pre, nn.LayerNorm) for visual in visuals}) > 1:
        image = "one of the two ViTs has a norm before its blocks and the other has none"
    if text:
        pass
    elif not all(_plain_text(tower.text.native) for tower in (student, teacher)):
        text = "only causal open_clip text towers with a projection and plain blocks do"
    elif not _same_tokens(student, teacher, mine.ids, theirs.ids):
        text = "its tokenizer is not the teacher's; set student.tokenizer: teacher"
    return Pair(image, text)


def _plain_image(visual: Any) -> bool:
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not isinstance(getattr(visual, "proj", None), Tensor):
        return False
    return visual.attn_pool is None and visual.pool_type == "tok" and all(_plain_block(block) for block in blocks)


def _plain_text(text: Any) -> bool:
    plain = has_blocks(text) and can_trim(text) and isinstance(text.text_projection, Tensor)
    return plain and all(_plain_block(block) for block in text.transformer.resblocks)


def _plain_block(block: Any) -> bool:
    """Whether a block is a plain pre-norm one: attention with one input map, an MLP, no scale on its outputs."""
    attention = getattr(block, "attn", None)
    plain = (
        isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None and attention.batch_first
    )
    return plain and isinstance(block.ls_1, nn.Identity) and hasattr(block.mlp, "c_fc")


def _same_tokens(student: DualEncoder, teacher: DualEncoder, mine: Tensor, theirs: Tensor) -> bool:
    """Whether both give the same ids to captions [n, L], up to the shorter context, and have vocabularies of one size."""
    length = min(mine.shape[1], theirs.shape[1])
    whole = (theirs == teacher.tokenizer.end).int().argmax(1) < length
    texts: list[Any] = [student.text.native, teacher.text.native]
    sizes = {text.token_embedding.num_embeddings for text in texts}
    return len(sizes) == 1 and bool(whole.any()) and torch.equal(mine[whole, :length], theirs[whole, :length])
