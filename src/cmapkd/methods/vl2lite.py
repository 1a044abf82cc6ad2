"""`vl2lite`: an image classifier taught by a CLIP teacher through condensed embeddings (VL2Lite, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.losses import vl2lite as losses
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.labelled import cross_entropy
from cmapkd.methods.method import Method
from cmapkd.methods.term import ServedTerm, TermSizes
from cmapkd.methods.view import View
from cmapkd.towers.dual import DualEncoder, evaluating


class VL2Lite(ServedTerm):
    """L = w_c CE + (1 − w_c) (L_vis + L_txt) / 2, with h the student's image embedding; its text tower is not used.

    image, text: A_img and A_txt, from the teacher's width to the student's. head: the linear head over the classes.
    """

    reads = frozenset({"teacher_image", "class_texts", "labels"})
    options = {"ramp": ("released", "to_one")}  # whether the weight of the classification stays under 1/8 or reaches 1
    says = "the student's image tower with the teacher's text tower through A_txt (head/acc1: to its linear head)"
    classifies = True

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        student, teacher = sizes.embeddings
        self.image, self.text = _condense(teacher, student), _condense(teacher, student)
        self.head = nn.Linear(student, sizes.classes)

    def forward(self, view: View) -> Tensor:
        h, teacher, texts = view.student.final.image, view.teacher.final.image, view.class_texts
        theirs = losses.SCALE * similarity(teacher, texts)
        mine = losses.SCALE * similarity(h, self.text(texts))
        distilled = losses.visual(h, self.image(teacher)) + losses.textual(mine, theirs)
        share = losses.class_share(view.progress, self.chosen["ramp"] == "released")
        return share * cross_entropy(self.head(h), view.labels) + (1 - share) * distilled / 2

    def encoder(self, student: DualEncoder, teacher: DualEncoder) -> CondensedTexts:
        return CondensedTexts(student, self, teacher)

    @torch.no_grad()
    def logits(self, student: DualEncoder, images: Tensor) -> Tensor:
        """Class logits [n, C] of uint8 images, as VL2Lite is used."""
        with evaluating(student):
            return self.head(student.image.encode(student.normalise(images.to(student.device))).float())


@dataclass(frozen=True)
class CondensedTexts:
    """The student's images against A_txt of the teacher's texts: the classifier that L_txt trains, for any text."""

    student: DualEncoder
    term: VL2Lite
    teacher: DualEncoder

    @property
    def image_size(self) -> int:
        return self.student.size

    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to unit rows [n, E_s]."""
        return self.student.encode_images(images)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to unit rows [n, E_s]."""
        return F.normalize(self.term.text(self.teacher.encode_texts(texts).clone()), dim=-1)


def _condense(teacher: int, student: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(teacher, student), nn.ReLU(), nn.Linear(student, student))


TERMS = {"vl2lite": VL2Lite}
METHODS = {
    "vl2lite": Method(
        {"vl2lite": 1.0},
        about="VL2Lite: an image classifier from condensed teacher embeddings; the text tower is not trained",
        served="vl2lite",
    )
}
