"""`rkd`: relations between samples, by distance and by angle (Park et al. 2019, RKD, arXiv 1904.05068)."""

from __future__ import annotations

from torch import Tensor

from cmapkd.losses.rkd import angle_loss, distance_loss
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term, sum_of
from cmapkd.methods.view import View


class Distances(Term):
    """RKD-D within the images plus RKD-D within the texts, of the student's embeddings as they are."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True

    def forward(self, view: View) -> Tensor:
        mine, teacher = view.student.final, view.teacher.final
        return sum_of(distance_loss(mine.of(side), teacher.of(side)) for side in view.sides)


class Angles(Term):
    """RKD-A within the images plus RKD-A within the texts, of the student's embeddings as they are."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True

    def forward(self, view: View) -> Tensor:
        mine, teacher = view.student.final, view.teacher.final
        return sum_of(angle_loss(mine.of(side), teacher.of(side)) for side in view.sides)


TERMS = {"rkd_distance": Distances, "rkd_angle": Angles}
METHODS = {
    "rkd": Method(
        {"align": 1.0, "rkd_distance": 1.0, "rkd_angle": 2.0},
        about="relational distillation (Park et al. 2019): distances and angles within the batch",
    )
}
