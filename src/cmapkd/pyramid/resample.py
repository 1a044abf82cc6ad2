"""Resampling of square token grids: resize matrices (bilinear up, area overlap down), and maps read at given places."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def area_matrix(n: int, side: int) -> Tensor:
    """[side, n] float64 area-overlap resampling of n cells to `side` cells covering the same length; rows sum to 1."""
    edges_in, edges_out = torch.arange(n + 1).double() / n, torch.arange(side + 1).double() / side
    upper = torch.minimum(edges_in[None, 1:], edges_out[1:, None])
    lower = torch.maximum(edges_in[None, :-1], edges_out[:-1, None])
    return (upper - lower).clamp_min(0) * side


@cache
def area_matrix_on(n: int, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`area_matrix` on a device, made once: a copy from the host in every step would make the step wait."""
    with torch.inference_mode(False):
        return area_matrix(n, side).to(device, dtype)


def resize_matrix(n: int, side: int) -> Tensor:
    """[side, n] float64: area overlap when side < n, else bilinear as F.interpolate with align_corners False."""
    if side < n:
        return area_matrix(n, side)
    eye = torch.eye(n, dtype=torch.float64)[None]
    return F.interpolate(eye, size=side, mode="linear", align_corners=False)[0].T


def both_axes(matrix: Tensor, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h h d"]:
    """matrix [h, √n] applied to both axes of a square map of tokens."""
    (h, n), (b, _, d) = matrix.shape, tokens.shape
    matrix = matrix.to(tokens)
    rows = matrix @ tokens.reshape(b, n, n * d)  # products of whole rows; an einsum would copy every map twice
    return (matrix @ rows.view(b * h, n, d)).view(b, h, h, d)


def resample_grid(tokens: Float[Tensor, "b n d"], matrix: Float[Tensor, "h m"]) -> Float[Tensor, "b k d"]:
    """Apply one separable resampling matrix [h, m] to both axes of a square map of m·m tokens."""
    return both_axes(matrix, tokens).flatten(1, 2)


def sample_at(tokens: Float[Tensor, "b n d"], places: Int[Tensor, "b k"], side: int) -> Float[Tensor, "b k d"]:
    """A map read bilinearly at the centres of the cells `places` of a side × side grid; its own grid is read exactly."""
    n = round(tokens.shape[1] ** 0.5)
    if n == side:
        return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
    centres = torch.stack([places % side, places // side], dim=-1).to(tokens.dtype)
    grid = (centres + 0.5) / side * 2 - 1
    image = tokens.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    found = F.grid_sample(image, grid[:, :, None], mode="bilinear", padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)
