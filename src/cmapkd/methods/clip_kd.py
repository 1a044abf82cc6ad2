"""`clip_kd` and each of its parts alone (Yang et al. 2024, CLIP-KD, arXiv 2307.12732)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import View
from cmapkd.losses import contrastive, gradient, logits
from cmapkd.methods.term import Method, Sizes, Term, reads


def fd(view: View) -> Tensor:
    """L_fd of both modalities, summed."""
    teacher, mine = view.taught.final, view.student.projected
    return logits.fd(mine.image, teacher.image) + logits.fd(mine.text, teacher.text)


def mfd(view: View) -> Tensor:
    """L_fd where the student's images are mostly hidden and the teacher's are whole; texts as in L_fd."""
    teacher, masked = view.taught.final, view.student.masked
    assert masked is not None
    return logits.fd(masked, teacher.image) + logits.fd(view.student.projected.text, teacher.text)


def icl(view: View) -> Tensor:
    """L_icl: the student against the teacher's opposite tower, at the student's own scale."""
    teacher, mine = view.taught.final, view.student.projected
    return contrastive.interactive(mine.image, mine.text, teacher.image, teacher.text, view.scale, view.positives)


def crd_relational(view: View) -> Tensor:
    """L_crd: KL of the batch's logits both ways, each side at its own scale."""
    mine, teacher = view.student.final, view.taught.final
    return logits.logits(mine.image, mine.text, teacher.image, teacher.text, view.scale, view.taught.scale)


def gd(view: View) -> Tensor:
    """L_gd in units of the teacher's gradients, so that its weight is the same for every batch size, width and scale."""
    mine, teacher = view.student.projected, view.taught.final
    scale = view.taught.scale
    loss = gradient.gradient_distance(
        mine.image, mine.text, teacher.image, teacher.text, view.scale, scale, view.positives
    )
    return loss / gradient.gradient_unit(*teacher.image.shape, scale)


class Fusion(nn.Module):
    """AFD's fusion of student and teacher, one map per modality, and the temperature of the fused embeddings."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.image, self.text = (nn.Linear(student + teacher, student) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def afd(view: View) -> Tensor:
    """L_afd: the contrastive loss of normalize(W [v_S; v_T]) and normalize(W' [t_S; t_T]) at a scale of its own."""
    fusion, mine, teacher = view.parts["afd"], view.student.final, view.taught.final
    assert isinstance(fusion, Fusion)
    image = fusion.image(torch.cat([F.normalize(mine.image, dim=-1), teacher.image], 1))
    text = fusion.text(torch.cat([F.normalize(mine.text, dim=-1), teacher.text], 1))
    return contrastive.align(image, text, fusion.log_scale.exp().clamp_max(100.0), view.positives)


def _fusion(sizes: Sizes) -> Fusion:
    assert sizes.teacher is not None
    return Fusion(sizes.student.embedding, sizes.teacher.embedding)


TERMS = {
    "fd": Term(fd, reads("teacher")),
    "mfd": Term(mfd, reads("teacher", "masked")),
    "icl": Term(icl, reads("teacher")),
    "crd_relational": Term(crd_relational, reads("teacher")),
    "gd": Term(gd, reads("teacher")),
    "afd": Term(afd, reads("teacher"), part=_fusion),
}
METHODS = {
    "fd": Method({"align": 1.0, "fd": 8.0}, about="final-embedding mimicry, the strongest single term of CLIP-KD"),
    "mfd": Method(
        {"align": 1.0, "mfd": 8.0}, about="CLIP-KD's MFD: embedding mimicry from images that are 75 % hidden"
    ),
    "icl": Method({"align": 1.0, "icl": 1.0}, about="CLIP-KD's ICL: the student against the teacher's opposite tower"),
    "crd_relational": Method({"align": 1.0, "crd_relational": 1.0}, about="CLIP-KD's CRD: logit KL, own scales"),
    "gd": Method({"align": 1.0, "gd": 1.0}, about="CLIP-KD's GD: the gradients of the contrastive loss"),
    "afd": Method({"align": 1.0, "afd": 1.0}, about="CLIP-KD's AFD: contrast of fused student-teacher embeddings"),
    "clip_kd": Method(
        {"align": 1.0, "logits": 1.0, "fd": 8.0, "icl": 1.0}, about="CLIP-KD's recipe: align + logits (CRD) + fd + icl"
    ),
}
