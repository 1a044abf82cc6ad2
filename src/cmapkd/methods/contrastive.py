"""`scratch`: contrastive training without a teacher (Radford et al. 2021, arXiv 2103.00020), and the user's own task.

`inherited` is the same from the teacher's weights (towers/inherit.py): what the start alone brings.
"""

from __future__ import annotations

from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import contrastive, task
from cmapkd.methods.term import Method, Term, reads


def align(view: View) -> Tensor:
    """L_align on the student's final embeddings."""
    return contrastive.align(view.student.final.image, view.student.final.text, view.scale, view.positives)


def classification(view: View) -> Tensor:
    """L_task on the labels of the training data, the class texts as classifier; on data of its own see train/heads."""
    assert view.labels is not None and view.classes is not None
    return task.classification(view.student.final.image, view.classes, view.scale, view.labels)


TERMS = {"align": Term(align), "task": Term(classification, reads("labels"))}
METHODS = {
    "scratch": Method(
        {"align": 1.0}, about="contrastive training without a teacher; trains teachers too", start="random"
    ),
    "inherited": Method(
        {"align": 1.0},
        about="contrastive training from the teacher's weights, with no teacher after",
        start="inherited",
    ),
}
