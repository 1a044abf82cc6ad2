"""`kd`: logit distillation (Hinton et al. 2015, arXiv 1503.02531) on the batch's image-text logits."""

from __future__ import annotations

from torch import Tensor

from cmapkd.losses import logits
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class LogitKD(Term):
    """L_logits: T² · mean_b ½ [KL(softmax(z_T / T) ‖ softmax(z_S / T)) of rows + of columns], z = s · v tᵀ.

    By default T = 1 and the teacher's scale stands on both sides. `scale: own` gives each side its own, `constant` both
    the number `constant`.
    """

    reads = frozenset({"teacher_image", "teacher_text"})
    options = {"temperature": 1.0, "scale": ("teacher", "own", "constant"), "constant": 100.0}

    def forward(self, view: View) -> Tensor:
        teacher, mine, constant = view.teacher, view.student.final, self.chosen["constant"]
        scales = {"teacher": (teacher.scale,) * 2, "own": (view.scale, teacher.scale), "constant": (constant,) * 2}
        final, temperature = teacher.final, self.chosen["temperature"]
        return logits.logits(mine.image, mine.text, final.image, final.text, *scales[self.chosen["scale"]], temperature)


TERMS = {"logits": LogitKD}
METHODS = {
    "kd": Method({"align": 1.0, "logits": 1.0}, about="logit distillation (Hinton et al. 2015) on CLIP's logits")
}
