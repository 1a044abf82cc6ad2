"""Inherit a student's weights from its teacher, block by block, in closed form.

Weight inheritance (Wu et al. 2023, TinyCLIP) by linear algebra instead of learnt masks. The residual streams of both
towers share a basis of principal components (Ashkboos et al. 2024, SliceGPT). Each student block is fitted to one
teacher block; these are evenly spread over the depth, with the first and the last kept. Nothing is trained; it takes
two and a quarter forward passes of the teacher over some hundred samples.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs, Pair
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.inherit.eligible import image_refusal, text_refusal
from cmapkd.towers.inherit.image import image_streams, inherit_image
from cmapkd.towers.inherit.image_parts import image_parts
from cmapkd.towers.inherit.probe import principal
from cmapkd.towers.inherit.text import inherit_text, text_streams
from cmapkd.towers.inherit.text_parts import text_parts

Parts = TypeVar("Parts")


@torch.no_grad()
def inherit(student: DualEncoder, teacher: DualEncoder, mine: Inputs, theirs: Inputs) -> Pair[str]:
    """Set the student's weights from the teacher's, fitted on the same samples as each of the two reads them.

    mine, theirs: inputs of the student and of the teacher, image by image and caption by caption; the numbers of images
    and of captions may differ. Returns per modality the reason why that tower did not inherit and keeps its weights,
    empty where it did. Raises UsageError where neither tower can.
    """
    with evaluating(student), evaluating(teacher):
        images = image_parts(student.image), image_parts(teacher.image)
        texts = text_parts(student.text), text_parts(teacher.text)
        refused = Pair(
            image_refusal(student, teacher, *images, mine, theirs),
            text_refusal(student, teacher, *texts, mine, theirs),
        )
        if refused.image and refused.text:
            raise UsageError(f"student.inherit: neither tower can; image: {refused.image}; text: {refused.text}")
        image, image_end = (
            image_streams(teacher, known(images)[1], theirs.images) if not refused.image else (None, None)
        )
        text, text_end = text_streams(teacher, known(texts)[1], theirs.ids) if not refused.text else (None, None)
        rotation = _rotation([end for end in (image_end, text_end) if end is not None], student.shape.embedding)
        if image is not None and image_end is not None:
            pixels, grid = student.normalise(mine.images), student.image.grids[2]
            inherit_image(*known(images), pixels, grid, image, image_end @ rotation, rotation)
        if text is not None and text_end is not None:
            inherit_text(*known(texts), theirs.ids, text, text_end @ rotation)
    if not (refused.image or refused.text):
        student.similarity.copy_(teacher.similarity)
    return refused


def known(parts: tuple[Parts | None, Parts | None]) -> tuple[Parts, Parts]:
    """The views of student and teacher, which a tower that is not refused has."""
    mine, theirs = parts
    assert mine is not None and theirs is not None
    return mine, theirs


def _rotation(ends: list[Tensor], width: int) -> Tensor:
    """[E, width] for final embeddings of both modalities alike, which keeps their cosines."""
    return principal(torch.cat([nn.functional.normalize(end, dim=-1) for end in ends]), width)
