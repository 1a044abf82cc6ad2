"""Linear maps of inheritance: a LayerNorm without parameters, norms folded into maps, outputs and projections by ridge."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge

STRENGTH = 1e-3  # of the ridge regressions


def bare(x: Tensor) -> Tensor:
    """LN(x), a LayerNorm without parameters over the last axis."""
    return F.layer_norm(x, x.shape[-1:])


def folded(norm: Any, weight: Tensor, bias: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """[k + 1, o], bias in the last row: the teacher's map `weight` after its `norm`, from the student's tokens.

    seen: the student's normed tokens [t, k]; wanted: the teacher's normed tokens [t, D], which a ridge regression
    predicts from them.
    """
    back, start = ridge(seen, wanted, STRENGTH)
    read = torch.cat([back, start[None]]) @ (weight * norm.weight).T
    read[-1] += weight @ norm.bias + bias
    return read


def fit_output(output: nn.Linear, given: Tensor, gap: Tensor, real: Tensor) -> Tensor:
    """Fit an output map so that its output closes the gap [n, L, k] to the teacher's stream; returns that output."""
    gap = gap - gap.mean(-1, keepdim=True)
    weight, bias = ridge(given[real], gap[real], STRENGTH)
    output.weight.copy_(weight.T)
    output.bias.copy_(bias)
    return output(given)


def fit_projection(norm: Any, projection: Tensor, stream: Tensor, end: Tensor) -> None:
    """Fit the projection to final embeddings [n, E], and the last norm's bias, the smallest that gives the constant."""
    weight, constant = ridge(bare(stream), end, STRENGTH)
    nn.init.ones_(norm.weight)
    projection.copy_(weight)
    norm.bias.copy_(torch.linalg.pinv(weight.T.double(), rtol=1e-2) @ constant.double())
