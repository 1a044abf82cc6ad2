"""`rkd`: relations between samples, by distance and by angle (Park et al. 2019, RKD, arXiv 1904.05068)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses.rkd import angle_loss, distance_loss
from cmapkd.methods.term import Method, Term, reads


def _both(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[View], Tensor]:
    """The loss within the images plus the loss within the texts, of the student's embeddings as they are."""

    def of(view: View) -> Tensor:
        mine, teacher = view.student.final, view.taught.final
        return loss(mine.image, teacher.image) + loss(mine.text, teacher.text)

    return of


TERMS = {
    "rkd_distance": Term(_both(distance_loss), reads("teacher")),
    "rkd_angle": Term(_both(angle_loss), reads("teacher")),
}
METHODS = {
    "rkd": Method(
        {"align": 1.0, "rkd_distance": 1.0, "rkd_angle": 2.0},
        about="relational distillation (Park et al. 2019): distances and angles within the batch",
    )
}
