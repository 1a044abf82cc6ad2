"""`mobileclip_dr`: training on a reinforced dataset (Vasu et al. 2024, MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses.ensemble import ensemble
from cmapkd.methods.term import Method, Term, reads


def reinforced(view: View) -> Tensor:
    """L_Distill with the one teacher that is stored, K = 1, each side at its own scale."""
    teacher = view.taught
    return ensemble(view.student.final, view.scale, [teacher.final], [teacher.scale])


TERMS = {"reinforced": Term(reinforced, reads("teacher"))}
METHODS = {
    "mobileclip_dr": Method(
        {"reinforced": 1.0}, about="MobileCLIP's loss over stored views at λ = 1: distillation only, one stored teacher"
    )
}
