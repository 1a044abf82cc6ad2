"""`c2kd`: teacher and student of different modalities learn from each other through proxies (C2KD, CVPR 2024)."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from cmapkd.core.types import Pair, View
from cmapkd.losses import c2kd as losses
from cmapkd.losses.contrastive import similarity
from cmapkd.methods.term import Method, Sizes, Term, picked, reads
from cmapkd.towers.dual import Tower

OPTIONS = {"non_target": ("zero", "drop")}  # zero, as released: the true class stays in the softmax, at logit 0


class Mutual(nn.Module):
    """A copy of the teacher that is trained, and a proxy for each tower of it and of the student.

    The frozen teacher stays as it is; the copy is no part of the student and is not exported with it.
    """

    def __init__(self, tower: Tower, student: int, classes: int) -> None:
        super().__init__()
        shared = {id(tower.tokenizer): tower.tokenizer}
        self.tower = copy.deepcopy(tower, shared).requires_grad_(True)
        widths = {"student": student, "teacher": tower.shape.embedding}
        self.proxies = nn.ModuleDict(
            {f"{who}_{what}": _proxy(width, classes) for who, width in widths.items() for what in ("image", "text")}
        )

    def proxy(self, who: str, final: Pair[Tensor]) -> Pair[Tensor]:
        """Logits [B, C] from embeddings that are not normalised."""
        return Pair(self.proxies[f"{who}_image"](final.image), self.proxies[f"{who}_text"](final.text))


def c2kd(view: View) -> Tensor:
    """L_T + L_S, summed over both directions: the teacher's texts with the student's images, and the reverse.

    z = scale · cos(embedding, bank) of both nets, the student's embedding in the teacher's width.
    """
    part, bank = view.parts["c2kd"], view.bank
    assert isinstance(part, Mutual) and bank is not None and view.labels is not None and view.inputs is not None
    drop = picked(view, "c2kd", OPTIONS)["non_target"] == "drop"
    theirs = part.tower.final(view.inputs)
    teacher = theirs.map(lambda final: part.tower.similarity.scale * similarity(final, bank))
    student = view.student.projected.map(lambda final: view.scale * similarity(final, bank))
    proxy, mine = part.proxy("teacher", theirs), part.proxy("student", view.student.final)
    images = losses.c2kd(teacher.text, student.image, proxy.text, mine.image, view.labels, drop)
    texts = losses.c2kd(teacher.image, student.text, proxy.image, mine.text, view.labels, drop)
    return images + texts


def mutual(sizes: Sizes) -> Mutual:
    """The term's part."""
    assert sizes.tower is not None
    return Mutual(sizes.tower, sizes.student.embedding, sizes.classes)


def _proxy(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.LeakyReLU(0.1), nn.Linear(width, classes)
    )


TERMS = {"c2kd": Term(c2kd, reads("inputs", "bank", "labels"), part=mutual, options=OPTIONS)}
METHODS = {
    "c2kd": Method(
        {"c2kd": 1.0}, about="C2KD: a copy of the teacher learns with the student, across modalities, over class texts"
    )
}
