"""`dcclip`: feature distillation per tower, then contrast (DC-CLIP, arXiv 2404.11249); our reading, there is no code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View
from cmapkd.pyramid.maps import pool_map, side_of

LAST = ("P5", "L4")


class LastFeatures(Term):
    """SmoothL1(A(F_S), F_T) of the image's last level plus the same of the text's, the mean over tokens and channels."""

    reads = frozenset({"teacher_image", "teacher_text", "image_tokens", "text_tokens"})
    levels = LAST
    halves = True
    final = False

    def forward(self, view: View) -> Tensor:
        found = []
        for name in self.active_levels(view.levels):
            student, teacher = view.student.levels[name].values, view.teacher.levels[name].values
            if name in IMAGE_LEVELS:
                student, teacher = _on_the_coarser_map(name, student, teacher)
            found.append(F.smooth_l1_loss(student, teacher.detach()))
        return torch.stack(found).sum()


def _on_the_coarser_map(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both levels with their maps pooled to the smaller of the two sides."""
    side = min(side_of(name, student.shape[1]), side_of(name, teacher.shape[1]))
    return pool_map(name, student, side), pool_map(name, teacher, side)


TERMS = {"dcclip_feat": LastFeatures}
METHODS = {
    "dcclip": Method(
        {"align": 1.0, "dcclip_feat": 1.0},
        stages=(
            StageConfig(name="features", until=0.5, levels=LAST, scale={"align": 0.0}),
            StageConfig(name="contrast", until=1.0, levels=(), scale={"dcclip_feat": 0.0}),
        ),
        about="DC-CLIP as we read it: last features of each tower by SmoothL1, then contrast only",
    )
}
