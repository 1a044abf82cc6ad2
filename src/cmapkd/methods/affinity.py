"""`tinyclip_affinity` (Wu et al. 2023, TinyCLIP, ICCV) and `open_clip_distill` (open_clip's DistillClipLoss)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import affinity as losses
from cmapkd.methods.term import Method, Term, reads


def affinity(view: View) -> Tensor:
    """Soft cross-entropy of both affinity matrices, each side at its own scale."""
    mine, teacher = view.student.final, view.taught.final
    return losses.affinity(mine.image, mine.text, teacher.image, teacher.text, view.scale, view.taught.scale)


TERMS = {"affinity": Term(affinity, reads("teacher"))}
METHODS = {
    "tinyclip_affinity": Method(
        {"align": 0.5, "affinity": 0.5}, about="TinyCLIP's affinity mimicking: half the task, half the affinities"
    ),
    "open_clip_distill": Method(
        {"align": 1.0, "affinity": 1.0}, about="what open_clip's own --distill-model trains: task + soft cross-entropy"
    ),
}
