"""PromptKD's distillation loss (Li et al., CVPR 2024, arXiv 2403.02781)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cmapkd.losses.logits import kl_rows


def promptkd(
    student: Float[Tensor, "b c"], teacher: Float[Tensor, "b c"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T² · Σ_{b,k} KL( softmax(z_T / T) ‖ softmax(z_S / T) ) / (B·K) over K classes; the teacher is detached.

    The division by K as well as by B is the authors': it is 1/K of the usual KL, so their weight of 1000 is 1 at K = 1000.
    """
    return temperature**2 * kl_rows(teacher / temperature, student / temperature).mean() / student.shape[1]
