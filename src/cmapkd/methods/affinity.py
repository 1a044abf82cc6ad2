"""`tinyclip_affinity` (Wu et al. 2023, TinyCLIP, ICCV) and `open_clip_distill` (open_clip's DistillClipLoss)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.losses.both_kinds import affinity
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class Affinity(Term):
    """Soft cross-entropy of both affinity matrices, each side at its own scale."""

    reads = frozenset({"teacher_image", "teacher_text"})

    def forward(self, view: View) -> Tensor:
        teacher = view.teacher
        return affinity(view.student.final, teacher.final, view.similarity, teacher.similarity, view.positives)


TERMS = {"affinity": Affinity}
METHODS = {
    "tinyclip_affinity": Method(
        {"align": 0.5, "affinity": 0.5}, about="TinyCLIP's affinity mimicking: half the task, half the affinities"
    ),
    "open_clip_distill": Method(
        {"align": 1.0, "affinity": 1.0}, about="open_clip's own --distill-model training: task + soft cross-entropy"
    ),
}
