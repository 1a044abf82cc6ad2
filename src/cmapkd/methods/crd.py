"""`crd` and `crd_inbatch`: contrastive representation distillation (Tian et al. 2020, CRD, arXiv 1910.10699)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import Pair
from cmapkd.losses import contrastive
from cmapkd.losses.crd import draw_negatives, nce, remember
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term, TermSizes, sum_of
from cmapkd.methods.view import View

WIDTH, TEMPERATURE, MOMENTUM, NEGATIVES = 128, 0.07, 0.5, 16384
SIDES = ("student", "teacher")


class Heads(nn.Module):
    """Each side's embedding of one modality to 128 unit numbers; the teacher's head is learnt, too."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"student": nn.Linear(student, WIDTH), "teacher": nn.Linear(teacher, WIDTH)})

    def unit(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        rows = {"student": student, "teacher": teacher.detach()}
        return {side: F.normalize(self.heads[side](rows[side]), dim=-1) for side in SIDES}

    def forward(self, student: Tensor, teacher: Tensor, positives: Tensor) -> Tensor:
        """InfoNCE of the student's rows against the teacher's, both ways, with the rest of the batch as negatives."""
        rows = self.unit(student, teacher)
        return contrastive.align(rows["student"], rows["teacher"], 1 / TEMPERATURE, positives)


class Banks(Heads):
    """Heads with a memory of every sample's last rows, one bank a side [n, 128], and the constants Z of both directions.

    A bank moves only in training with gradients on. All of it is in the state, and draws come from torch's own
    generator, so a resumed run goes on bit by bit.
    """

    constants: Tensor

    def __init__(self, student: int, teacher: int, samples: int) -> None:
        super().__init__(student, teacher)
        assert samples > 1, "crd needs more than one sample"
        self.samples, self.negatives = samples, min(NEGATIVES, samples - 1)
        bound = 1 / math.sqrt(WIDTH / 3)
        for side in SIDES:
            self.register_buffer(f"memory_{side}", torch.empty(samples, WIDTH).uniform_(-bound, bound))
        self.register_buffer("constants", torch.full((2,), -1.0))

    def forward(self, student: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
        """The loss of both directions: each side's rows against the other side's memory. own: int64 [B] sample indices.

        All n products of a row are formed and K of them read: [B, n], less memory than copying [B, K, 128] rows.
        """
        rows = self.unit(student, teacher)
        picked = torch.cat([own[:, None], draw_negatives(own, self.negatives, self.samples)], 1)
        moves = self.training and torch.is_grad_enabled()
        losses = []
        for k, (side, other) in enumerate((SIDES, SIDES[::-1])):
            memory: Tensor = getattr(self, f"memory_{other}")
            raw = ((rows[side] @ memory.T).gather(1, picked) / TEMPERATURE).exp()
            constant = torch.where(self.constants[k] < 0, raw.detach().mean() * self.samples, self.constants[k])
            if moves:
                self.constants = self.constants.index_fill(0, torch.tensor(k, device=own.device), constant)
            losses.append(nce(raw / constant, self.samples))
        if moves:
            for side in SIDES:
                name = f"memory_{side}"
                setattr(self, name, remember(getattr(self, name), own, rows[side], MOMENTUM))
        return losses[0] + losses[1]


class CRD(Term):
    """L_CRD with memory banks: the student's images against the teacher's images, plus its texts against the teacher's texts."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        self.image, self.text = (Banks(*sizes.embeddings, sizes.samples) for _ in range(2))

    def forward(self, view: View) -> Tensor:
        pairs = view.student.final.zip(view.teacher.final)
        heads = Pair(self.image, self.text)
        return sum_of(heads.of(side)(*pairs.of(side), view.samples) for side in view.sides)


class InBatchCRD(Term):
    """The InfoNCE form: no memory, the negatives are the rest of the batch."""

    reads = frozenset({"teacher_image", "teacher_text"})
    halves = True

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        super().__init__(sizes, chosen)
        self.image, self.text = (Heads(*sizes.embeddings) for _ in range(2))

    def forward(self, view: View) -> Tensor:
        pairs = view.student.final.zip(view.teacher.final)
        heads = Pair(self.image, self.text)
        return sum_of(heads.of(side)(*pairs.of(side), view.positives) for side in view.sides)


TERMS = {"crd": CRD, "crd_inbatch": InBatchCRD}
METHODS = {
    "crd": Method({"align": 1.0, "crd": 0.8}, about="contrastive representation distillation (Tian et al. 2020)"),
    "crd_inbatch": Method(
        {"align": 1.0, "crd_inbatch": 0.8}, about="CRD's idea without its memory: InfoNCE within the batch"
    ),
}
