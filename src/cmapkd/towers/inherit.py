"""Inheritance: a student begins as the least-squares image of its teacher, block by block, in closed form.

Weight inheritance (Wu et al. 2023, TinyCLIP) by linear algebra instead of by masks that are learnt: the streams of both
towers share a basis of principal components (Ashkboos et al. 2024, SliceGPT), and each student block takes over one
teacher block, evenly spread with the first and the last kept, its output maps fitted to where the teacher's stream is then
(`inherit_block.py`). Nothing is trained; it takes two passes and a quarter of the teacher over some hundred samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs, Pair
from cmapkd.pyramid.bridge import ridge
from cmapkd.pyramid.resample import resample_grid, resize_matrix
from cmapkd.towers.dual import Tower, evaluating
from cmapkd.towers.inherit_block import STRENGTH, Passage, bare, can_inherit, inherit_block, shared_basis
from cmapkd.towers.trimmed import length_of

CHUNK = 64
SPARSE = 4  # every fourth sample is enough for the shared basis


def refusals(student: Tower, teacher: Tower, mine: Inputs, theirs: Inputs) -> Pair[str]:
    """Per modality why the student's tower cannot inherit from the teacher's; empty where it can."""
    towers, image, text = (student, teacher), "", ""
    if not all(_plain_image(tower.clip.visual) for tower in towers):
        image = "only open_clip ViTs with a class token, a projection and plain blocks do"
    elif len({isinstance(tower.clip.visual.ln_pre, nn.LayerNorm) for tower in towers}) > 1:
        image = "one of the two ViTs has a norm before its blocks and the other has none"
    if not all(tower.brief and _plain_text(tower.text_module) for tower in towers):
        text = "only causal open_clip text towers with a projection and plain blocks do"
    elif not _same_words(student, teacher, mine.ids, theirs.ids):
        text = "its tokenizer is not the teacher's; set student.tokenizer: teacher"
    return Pair(image, text)


@torch.no_grad()
def inherit(student: Tower, teacher: Tower, mine: Inputs, theirs: Inputs) -> Pair[str]:
    """Set the student's weights from the teacher's, fitted on the same samples as each of the two reads them.

    mine, theirs: inputs of the two towers, image by image and caption by caption; images and captions need not be as
    many. Gives per modality why it did not inherit, empty where it did; that tower then stays as it was.
    Raises UsageError where neither can.
    """
    refused = refusals(student, teacher, mine, theirs)
    if refused.image and refused.text:
        raise UsageError(f"student.inherit: neither tower can; image: {refused.image}; text: {refused.text}")
    with evaluating(student), evaluating(teacher):
        image, image_end = (None, None) if refused.image else _image_streams(teacher, theirs.images)
        text, text_end = (None, None) if refused.text else _text_streams(teacher, theirs.ids)
        turn = _turn([end for end in (image_end, text_end) if end is not None], student.shape.embedding)
        if image is not None and image_end is not None:
            _inherit_image(student, teacher, mine.images, image, image_end @ turn)
        if text is not None and text_end is not None:
            _inherit_text(student, teacher, theirs.ids, text, text_end @ turn)
    if not (refused.image or refused.text):
        student.clip.logit_scale.copy_(teacher.clip.logit_scale)
    return refused


def _plain_image(visual: Any) -> bool:
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not isinstance(getattr(visual, "proj", None), Tensor):
        return False
    return visual.attn_pool is None and visual.pool_type == "tok" and all(can_inherit(block) for block in blocks)


def _plain_text(text: Any) -> bool:
    return isinstance(text.text_projection, Tensor) and all(can_inherit(block) for block in text.transformer.resblocks)


def _same_words(student: Tower, teacher: Tower, mine: Tensor, theirs: Tensor) -> bool:
    """Whether both read the same ids in captions [n, L], as far as the shorter context goes, from as many entries."""
    length = min(mine.shape[1], theirs.shape[1])
    whole = (theirs == teacher.tokenizer.end).int().argmax(1) < length
    sizes = {tower.text_module.token_embedding.num_embeddings for tower in (student, teacher)}
    return len(sizes) == 1 and bool(whole.any()) and torch.equal(mine[whole, :length], theirs[whole, :length])


def _image_streams(teacher: Tower, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(the stream before and after the norm in front of the blocks, [n, L, D] each; final embeddings [n, E])."""
    visual = teacher.clip.visual
    return _watched({"raw": visual.ln_pre, "first": visual.transformer}, visual, teacher.normalise(images))


