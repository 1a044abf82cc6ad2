"""`mobileclip_dr`: training on a reinforced dataset (Vasu et al. 2024, MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses.ensemble import ensemble
from cmapkd.methods.term import Method, Term, reads


def reinforced(view: View) -> Tensor:
    """L_Distill with all stored teachers, each side at its own scale; K = 1 without `cache.ensemble`."""
    finals, scales = zip((view.taught.final, view.taught.scale), *view.taught.others, strict=True)
    return ensemble(view.student.final, view.scale, finals, scales)


TERMS = {"reinforced": Term(reinforced, reads("teacher", "ensemble"))}
METHODS = {
    "mobileclip_dr": Method(
        {"reinforced": 1.0},
        about="MobileCLIP's loss over stored views at λ = 1: distillation only, by all stored teachers",
    )
}
