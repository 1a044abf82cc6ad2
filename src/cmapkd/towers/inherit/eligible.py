"""Eligibility of a student tower to inherit from a teacher tower, with the reason where it cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.types import Inputs
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.families.text_clip import has_blocks
from cmapkd.towers.inherit.head import unfit
from cmapkd.towers.inherit.image_parts import ImageParts
from cmapkd.towers.inherit.parts import BlockParts
from cmapkd.towers.inherit.streams import passage, recorded
from cmapkd.towers.inherit.text_parts import TextParts

FEW = 4  # samples on which the parts of a tower are compared with the tower itself
EXACT = 1e-3  # largest difference of the two, relative to the largest activation


def image_refusal(
    student: DualEncoder, teacher: DualEncoder, mine: ImageParts | None, theirs: ImageParts | None, given: Inputs, read: Inputs
) -> str:  # fmt: skip
    """The reason why the student's image tower cannot inherit from the teacher's; empty where it can."""
    if student.kept == "image":
        return "it is the teacher's own image tower"
    if mine is None or theirs is None:
        who, native = ("its", student.image.native) if mine is None else ("the teacher's", teacher.image.native)
        name = type(getattr(native, "trunk", getattr(native, "vision", native))).__name__
        return (
            f"{who} image tower ({name}) is no plain ViT of open_clip or timm, or of Hugging Face's CLIP or SigLIP; towers "
            "of convolutions or rotary positions never inherit"
        )
    if (mine.before is None) != (theirs.before is None):
        return "one of the two ViTs has a norm before its blocks and the other has none"
    if mine.probe is not None and theirs.probe is None:
        return "it pools by attention, which its teacher has not; use a ViT that pools a class token or the mean"
    if mine.patches.kernel_size != mine.patches.stride or mine.patches.padding not in ((0, 0), "valid"):
        return "its patches overlap"
    if mine.probe is not None and mine.head.weight is None and not mine.head.hidden:
        reason = ""  # the end of the pooling's MLP is the projection
    else:
        reason = unfit(mine.head, theirs.head, (mine.width, theirs.width), False)
    if reason := reason or _blocks(mine.blocks, theirs.blocks):
        return reason
    for parts, tower, images in ((mine, student, given.images), (theirs, teacher, read.images)):
        pixels = tower.normalise(images[:FEW])
        if not _faithful(parts.modules, parts.blocks, tower.image.encode, pixels, None, None):
            return _unknown(tower is student, parts.modules)
    return ""


def text_refusal(
    student: DualEncoder, teacher: DualEncoder, mine: TextParts | None, theirs: TextParts | None, given: Inputs, read: Inputs
) -> str:  # fmt: skip
    """The reason why the student's text tower cannot inherit from the teacher's; empty where it can."""
    if student.kept == "text":
        return "it is the teacher's own text tower"
    if mine is None or theirs is None:
        who, native = ("its", student.text.native) if mine is None else ("the teacher's", teacher.text.native)
        inner = native if has_blocks(native) else getattr(native, "transformer", getattr(native, "text", native))
        return (
            f"{who} text tower ({type(inner).__name__}) is no plain transformer of open_clip, or of Hugging Face's BERT, "
            "RoBERTa, CLIP or SigLIP"
        )
    if mine.attention != theirs.attention:
        return f"its attention is {mine.attention} and its teacher's is {theirs.attention}"
    if (mine.first is None) != (theirs.first is None):
        return "one of the two has a norm behind its embeddings and the other has none"
    if mine.attention == "whole" and given.ids.shape[1] != read.ids.shape[1]:
        return f"it reads padding, and its context is {given.ids.shape[1]} where its teacher's is {read.ids.shape[1]}"
    if not _same_tokens(teacher, (mine, theirs), given.ids, read.ids):
        return "its tokenizer is not the teacher's; set student.tokenizer: teacher"
    exact = mine.blocks[0].post
    if reason := unfit(mine.head, theirs.head, (mine.width, theirs.width), exact) or _blocks(
        mine.blocks, theirs.blocks
    ):
        return reason
    for parts, tower, ids in ((mine, student, given.ids), (theirs, teacher, read.ids)):
        real = parts.real(ids[:FEW])
        if not _faithful(parts.modules, parts.blocks, tower.text.encode, ids[:FEW], real, parts):
            return _unknown(tower is student, parts.modules)
    return ""


def _blocks(mine: list[BlockParts], theirs: list[BlockParts]) -> str:
    """The reason why blocks cannot be fitted to the teacher's, empty where they can."""
    if mine[0].post != theirs[0].post:
        return "one of the two has its norms behind attention and MLP, as BERT, and the other before them"
    for who, blocks in (("its", mine), ("the teacher's", theirs)):
        norms = [norm for block in blocks for norm in (block.first, block.second)]
        if not all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms):
            return f"{who} blocks have other norms than LayerNorm with a scale and a bias"
        linears = [linear for block in blocks for linear in (block.out, block.fc, block.project)]
        if not all(isinstance(linear, nn.Linear) and linear.bias is not None for linear in linears):
            return f"{who} blocks have linear maps without bias, or of another kind"
    if any(read.bias is None for block in mine for read in block.qkv):
        return "its queries, keys and values have no bias, which has to hold what a norm adds"
    return ""


def _faithful(
    modules: list[nn.Module], blocks: list[BlockParts], call: Any, inputs: Tensor, real: Tensor | None, text: TextParts | None
) -> bool:  # fmt: skip
    """Whether the parts of the blocks give the tower's own stream after its last block."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)

    hook = modules[-1].register_forward_hook(keep)
    try:
        stream = recorded({"first": modules[0]}, call, inputs)[0]["first"]
    finally:
        hook.remove()
    real = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device) if real is None else real
    real = real[:, : stream.shape[1]]
    for block in blocks:
        stream = passage(block, stream, None if text is None else text.mask(real)).after
    return float((stream - found[0])[real].abs().max()) <= EXACT * float(found[0][real].abs().max())


def _unknown(student: bool, modules: list[nn.Module]) -> str:
    whose = "its" if student else "the teacher's"
    return f"{whose} blocks ({type(modules[-1]).__name__}) do more than attention, MLP and norms"


def _same_tokens(teacher: DualEncoder, parts: tuple[TextParts, TextParts], mine: Tensor, theirs: Tensor) -> bool:
    """Whether both give the same ids to captions [n, L], up to the shorter context, and have vocabularies of one size."""
    length = min(mine.shape[1], theirs.shape[1])
    whole = (theirs == teacher.tokenizer.end).int().argmax(1) < length
    sizes = {part.words.num_embeddings for part in parts}
    return len(sizes) == 1 and bool(whole.any()) and torch.equal(mine[whole, :length], theirs[whole, :length])
