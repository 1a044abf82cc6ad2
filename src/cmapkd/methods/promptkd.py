"""`promptkd` and `promptkd_fullft`: the teacher's class texts taught to a student's image tower (PromptKD, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.promptkd import promptkd
from cmapkd.methods.method import Method
from cmapkd.methods.term import ServedTerm, TermSizes
from cmapkd.methods.view import View
from cmapkd.towers.dual import DualEncoder, evaluating
from cmapkd.towers.prompts import Prompts

TOKENS, DEPTH = 4, 9
WEIGHT = 1000.0


class ProjectedClassTexts(ServedTerm):
    """z_S = s_S f W_Tᵀ against z_T = s_T v_T W_Tᵀ, f = P(student's image); s_S is not learnt, labels are not read.

    P maps the student's image embedding to the teacher's width.
    """

    reads = frozenset({"teacher_image", "class_texts"})
    options = {"temperature": 1.0}
    says = "the student's image tower + projector, with the teacher's text tower"

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        student, teacher = sizes.embeddings
        self.project = nn.Sequential(
            nn.Linear(student, teacher), nn.BatchNorm1d(teacher), nn.ReLU(), nn.Linear(teacher, teacher)
        )

    def forward(self, view: View) -> Tensor:
        texts, teacher = view.class_texts, view.teacher
        scale = torch.as_tensor(view.similarity.scale).detach()
        mine = scale * similarity(self.project(view.student.final.image), texts)
        theirs = teacher.similarity.scale * similarity(teacher.final.image, texts)
        return promptkd(mine, theirs, self.chosen["temperature"])

    def encoder(self, student: DualEncoder, teacher: DualEncoder) -> ProjectedImages:
        return ProjectedImages(student, self, teacher)


class PromptedClassTexts(ProjectedClassTexts):
    """PromptKD's own form: the student is frozen, and deep visual prompts stand between the blocks of its ViT."""

    says = "the student's image tower + visual prompts + projector, with the teacher's text tower"

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        """Raises UsageError for a student whose image tower has no plain blocks."""
        blocks = getattr(getattr(sizes.student_itself.image.native, "transformer", None), "resblocks", None)
        if blocks is None:
            raise UsageError(
                f"method 'promptkd' puts prompts between the blocks of an open_clip ViT, which student "
                f"{sizes.student_itself.name} is not; give a ViT student, or method: promptkd_fullft"
            )
        prompts = Prompts(TOKENS, min(DEPTH, len(blocks)), sizes.student.image_widths[2])
        super().__init__(sizes, chosen)
        self.prompts = prompts

    @contextmanager
    def around(self, student: DualEncoder) -> Iterator[None]:
        with self.prompts.around(student.image.native):
            yield


@dataclass(frozen=True)
class ProjectedImages:
    """The student's image tower with the term's projector (and prompts), and the teacher's text tower."""

    student: DualEncoder
    term: ProjectedClassTexts
    teacher: DualEncoder

    @property
    def image_size(self) -> int:
        return self.student.size

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to unit rows [n, E_t], in eval mode."""
        pixels = self.student.normalise(images.to(self.student.device))
        with evaluating(self.student), evaluating(self.term), self.term.around(self.student):
            return F.normalize(self.term.project(self.student.image.encode(pixels)).float(), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to unit rows [n, E_t]."""
        return self.teacher.encode_texts(texts)


TERMS = {"promptkd": PromptedClassTexts, "promptkd_fullft": ProjectedClassTexts}
METHODS = {
    "promptkd": Method(
        {"promptkd": WEIGHT},
        about="PromptKD: a frozen ViT student with learnt deep visual prompts and a projector; teacher's text tower",
        student="frozen",
        served="promptkd",
    ),
    "promptkd_fullft": Method(
        {"promptkd_fullft": WEIGHT},
        about="PromptKD's loss without prompts, the whole image tower trained; another method than PromptKD",
        served="promptkd_fullft",
    ),
}
