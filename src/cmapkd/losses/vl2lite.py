"""L_vis, L_txt and the weight ramp of VL2Lite (CVPR 2025); both sides of the distillation losses may be trained."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cmapkd.losses.logits import kl_rows

SCALE = 1 / 0.07
TEMPERATURE = 2.0
RAMP = 8.0


def class_share(progress: float, released: bool = True) -> float:
    """w_c, the weight of the classification loss at `progress` in [0, 1); the distillation losses have 1 − w_c.

    released: clip(progress / 8, 0, 1), as the authors' code computes it, so w_c never exceeds 1/8. Else
    clip(8 · progress, 0, 1), the ramp to one over the first eighth of the training, as others read the paper.
    """
    return min(max(progress / RAMP if released else progress * RAMP, 0.0), 1.0)


def visual(student: Float[Tensor, "b d"], condensed: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """L_vis = mean |ĥ − A_img(v_T)|, both L2-normalised; no stop-gradient on A_img."""
    return F.l1_loss(F.normalize(student, dim=-1), F.normalize(condensed, dim=-1))


def textual(
    student: Float[Tensor, "b c"], teacher: Float[Tensor, "b c"], temperature: float = TEMPERATURE
) -> Float[Tensor, ""]:
    """L_txt = T² · K/2 · mean_{b,k} KL( softmax(z_T / T) ‖ softmax(z_S / T) ) over K classes.

    The mean divides by B·K, so this is T²/2 times the KL summed over classes and averaged over the batch. The teacher's
    logits are detached.
    """
    return temperature**2 / 2 * kl_rows(teacher / temperature, student / temperature).mean()
