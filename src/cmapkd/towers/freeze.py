"""Frozen sides of a student: parameters that do not learn, and modules that stay in eval mode.

A side that is the teacher's own is frozen with all of it. Of another frozen side the tower is frozen and its projection to the
joint space learns, so that two pre-trained towers can be brought into one space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from cmapkd.core.types import SIDES, Side

if TYPE_CHECKING:
    from cmapkd.towers.dual import DualEncoder

OF_IMAGES = ("visual", "vision", "image")
SCALES = ("logit_scale", "logit_bias")
PROJECTION = re.compile(
    r"(visual\.|text\.)?(proj|head|text_projection|visual_projection|vision_proj|text_proj|image_projection)(\.|$)"
    r"|visual\.attnpool\.c_proj\."
)


def side_of(name: str) -> Side | None:
    """The side of a parameter or module of a CLIP-type model, None for the scale and bias of the similarity."""
    if name.startswith(SCALES):
        return None
    return "image" if name.startswith(OF_IMAGES) else "text"


def freeze(student: DualEncoder, sides: tuple[Side, ...]) -> None:
    """Freeze `sides` but for their projections, and whole the side that is the teacher's, with the scale and the bias."""
    student.frozen = tuple(side for side in SIDES if side in sides or side == student.kept)
    for name, parameter in student.native.named_parameters():
        side = side_of(name)
        whole = student.kept is not None and side in (student.kept, None)
        if whole or (side in student.frozen and not PROJECTION.match(name)):
            parameter.requires_grad_(False)
    student.train(student.training)


def frozen_modules(student: DualEncoder) -> Iterator[nn.Module]:
    """The modules of the frozen sides, which stay in eval mode."""
    return (module for name, module in student.native.named_children() if side_of(name) in student.frozen)