def _text_streams(teacher: Tower, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(the stream before the blocks [n, L, D], final embeddings [n, E])."""
    return _watched({"first": teacher.text_module.transformer}, teacher.clip.encode_text, ids)


def _watched(
    modules: dict[str, nn.Module], call: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """(what each module was given, what call(inputs) gave), a chunk at a time."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [module.register_forward_pre_hook(_keeping(seen[name])) for name, module in modules.items()]
    try:
        end = torch.cat([call(part) for part in inputs.split(CHUNK)])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}, end


def _keeping(parts: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    return lambda _, given: parts.append(given[0])


def _turn(ends: list[Tensor], width: int) -> Tensor:
    """[E, width]: the same for both modalities, so that their cosines stay; principal directions where it is narrower."""
    rows = torch.cat([nn.functional.normalize(end, dim=-1) for end in ends]).double()
    if width >= rows.shape[1]:
        return torch.eye(rows.shape[1], width).to(ends[0])
    return torch.linalg.eigh(rows.T @ rows)[1][:, -width:].flip(1).to(ends[0])


def _inherit_image(student: Tower, teacher: Tower, images: Tensor, streams: dict[str, Tensor], end: Tensor) -> None:
    mine, theirs = student.clip.visual, teacher.clip.visual
    blocks, first = theirs.transformer.resblocks, streams["first"]
    fit = _to_grid(round((first.shape[1] - 1) ** 0.5), student.shape.grids[2])
    real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    basis = _basis(blocks, first, real, None, len(mine.class_embedding))
    normed = isinstance(theirs.ln_pre, nn.LayerNorm)
    into = _before_norm(theirs.ln_pre.weight, basis) if normed else basis
    stream = _patches(mine, student.normalise(images), fit(streams["raw"] @ into))
    if normed:
        stream = _scaled(mine.ln_pre, bare(stream), fit(first @ basis))
    real = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)
    stream = _walk(mine.transformer.resblocks, blocks, stream, first, fit, basis, real, None)
    _project(mine.ln_post, mine.proj, stream[:, 0], end)


def _inherit_text(student: Tower, teacher: Tower, ids: Tensor, streams: dict[str, Tensor], end: Tensor) -> None:
    mine, theirs = student.text_module, teacher.text_module
    context = min(len(mine.positional_embedding), len(theirs.positional_embedding))
    last = (ids == teacher.tokenizer.end).int().argmax(1)
    length = min(context, length_of(ids, teacher.tokenizer.end))
    fitting = last < length  # a caption that the shorter context cuts off ends elsewhere in the other
    ids, last, end, first = ids[fitting, :length], last[fitting], end[fitting], streams["first"][fitting, :length]
    real = torch.arange(length, device=ids.device)[None] <= last[:, None]
    blocks, mask = theirs.transformer.resblocks, theirs.attn_mask[:length, :length]
    basis = _basis(blocks, first, real, mask, mine.token_embedding.embedding_dim)
    mine.token_embedding.weight.copy_(theirs.token_embedding.weight @ basis)
    mine.positional_embedding[:context] = theirs.positional_embedding[:context] @ basis
    stream = _walk(mine.transformer.resblocks, blocks, first @ basis, first, lambda x: x, basis, real, mask)
    _project(mine.ln_final, mine.text_projection, stream[torch.arange(len(stream)), last], end)


