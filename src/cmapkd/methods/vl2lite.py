"""`vl2lite`: an image classifier taught by a CLIP teacher through condensed embeddings (VL2Lite, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import View
from cmapkd.losses import vl2lite as losses
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.labelled import cross_entropy
from cmapkd.methods.term import Method, Served, Sizes, Term, picked, reads
from cmapkd.towers.dual import Tower, evaluating

OPTIONS = {"ramp": ("released", "to_one")}  # whether the weight of the classification stays under 1/8 or reaches 1


class Condensation(nn.Module):
    """A_img and A_txt, from the teacher's width to the student's, and the linear head over the classes."""

    def __init__(self, teacher: int, student: int, classes: int) -> None:
        super().__init__()
        self.image, self.text = _condense(teacher, student), _condense(teacher, student)
        self.head = nn.Linear(student, classes)


def vl2lite(view: View) -> Tensor:
    """L = w_c CE + (1 − w_c) (L_vis + L_txt) / 2, with h the student's image embedding; its text tower is not used."""
    assert view.bank is not None and view.labels is not None
    part, h, teacher = view.parts["vl2lite"], view.student.final.image, view.taught.final.image
    assert isinstance(part, Condensation)
    theirs = losses.SCALE * similarity(teacher, view.bank)
    mine = losses.SCALE * similarity(h, part.text(view.bank))
    taught = losses.visual(h, part.image(teacher)) + losses.textual(mine, theirs)
    share = losses.class_share(view.progress, picked(view, "vl2lite", OPTIONS)["ramp"] == "released")
    return share * cross_entropy(part.head(h), view.labels) + (1 - share) * taught / 2


def condensation(sizes: Sizes) -> Condensation:
    """The term's part."""
    assert sizes.teacher is not None
    return Condensation(sizes.teacher.embedding, sizes.student.embedding, sizes.classes)


@dataclass(frozen=True)
class CondensedText:
    """The student's images against A_txt of the teacher's texts: the classifier that L_txt trains, for any text."""

    student: Tower
    part: Condensation
    teacher: Tower

    @property
    def image_size(self) -> int:
        return self.student.size

    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to unit rows [n, E_s]."""
        return self.student.encode_images(images)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to unit rows [n, E_s]."""
        return F.normalize(self.part.text(self.teacher.encode_texts(texts).clone()), dim=-1)


def encoder(parts: Mapping[str, nn.Module], student: Tower, teacher: Tower) -> CondensedText:
    part = parts["vl2lite"]
    assert isinstance(part, Condensation)
    return CondensedText(student, part, teacher)


@torch.no_grad()
def head(parts: Mapping[str, nn.Module], student: Tower, images: Tensor) -> Tensor:
    """Class logits [n, C] of uint8 images, as VL2Lite is used."""
    part = parts["vl2lite"]
    assert isinstance(part, Condensation)
    with evaluating(student):
        return part.head(student.image.encode(student.normalise(images.to(student.device))).float())


def _condense(teacher: int, student: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(teacher, student), nn.ReLU(), nn.Linear(student, student))


TERMS = {"vl2lite": Term(vl2lite, reads("bank", "labels"), part=condensation, options=OPTIONS)}
METHODS = {
    "vl2lite": Method(
        {"vl2lite": 1.0},
        about="VL2Lite: an image classifier from condensed teacher embeddings; the text tower is not trained",
        served=Served(
            encoder, "the student's image tower with the teacher's text tower through A_txt (head/acc1: to its linear head)", head
        ),
    )
}  # fmt: skip
