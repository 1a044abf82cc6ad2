"""`promptkd` and `promptkd_fullft`: the teacher's class texts taught to a student's image tower (PromptKD, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import View
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.promptkd import promptkd
from cmapkd.methods.term import Method, Served, Sizes, Term, picked, reads
from cmapkd.towers.dual import Tower, evaluating
from cmapkd.towers.prompts import Prompts

TOKENS, DEPTH = 4, 9
OPTIONS = {"temperature": 1.0}
WEIGHT = 1000.0


class Projector(nn.Module):
    """P, from the student's image embedding to the teacher's width, and the prompts where the method has some."""

    def __init__(self, student: int, teacher: int, prompts: Prompts | None) -> None:
        super().__init__()
        self.prompts = prompts
        self.project = nn.Sequential(
            nn.Linear(student, teacher), nn.BatchNorm1d(teacher), nn.ReLU(), nn.Linear(teacher, teacher)
        )


def prompted(sizes: Sizes) -> Projector:
    """Projector and deep prompts. Raises UsageError for a student whose image tower has no plain blocks."""
    assert sizes.teacher is not None and sizes.itself is not None
    blocks = getattr(getattr(sizes.itself.image.native, "transformer", None), "resblocks", None)
    if blocks is None:
        raise UsageError(
            f"method 'promptkd' puts prompts between the blocks of an open_clip ViT, which student "
            f"{sizes.itself.name} is not; give a ViT student, or method: promptkd_fullft"
        )
    prompts = Prompts(TOKENS, min(DEPTH, len(blocks)), sizes.student.image_widths[2])
    return Projector(sizes.student.embedding, sizes.teacher.embedding, prompts)


def plain(sizes: Sizes) -> Projector:
    """The projector alone."""
    assert sizes.teacher is not None
    return Projector(sizes.student.embedding, sizes.teacher.embedding, None)


def loss(name: str, view: View) -> Tensor:
    """z_S = s_S f W_Tᵀ against z_T = s_T v_T W_Tᵀ, f = P(student's image); s_S is not learnt, labels are not read."""
    part, bank, teacher = view.parts[name], view.bank, view.taught
    assert isinstance(part, Projector) and bank is not None
    mine = view.scale.detach() * similarity(part.project(view.student.final.image), bank)
    temperature = picked(view, name, OPTIONS)["temperature"]
    return promptkd(mine, teacher.scale * similarity(teacher.final.image, bank), temperature)


@contextmanager
def worn(part: Projector, student: Tower) -> Iterator[None]:
    """The student with the part's prompts, inside the block only."""
    with nullcontext() if part.prompts is None else part.prompts.around(student.image.native):
        yield


@dataclass(frozen=True)
class Projected:
    """The student's image tower with prompts and projector, and the teacher's text tower."""

    student: Tower
    part: Projector
    teacher: Tower

    @property
    def image_size(self) -> int:
        return self.student.size

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to unit rows [n, E_t], in eval mode."""
        pixels = self.student.normalise(images.to(self.student.device))
        with evaluating(self.student), evaluating(self.part), worn(self.part, self.student):
            return F.normalize(self.part.project(self.student.image.encode(pixels)).float(), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to unit rows [n, E_t]."""
        return self.teacher.encode_texts(texts)


def served(name: str, says: str) -> Served:
    """Scored as images through `name`'s part, texts through the teacher."""

    def encoder(parts: Mapping[str, nn.Module], student: Tower, teacher: Tower) -> Projected:
        part = parts[name]
        assert isinstance(part, Projector)
        return Projected(student, part, teacher)

    return Served(encoder, says)


TERMS = {
    "promptkd": Term(partial(loss, "promptkd"), reads("bank"), part=prompted, around=worn, options=OPTIONS),
    "promptkd_fullft": Term(partial(loss, "promptkd_fullft"), reads("bank"), part=plain, options=OPTIONS),
}
METHODS = {
    "promptkd": Method(
        {"promptkd": WEIGHT},
        about="PromptKD: a frozen ViT student with learnt deep visual prompts and a projector; teacher's text tower",
        student="frozen",
        served=served("promptkd", "the student's image tower + visual prompts + projector, with the teacher's text tower"),
    ),
    "promptkd_fullft": Method(
        {"promptkd_fullft": WEIGHT},
        about="PromptKD's loss without prompts, the whole image tower trained; another method than PromptKD",
        served=served("promptkd_fullft", "the student's image tower + projector, with the teacher's text tower"),
    ),
}  # fmt: skip
