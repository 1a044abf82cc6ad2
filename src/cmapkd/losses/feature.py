"""L_intra: the squared error of the tokens of each pyramid level, and the gate that scales its gradient per sample."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class SumOfSquares(torch.autograd.Function):
    """Σ x² over the last axis; bit for bit `x.square().sum(-1)`, whose gradient 2·x·g takes one pass instead of three."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
        ctx.save_for_backward(x)
        return x.square().sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "*b"]) -> Float[Tensor, "*b n"]:
        (x,) = ctx.saved_tensors
        return x * (2 * gradient)[..., None]


def gate(h: Float[Tensor, "b n d"], w: Float[Tensor, " b"]) -> Float[Tensor, "b n d"]:
    """Value h, gradient w·h per sample: w·h + (1 − w)·sg(h).

    Weights act on the trunk only, so projectors always learn at full weight and no policy can lower a loss by shrinking w.
    """
    w = w.detach()[:, None, None]
    return w * h + (1 - w) * h.detach()


def token_error(
    student: Float[Tensor, "b n d"],
    teacher: Float[Tensor, "b n d"],
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, " b"]:
    """‖S − T‖² averaged over the real tokens and the channels, per sample; a sample without tokens gives 0."""
    error = SumOfSquares.apply(student - teacher.detach()) / student.shape[-1]
    if mask is None:
        return error.mean(1)
    return (error * mask).sum(1) / mask.sum(1).clamp_min(1)


def intra(errors: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """L_intra = mean_b mean_k ℓ_k(b); per-sample level weights have acted in `gate` before the projectors."""
    return errors.mean()
