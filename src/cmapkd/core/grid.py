"""Resize matrices of square token grids: bilinear up, area overlap down."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def area_matrix(n: int, side: int) -> Tensor:
    """[side, n] float64 area-overlap resampling of n cells to `side` cells covering the same length; rows sum to 1."""
    edges_in, edges_out = torch.arange(n + 1).double() / n, torch.arange(side + 1).double() / side
    upper = torch.minimum(edges_in[None, 1:], edges_out[1:, None])
    lower = torch.maximum(edges_in[None, :-1], edges_out[:-1, None])
    return (upper - lower).clamp_min(0) * side


def resize_matrix(n: int, side: int) -> Tensor:
    """[side, n] float64: area overlap when side < n, else bilinear as F.interpolate with align_corners False."""
    if side < n:
        return area_matrix(n, side)
    eye = torch.eye(n, dtype=torch.float64)[None]
    return F.interpolate(eye, size=side, mode="linear", align_corners=False)[0].T
