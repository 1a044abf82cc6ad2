"""`cmapkd`: the final terms plus the pyramid. `cmapkd_full`: all seven terms of the design, relations included.

The final terms are those of `clip_kd`, so that the pyramid has to show its gain on top of them. A term has to earn its
place: in the ablation of the built-in world (docs/results.md) the intra-modal levels bring most, the level pairs a little,
both relational terms nothing; `cmapkd` leaves those out. The shares were chosen on a slice of the train split (docs/LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import View
from cmapkd.losses import alignment, feature, relation
from cmapkd.methods.term import Method, Term, reads
from cmapkd.pyramid.levels import mean_tokens


def intra_v(view: View) -> Tensor:
    """L_intra_v over the active image levels."""
    assert view.errors.image is not None
    return feature.intra(view.errors.image)


def intra_l(view: View) -> Tensor:
    """L_intra_l over the active text levels."""
    assert view.errors.text is not None
    return feature.intra(view.errors.text)


def pyramid_align(view: View) -> Tensor:
    """L_pyramid_align over the level pairs that the coupling uses."""
    mine, teacher = view.student.bridge, view.taught.bridge
    assert mine is not None and view.temperatures is not None and view.coupling is not None
    return alignment.pyramid_align(mine.image, mine.text, teacher.image, teacher.text, view.temperatures, view.coupling)


def sample_relation(view: View) -> Tensor:
    """L_relation, mean over the levels P4, P5, L3, L4 that the teacher speaks of now; projector-free on purpose."""
    levels, masks = view.taught.levels, view.taught.masks
    names = [name for name in ("P4", "P5", "L3", "L4") if name in levels]
    if not names:
        return relation.relation(view.student.final.image, view.taught.final.image)
    losses = [relation.relation(view.student.pooled[k], _pool(k, levels[k], masks.get(k))) for k in names]
    return torch.stack(losses).mean()


def layer_relation(view: View) -> Tensor:
    """L_layer_relation between the eight levels of each sample, both modalities together."""
    mine, teacher = view.student.bridge, view.taught.bridge
    assert mine is not None
    return relation.layer_relation(torch.cat([mine.image, mine.text], 1), torch.cat([teacher.image, teacher.text], 1))


def _pool(name: str, target: Tensor, mask: Tensor | None) -> Tensor:
    return target[:, -2] if name == "P5" else mean_tokens(target, mask)


TERMS = {
    "intra_v": Term(intra_v, reads("levels"), final=False),
    "intra_l": Term(intra_l, reads("levels"), final=False),
    "pyramid_align": Term(pyramid_align, reads("bridge"), final=False),
    "relation": Term(sample_relation, reads("levels", "pooled"), final=False),
    "layer_relation": Term(layer_relation, reads("bridge"), final=False),
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
