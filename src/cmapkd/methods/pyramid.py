"""`cmapkd`: the final terms plus the pyramid. `cmapkd_full`: all seven terms of the design, relations included.

The final terms are those of `clip_kd`, so that the pyramid has to show its gain on top of them. A term has to earn its
place: in the ablation of the built-in world (docs/results.md) the intra-modal levels bring most, the level pairs a little,
both relational terms nothing; `cmapkd` leaves those out. The shares were chosen on a slice of the train split (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS
from cmapkd.losses import alignment, feature, relation
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View


class Intra(Term):
    """L_intra: mean_b mean_k ℓ_k(b) over the active levels of one modality."""

    final = False

    def forward(self, view: View) -> Tensor:
        return feature.intra(torch.stack([view.student.errors[name] for name in self.active_levels(view.levels)], 1))


class IntraImage(Intra):
    """L_intra_v over the active image levels."""

    reads = frozenset({"teacher_image", "image_errors"})


class IntraText(Intra):
    """L_intra_l over the active text levels."""

    reads = frozenset({"teacher_text", "text_errors"})


class PyramidAlign(Term):
    """L_pyramid_align over the level pairs that the coupling uses."""

    reads = frozenset({"teacher_image", "teacher_text", "bridge", "coupling"})
    final = False

    @classmethod
    def is_on(cls, levels: Iterable[str]) -> bool:
        on = set(levels)
        return bool(on & set(IMAGE_LEVELS)) and bool(on & set(TEXT_LEVELS))

    def forward(self, view: View) -> Tensor:
        mine, teacher = view.bridges
        return alignment.pyramid_align(
            mine.image, mine.text, teacher.image, teacher.text, view.temperatures, view.coupling, view.pairs
        )


class SampleRelation(Term):
    """L_relation, mean over the active levels among P4, P5, L3 and L4; projector-free on purpose."""

    reads = frozenset({"teacher_image", "teacher_text", "image_summaries", "text_summaries"})
    levels = ("P4", "P5", "L3", "L4")
    halves = True
    final = False

    def forward(self, view: View) -> Tensor:
        mine, teacher = view.student.summaries, view.teacher.summaries
        losses = [relation.relation(mine[name], teacher[name]) for name in self.active_levels(view.levels)]
        return torch.stack(losses).mean()


class LayerRelation(Term):
    """L_layer_relation between the active levels of each sample, both modalities together."""

    reads = frozenset({"teacher_image", "teacher_text", "bridge"})
    final = False
    halves = True

    @classmethod
    def is_on(cls, levels: Iterable[str]) -> bool:
        return len(set(levels)) > 1

    def forward(self, view: View) -> Tensor:
        mine, teacher = (torch.cat([rows.image, rows.text], 1) for rows in view.bridges)
        if view.levels == LEVELS:
            return relation.layer_relation(mine, teacher)
        on = [LEVELS.index(name) for name in view.levels]
        mine, teacher = (torch.stack([rows[:, k] for k in on], 1) for rows in (mine, teacher))
        return relation.layer_relation(mine, teacher)


TERMS = {
    "intra_v": IntraImage,
    "intra_l": IntraText,
    "pyramid_align": PyramidAlign,
    "relation": SampleRelation,
    "layer_relation": LayerRelation,
}
WEIGHTS = {"align": 1.0, "logits": 1.0, "fd": 8.0, "icl": 1.0, "intra_v": 10.0, "intra_l": 10.0, "pyramid_align": 1.0}
SHARES = {"intra_v": 0.15, "intra_l": 0.15, "pyramid_align": 0.15}
RELATIONS = {"relation": 0.1, "layer_relation": 0.05}
STAGES = (StageConfig(name="all", until=0.5), StageConfig(name="anneal", until=1.0, anneal=True))
METHODS = {
    "cmapkd": Method(
        WEIGHTS, SHARES, about="the final terms plus the pyramid: intra-modal levels and cross-modal level pairs",
        stages=STAGES,
    ),
    "cmapkd_full": Method(
        {**WEIGHTS, "relation": 1.0, "layer_relation": 0.5}, {**SHARES, **RELATIONS},
        about="all seven terms of the design: cmapkd with both relations", stages=STAGES,
    ),
}  # fmt: skip
