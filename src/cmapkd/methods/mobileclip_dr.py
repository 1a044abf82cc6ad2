"""`mobileclip_dr`: training on a reinforced dataset (Vasu et al. 2024, MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.losses.ensemble import ensemble
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class Reinforced(Term):
    """L_Distill with all stored teachers, each side at its own scale and bias; K = 1 without `cache.ensemble`."""

    reads = frozenset({"teacher_image", "teacher_text", "further_teachers"})

    def forward(self, view: View) -> Tensor:
        teacher = view.teacher
        teachers = ((teacher.final, teacher.similarity), *teacher.others)
        return ensemble(view.student.final, view.similarity, teachers, view.positives)


TERMS = {"reinforced": Reinforced}
METHODS = {
    "mobileclip_dr": Method(
        {"reinforced": 1.0},
        about="MobileCLIP's loss over stored views at λ = 1: distillation only, by all stored teachers",
    )
}
