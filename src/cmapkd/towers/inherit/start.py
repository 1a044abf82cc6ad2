"""Inherit a student's weights from its teacher, block by block, in closed form.

Weight inheritance (Wu et al. 2023, TinyCLIP) by linear algebra instead of learnt masks. The residual streams of both
towers share a basis of principal components (Ashkboos et al. 2024, SliceGPT). Each student block is fitted to one
teacher block; these are evenly spread over the depth, with the first and the last kept. Nothing is trained; it takes
two and a quarter forward passes of the teacher over some hundred samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs, Pair
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.inherit.eligible import refusals
from cmapkd.towers.inherit.image import image_streams, inherit_image
from cmapkd.towers.inherit.text import inherit_text, text_streams


@torch.no_grad()
def inherit(student: DualEncoder, teacher: DualEncoder, mine: Inputs, theirs: Inputs) -> Pair[str]:
    """Set the student's weights from the teacher's, fitted on the same samples as each of the two reads them.

    mine, theirs: inputs of the student and of the teacher, image by image and caption by caption; the numbers of images
    and of captions may differ. Returns per modality the reason why that tower did not inherit and keeps its weights,
    empty where it did. Raises UsageError where neither tower can.
    """
    refused = refusals(student, teacher, mine, theirs)
    if refused.image and refused.text:
        raise UsageError(f"student.inherit: neither tower can; image: {refused.image}; text: {refused.text}")
    with evaluating(student), evaluating(teacher):
        image, image_end = (None, None) if refused.image else image_streams(teacher, theirs.images)
        text, text_end = (None, None) if refused.text else text_streams(teacher, theirs.ids)
        rotation = _rotation([end for end in (image_end, text_end) if end is not None], student.shape.embedding)
        if image is not None and image_end is not None:
            inherit_image(student, teacher, mine.images, image, image_end @ rotation)
        if text is not None and text_end is not None:
            inherit_text(student, teacher, theirs.ids, text, text_end @ rotation)
    if not (refused.image or refused.text):
        student.similarity.copy_(teacher.similarity)
    return refused


def _rotation(ends: list[Tensor], width: int) -> Tensor:
    """[E, width] for final embeddings of both modalities alike, which keeps their cosines; to a smaller width, the
    principal directions."""
    rows = torch.cat([nn.functional.normalize(end, dim=-1) for end in ends]).double()
    if width >= rows.shape[1]:
        return torch.eye(rows.shape[1], width).to(ends[0])
    return torch.linalg.eigh(rows.T @ rows)[1][:, -width:].flip(1).to(ends[0])
