"""`clip_kd` and its parts (Yang et al. 2024, CLIP-KD, arXiv 2307.12732)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import contrastive, logits
from cmapkd.methods.term import Method, Term, reads


def fd(view: View) -> Tensor:
    """L_fd of both modalities, summed."""
    teacher, mine = view.taught.final, view.student.projected
    return logits.fd(mine.image, teacher.image) + logits.fd(mine.text, teacher.text)


def icl(view: View) -> Tensor:
    """L_icl: the student against the teacher's opposite tower, at the student's own scale."""
    teacher, mine = view.taught.final, view.student.projected
    return contrastive.interactive(mine.image, mine.text, teacher.image, teacher.text, view.scale, view.positives)


TERMS = {"fd": Term(fd, reads("teacher")), "icl": Term(icl, reads("teacher"))}
METHODS = {
    "fd": Method({"align": 1.0, "fd": 8.0}, about="final-embedding mimicry, the strongest single term of CLIP-KD"),
    "clip_kd": Method(
        {"align": 1.0, "logits": 1.0, "fd": 8.0, "icl": 1.0}, about="CLIP-KD's recipe: align + logits (CRD) + fd + icl"
    ),
}
