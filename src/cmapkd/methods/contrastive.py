"""`scratch`: contrastive training without a teacher (Radford et al. 2021, arXiv 2103.00020), and the user's own task.

`inherited` is the same from the teacher's weights (towers/inherit/): the start alone, with no teacher after it.
"""

from __future__ import annotations

from torch import Tensor

from cmapkd.losses import both_kinds, task
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class Align(Term):
    """L_align on the student's final embeddings."""

    def forward(self, view: View) -> Tensor:
        return both_kinds.align(view.student.final.image, view.student.final.text, view.similarity, view.positives)


class Classification(Term):
    """L_task on the labels of the training data, with the class prompts as classifier; a task with data of its own has its own loss."""

    reads = frozenset({"labels", "class_prompts"})

    def forward(self, view: View) -> Tensor:
        return task.classification(view.student.final.image, view.class_prompts, view.similarity.scale, view.labels)


TERMS = {"align": Align, "task": Classification}
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
