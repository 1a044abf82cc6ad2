"""`kd`: logit distillation (Hinton et al. 2015, arXiv 1503.02531) on the batch's image-text logits."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import logits
from cmapkd.methods.term import Method, Term, reads


def logit_kd(view: View) -> Tensor:
    """L_logits at T = 1, the teacher's scale on both sides."""
    teacher, mine = view.taught, view.student.final
    scale = teacher.scale
    return logits.logits(mine.image, mine.text, teacher.final.image, teacher.final.text, scale, scale)


TERMS = {"logits": Term(logit_kd, reads("teacher"))}
METHODS = {
    "kd": Method({"align": 1.0, "logits": 1.0}, about="logit distillation (Hinton et al. 2015) on CLIP's logits")
}
