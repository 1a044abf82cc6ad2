"""`fitnet` and `fitnet_staged`: hints from the teacher's middle (Romero et al. 2015, FitNets, arXiv 1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.config.schema import StageConfig
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
from cmapkd.methods.view import View

GUIDED = ("P3", "L2")


class Hint(Term):
    """‖T_h − r(S_g)‖²: the error at P3 plus the error at L2, whatever other levels are on; r is the level's projector."""

    reads = frozenset({"teacher_image", "teacher_text", "image_errors", "text_errors"})
    levels = GUIDED
    halves = True
    final = False

    def forward(self, view: View) -> Tensor:
        return torch.stack([view.student.errors[name].mean() for name in self.active_levels(view.levels)]).sum()


TERMS = {"hint": Hint}
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
