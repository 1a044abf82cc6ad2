"""`c2kd`: teacher and student of different modalities learn from each other through proxies (C2KD, CVPR 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from cmapkd.core.types import Pair
from cmapkd.losses import c2kd as losses
from cmapkd.losses.contrastive import similarity
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term, TermSizes
from cmapkd.methods.view import View


class C2KD(Term):
    """L_T + L_S, summed over both directions: the teacher's texts with the student's images, and the reverse.

    z = scale · cos(embedding, class text) of both nets, the student's embedding in the teacher's width. A copy of the teacher
    is trained, with a proxy for each tower of it and of the student. The frozen teacher stays as it is; the copy is no part
    of the student and is not exported with it.
    """

    reads = frozenset({"teacher_image", "teacher_text", "teacher_inputs", "class_texts", "labels"})
    options = {"non_target": ("zero", "drop")}  # zero, as released: the true class stays in the softmax, at logit 0

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        tower = sizes.teacher_itself
        shared = {id(tower.tokenizer): tower.tokenizer}
        self.tower = copy.deepcopy(tower, shared).requires_grad_(True)
        widths = {"student": sizes.student.embedding, "teacher": tower.shape.embedding}
        self.proxies = nn.ModuleDict(
            {
                f"{who}_{what}": _proxy(width, sizes.classes)
                for who, width in widths.items()
                for what in ("image", "text")
            }
        )

    def forward(self, view: View) -> Tensor:
        texts, drop = view.class_texts, self.chosen["non_target"] == "drop"
        theirs = self.tower.final(view.inputs)
        teacher = theirs.map(lambda final: self.tower.similarity.scale * similarity(final, texts))
        student = view.student.projected.map(lambda final: view.similarity.scale * similarity(final, texts))
        proxy, mine = self.proxy("teacher", theirs), self.proxy("student", view.student.final)
        by_image = losses.c2kd(teacher.text, student.image, proxy.text, mine.image, view.labels, drop)
        by_text = losses.c2kd(teacher.image, student.text, proxy.image, mine.text, view.labels, drop)
        return by_image + by_text

    def proxy(self, who: str, final: Pair[Tensor]) -> Pair[Tensor]:
        """Logits [B, C] from embeddings that are not normalised."""
        return Pair(self.proxies[f"{who}_image"](final.image), self.proxies[f"{who}_text"](final.text))


def _proxy(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.LeakyReLU(0.1), nn.Linear(width, classes)
    )


TERMS = {"c2kd": C2KD}
METHODS = {
    "c2kd": Method(
        {"c2kd": 1.0}, about="C2KD: a copy of the teacher learns with the student, across modalities, over class texts"
    )
}
