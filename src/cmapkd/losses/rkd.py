"""RKD: distances and angles between the samples of a batch (Park et al. 2019, arXiv 1904.05068), equations 5 to 9."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TINY = 1e-6  # rows closer than this count as equal: they have no direction, and get no gradient


def distances(x: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """ψ_D: ‖x_i − x_j‖ / mean of the positive distances; zeros where two rows are one, as on the diagonal."""
    squares = x.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * x @ x.T).fill_diagonal_(0)
    apart = squared > TINY**2
    distance = torch.where(apart, squared.clamp_min(TINY**2).sqrt(), torch.zeros_like(squared))
    return distance / (distance.sum() / apart.sum().clamp_min(1)).clamp_min(TINY)


def angles(x: Float[Tensor, "b d"]) -> Float[Tensor, "b b b"]:
    """ψ_A: [i, j, k] is the cosine of the angle at x_i between the ways to x_j and to x_k; 0 where there is no way."""
    ways = x[None, :] - x[:, None]
    length = ways.norm(dim=-1, keepdim=True)
    unit = torch.where(length > TINY, ways / length.clamp_min(TINY), torch.zeros_like(ways))
    return unit @ unit.transpose(1, 2)


def distance_loss(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
    """L_RKD-D: SmoothL1 of the normalised distances, mean over all B² pairs with the diagonal; widths may differ."""
    return F.smooth_l1_loss(distances(student), distances(teacher.detach()))


def angle_loss(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b e"], most: int = 64) -> Float[Tensor, ""]:
    """L_RKD-A: SmoothL1 of the cosines of all triplets, mean over B³, of the first `most` samples of the batch."""
    return F.smooth_l1_loss(angles(student[:most]), angles(teacher[:most].detach()))
