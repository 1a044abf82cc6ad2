"""`dcclip`: feature distillation per tower, then contrast (DC-CLIP, arXiv 2404.11249); our reading, there is no code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import View
from cmapkd.methods.term import Method, Term, reads
from cmapkd.pyramid.resample import resample_grid, resize_matrix

LAST = ("P5", "L4")


def dcclip_feat(view: View) -> Tensor:
    """SmoothL1(A(F_S), F_T) of the image's last level plus the same of the text's, the mean over tokens and channels."""
    found = []
    for name in LAST:
        if name in view.student.levels:
            student, teacher = view.student.levels[name], view.taught.levels[name]
            if name == "P5":
                student, teacher = _common(student, teacher)
            found.append(F.smooth_l1_loss(student, teacher.detach()))
    return torch.stack(found).sum() if found else view.student.final.image.sum() * 0


def _common(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both P5 [B, side² + 2, r] on the coarser of the two grids; the summary and the mean stay as they are."""
    sides = [round((tokens.shape[1] - 2) ** 0.5) for tokens in (student, teacher)]
    out = []
    for tokens, side in zip((student, teacher), sides, strict=True):
        matrix = resize_matrix(side, min(sides)).to(tokens)
        out.append(torch.cat([resample_grid(tokens[:, :-2], matrix), tokens[:, -2:]], 1))
    return out[0], out[1]


TERMS = {"dcclip_feat": Term(dcclip_feat, reads("levels"), final=False)}
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
