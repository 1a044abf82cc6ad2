"""`kd`: logit distillation (Hinton et al. 2015, arXiv 1503.02531) on the batch's image-text logits."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import LogitScale
from cmapkd.losses.both_kinds import distill
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class LogitKD(Term):
    """L_logits: T² · mean_b ½ [KL(softmax(z_T / T) ‖ softmax(z_S / T)) of rows + of columns], z = s · v tᵀ.

    By default T = 1 and the teacher's scale (and bias, where both have one) stands on both sides. `scale: own` gives each
    side its own, `constant` both the number `constant`. A sigmoid student of a softmax teacher has its own for `teacher`, too:
    its bias belongs to its scale.
    """

    reads = frozenset({"teacher_image", "teacher_text"})
    options = {"temperature": 1.0, "scale": ("teacher", "own", "constant"), "constant": 100.0}

    def forward(self, view: View) -> Tensor:
        mine, theirs = self.scales(view.similarity, view.teacher.similarity)
        final, temperature = view.teacher.final, self.chosen["temperature"]
        return distill(view.student.final, final, mine, theirs, view.positives, temperature)

    def scales(self, mine: LogitScale, theirs: LogitScale) -> tuple[LogitScale, LogitScale]:
        """The student's and the teacher's scale and bias as the switches want them."""
        if self.chosen["scale"] == "constant":
            return mine.at(self.chosen["constant"]), theirs.at(self.chosen["constant"])
        if self.chosen["scale"] == "teacher":
            if mine.kind == "softmax":
                return LogitScale(theirs.scale), theirs
            if theirs.kind == "sigmoid":
                return theirs, theirs
        return mine, theirs


TERMS = {"logits": LogitKD}
METHODS = {
    "kd": Method({"align": 1.0, "logits": 1.0}, about="logit distillation (Hinton et al. 2015) on CLIP's logits")
}
