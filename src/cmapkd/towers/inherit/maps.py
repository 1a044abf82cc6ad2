"""Linear maps of inheritance: a LayerNorm without parameters, norms folded into maps, norms and outputs fitted by least squares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.towers.inherit.parts import Affine

STRENGTH = 1e-3  # of the ridge regressions


def bare(x: Tensor, eps: float = 1e-5) -> Tensor:
    """LN(x), a LayerNorm without parameters over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def folded(norm: nn.LayerNorm | None, read: Affine, seen: Tensor, wanted: Tensor) -> Tensor:
    """[k + 1, o], bias in the last row: the teacher's map `read` after its `norm`, from the student's tokens.

    seen: the student's tokens [t, k] as it reads them; wanted: the teacher's tokens [t, D] before the norm's scale and
    bias, which a ridge regression predicts from them.
    """
    back, start = ridge(seen, wanted, STRENGTH)
    weight = read.weight if norm is None else read.weight * norm.weight
    found = torch.cat([back, start[None]]) @ weight.T
    bias = torch.zeros_like(weight[:, 0]) if read.bias is None else read.bias
    found[-1] += bias if norm is None else read.weight @ norm.bias + bias
    return found


def fit_output(output: nn.Linear, given: Tensor, gap: Tensor, real: Tensor) -> Tensor:
    """Fit an output map so that its output closes the gap [n, L, k] to the teacher's stream; returns that output."""
    gap = gap - gap.mean(-1, keepdim=True)
    weight, bias = ridge(given[real], gap[real], STRENGTH)
    output.weight.copy_(weight.T)
    output.bias.copy_(bias)
    return output(given)


def fit_norm(norm: nn.LayerNorm, normed: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Fit a norm's scale and bias, channel by channel, to tokens [n, L, k]; returns its output for `normed`."""
    rows, goal = normed[real], wanted[real]
    off, away = rows - rows.mean(0), goal - goal.mean(0)
    norm.weight.copy_((off * away).mean(0) / off.square().mean(0).clamp_min(1e-12))
    norm.bias.copy_(goal.mean(0) - norm.weight * rows.mean(0))
    return normed * norm.weight + norm.bias


def before_norm(scale: Tensor, basis: Tensor) -> Tensor:
    """[D, k]: from the teacher's stream before a norm of this scale to the student's before its own, up to a factor."""
    off = scale[:, None] * basis
    off = off - off.mean(0)
    return off - off.mean(1, keepdim=True)


def through_origin(x: Tensor, y: Tensor) -> Tensor:
    """W [d, e] of a ridge regression y ≈ xW without a constant, for maps that have none; float64 inside.

    Its strength goes by the variance of x, so that a mean far larger than that does not hide it.
    """
    x, y = x.double(), y.double()
    gram = x.T @ x
    gram.diagonal().add_(STRENGTH * len(x) * x.var(0).mean().clamp_min(1e-12))
    return torch.linalg.solve(gram, x.T @ y).float()
