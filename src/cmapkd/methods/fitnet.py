"""`fitnet` and `fitnet_staged`: hints from the teacher's middle (Romero et al. 2015, FitNets, arXiv 1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, View
from cmapkd.methods.term import Method, Term, reads

GUIDED = ("P3", "L2")


def hint(view: View) -> Tensor:
    """‖T_h − r(S_g)‖², the error at P3 plus the error at L2, whatever other levels are on; r is the level's adapter."""
    found = []
    for names, errors in ((IMAGE_LEVELS, view.errors.image), (TEXT_LEVELS, view.errors.text)):
        active = [name for name in names if name in view.student.levels]
        found += [errors[:, active.index(name)].mean() for name in GUIDED if errors is not None and name in active]
    return torch.stack(found).sum() if found else view.student.final.image.sum() * 0


TERMS = {"hint": Term(hint, reads("levels"), final=False)}
METHODS = {
    "fitnet": Method(
        {"align": 1.0, "hint": 10.0},
        stages=(StageConfig(name="joint", until=1.0, levels=GUIDED),),
        about="hints at the middle levels beside the task (Romero et al. 2015, joint as in RepDistiller)",
    ),
    "fitnet_staged": Method(
        {"align": 1.0, "logits": 1.0, "hint": 10.0},
        stages=(
            StageConfig(name="hint", until=0.3, levels=GUIDED, scale={"align": 0.0, "logits": 0.0}),
            StageConfig(name="kd", until=1.0, levels=(), scale={"hint": 0.0}),
        ),
        about="hints first, then logit distillation (Romero et al. 2015, two stages)",
    ),
}
