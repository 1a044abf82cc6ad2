"""`clip_kd` and each of its parts alone (Yang et al. 2024, CLIP-KD, arXiv 2307.12732)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import Pair
from cmapkd.losses import both_kinds, contrastive, gradient, logits
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term, TermSizes, sum_of
from cmapkd.methods.view import View


class FD(Term):
    """L_fd of both modalities, summed."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True

    def forward(self, view: View) -> Tensor:
        teacher, mine = view.teacher.final, view.student.projected
        return sum_of(logits.fd(mine.of(side), teacher.of(side)) for side in view.sides)


class MFD(Term):
    """L_fd where the student's images are mostly masked and the teacher's are whole; texts as in L_fd."""

    reads = frozenset({"teacher_image", "teacher_text", "masked_images"})
    halves = True

    def forward(self, view: View) -> Tensor:
        teacher, mine = view.teacher.final, Pair(view.masked, view.student.projected.text)
        return sum_of(logits.fd(mine.of(side), teacher.of(side)) for side in view.sides)


class ICL(Term):
    """L_icl: the student against the teacher's opposite tower, at the student's own scale and bias."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True
    crosses = True

    def forward(self, view: View) -> Tensor:
        teacher, mine = view.teacher.final, view.student.projected
        other = Pair(mine.text, mine.image)
        return sum_of(
            both_kinds.against_other(other.of(side), teacher.of(side), view.similarity, view.positives)
            for side in view.sides
        )


class RelationalCRD(Term):
    """L_crd: KL of the batch's logits both ways, each side at its own scale and bias."""

    reads = frozenset({"teacher_image", "teacher_text"})

    def forward(self, view: View) -> Tensor:
        teacher = view.teacher
        return both_kinds.distill(
            view.student.final, teacher.final, view.similarity, teacher.similarity, view.positives
        )


class GD(Term):
    """L_gd in units of the teacher's gradients, so that its weight is the same for every batch size, width and scale."""

    reads = frozenset({"teacher_image", "teacher_text"})

    def forward(self, view: View) -> Tensor:
        mine, teacher, theirs = view.student.projected, view.teacher.final, view.teacher.similarity
        loss = gradient.gradient_distance(
            mine.image, mine.text, teacher.image, teacher.text, view.similarity, theirs, view.positives
        )
        return loss / gradient.gradient_unit(*teacher.image.shape, theirs.scale)


class AFD(Term):
    """L_afd: the contrastive loss of normalize(W [v_S; v_T]) and normalize(W' [t_S; t_T]) at a scale of its own."""

    reads = frozenset({"teacher_image", "teacher_text"})

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        student, teacher = sizes.embeddings
        self.image, self.text = (nn.Linear(student + teacher, student) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, view: View) -> Tensor:
        mine, teacher = view.student.final, view.teacher.final
        image = self.image(torch.cat([F.normalize(mine.image, dim=-1), teacher.image], 1))
        text = self.text(torch.cat([F.normalize(mine.text, dim=-1), teacher.text], 1))
        return contrastive.align(image, text, self.log_scale.exp().clamp_max(100.0), view.positives)


TERMS = {"fd": FD, "mfd": MFD, "icl": ICL, "crd_relational": RelationalCRD, "gd": GD, "afd": AFD}
METHODS = {
    "fd": Method({"align": 1.0, "fd": 8.0}, about="final-embedding mimicry, the strongest single term of CLIP-KD"),
    "mfd": Method(
        {"align": 1.0, "mfd": 8.0}, about="CLIP-KD's MFD: embedding mimicry from images of which 75 % is masked"
    ),
    "icl": Method({"align": 1.0, "icl": 1.0}, about="CLIP-KD's ICL: the student against the teacher's opposite tower"),
    "crd_relational": Method({"align": 1.0, "crd_relational": 1.0}, about="CLIP-KD's CRD: logit KL, own scales"),
    "gd": Method({"align": 1.0, "gd": 1.0}, about="CLIP-KD's GD: the gradients of the contrastive loss"),
    "afd": Method({"align": 1.0, "afd": 1.0}, about="CLIP-KD's AFD: contrast of fused student-teacher embeddings"),
    "clip_kd": Method(
        {"align": 1.0, "logits": 1.0, "fd": 8.0, "icl": 1.0}, about="CLIP-KD's recipe: align + logits (CRD) + fd + icl"
    ),
}
