"""`kd`: logit distillation (Hinton et al. 2015, arXiv 1503.02531) on the batch's image-text logits."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import logits
from cmapkd.methods.term import Method, Term, picked, reads


def logit_kd(view: View) -> Tensor:
    """L_logits: T² · mean_b ½ [KL(softmax(z_T / T) ‖ softmax(z_S / T)) of rows + of columns], z = s · v tᵀ.

    By default T = 1 and the teacher's scale stands on both sides. `scale: own` gives each side its own, `constant` both
    the number `constant`.
    """
    chosen, teacher, mine = picked(view, "logits", OPTIONS), view.taught, view.student.final
    constant = chosen["constant"]
    scales = {"teacher": (teacher.scale,) * 2, "own": (view.scale, teacher.scale), "constant": (constant,) * 2}
    student_scale, teacher_scale = scales[chosen["scale"]]
    return logits.logits(
        mine.image, mine.text, teacher.final.image, teacher.final.text, student_scale, teacher_scale,
        chosen["temperature"],
    )  # fmt: skip


OPTIONS = {"temperature": 1.0, "scale": ("teacher", "own", "constant"), "constant": 100.0}
TERMS = {"logits": Term(logit_kd, reads("teacher"), options=OPTIONS)}
METHODS = {
    "kd": Method({"align": 1.0, "logits": 1.0}, about="logit distillation (Hinton et al. 2015) on CLIP's logits")
}