def _basis(blocks: nn.ModuleList, x: Tensor, real: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """E [D, width] of the teacher's normed streams in front of and within all blocks."""
    second = torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
    x, real = x[::SPARSE], real[::SPARSE]
    for block in blocks:
        at = _passage(block, x, mask)
        for stream in (at.before, at.between):
            rows = bare(stream)[real]
            second += (rows.T @ rows / len(rows)).double()
        x = at.after
    return shared_basis(second, width)


def _walk(
    mine: nn.ModuleList, theirs: nn.ModuleList, stream: Tensor, x: Tensor, fit: Callable[[Tensor], Tensor],
    basis: Tensor, real: Tensor, mask: Tensor | None,
) -> Tensor:  # fmt: skip
    """Student block by student block, from where the teacher's stream x is before its first; the student's last stream."""
    done = 0
    for block, until in zip(mine, sources(len(mine), len(theirs)), strict=True):
        for skipped in theirs[done : until - 1]:
            x = _passage(skipped, x, mask).after
        source = theirs[until - 1]
        # A student that is deeper than its teacher stays where the teacher is.
        at = _passage(source, x, mask) if until > done else Passage(x, x, x)
        stream = inherit_block(
            block, source, stream, Passage(*map(fit, (at.before, at.between, at.after))), basis, real, mask
        )
        x, done = at.after, until
    return stream


def sources(depth: int, theirs: int) -> list[int]:
    """For each of `depth` student blocks how many teacher blocks it stands behind: evenly spread, the first and the last kept."""
    return [theirs] if depth == 1 else [round(1 + k * (theirs - 1) / (depth - 1)) for k in range(depth)]


def _passage(block: Any, x: Tensor, mask: Tensor | None) -> Passage:
    between, after = [], []
    for part in x.split(CHUNK):
        between.append(part + block.ls_1(block.attention(block.ln_1(part), attn_mask=mask)))
        after.append(between[-1] + block.ls_2(block.mlp(block.ln_2(between[-1]))))
    return Passage(x, torch.cat(between), torch.cat(after))


def _to_grid(side: int, mine: int) -> Callable[[Tensor], Tensor]:
    """From tokens [n, 1 + side², c] to [n, 1 + mine², c]: the map is resized, the class token stays."""
    if side == mine:
        return lambda x: x
    matrix = resize_matrix(side, mine)
    return lambda x: torch.cat([x[:, :1], resample_grid(x[:, 1:], matrix.to(x))], 1)


def _before_norm(scale: Tensor, basis: Tensor) -> Tensor:
    """[D, k]: from the teacher's stream before a norm with this scale to the student's before its own, up to a size."""
    off = scale[:, None] * basis
    off = off - off.mean(0)
    return off - off.mean(1, keepdim=True)


def _patches(mine: Any, images: Tensor, wanted: Tensor) -> Tensor:
    """Fit patch kernel, positions and class token to a stream [n, 1 + h², k]; gives what they make of the images."""
    side = mine.conv1.kernel_size[0]
    patches = nn.functional.unfold(images, side, stride=side).transpose(1, 2)  # [n, h², 3·side²]
    place = wanted.mean(0)
    weight, _ = ridge(patches.flatten(0, 1), (wanted - place)[:, 1:].flatten(0, 1), 1e-4)
    mine.conv1.weight.copy_(weight.T.unflatten(1, (3, side, side)))
    mine.class_embedding.zero_()
    mine.positional_embedding.copy_(place)
    mine.positional_embedding[1:] -= (patches @ weight).mean(0)
    return torch.cat([torch.zeros_like(wanted[:, :1]), patches @ weight], 1) + mine.positional_embedding


def _scaled(norm: Any, normed: Tensor, wanted: Tensor) -> Tensor:
    """Fit a norm's scale and bias, channel by channel, to tokens [n, L, k]; gives what it makes of `normed`."""
    rows, goal = normed.flatten(0, 1), wanted.flatten(0, 1)
    off, away = rows - rows.mean(0), goal - goal.mean(0)
    norm.weight.copy_((off * away).mean(0) / off.square().mean(0).clamp_min(1e-12))
    norm.bias.copy_(goal.mean(0) - norm.weight * rows.mean(0))
    return normed * norm.weight + norm.bias


def _project(norm: Any, projection: Tensor, stream: Tensor, end: Tensor) -> None:
    """Fit the last norm's bias and the projection to final embeddings [n, E]; the smallest bias that gives the constant."""
    weight, constant = ridge(bare(stream), end, STRENGTH)
    nn.init.ones_(norm.weight)
    projection.copy_(weight)
    norm.bias.copy_(torch.linalg.pinv(weight.T.double(), rtol=1e-2) @ constant.double())
