"""L_relation between samples and L_layer_relation between pyramid levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def similarity_matrix(x: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """G: cosine similarities within the batch after subtracting the batch mean (CLIP features share a large mean)."""
    centred = x - x.mean(0, keepdim=True)
    return F.normalize(centred, dim=-1) @ F.normalize(centred, dim=-1).T


def relation(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b e"]) -> Float[Tensor, ""]:
    """mean over a ≠ b of (G^T_ab − G^S_ab)²: ‖G_T − G_S‖_F² / (B (B − 1)); widths may differ; one sample gives 0."""
    size = len(student)
    if size < 2:
        return student.sum() * 0
    difference = similarity_matrix(teacher.detach()) - similarity_matrix(student)
    return _off_diagonal(difference).square().sum() / (size * (size - 1))


def level_similarity(bridge: Float[Tensor, "b k e"]) -> Float[Tensor, "b k k"]:
    """R: per sample, cosines between its levels' embeddings in the shared space."""
    unit = F.normalize(bridge, dim=-1)
    return torch.einsum("bke,ble->bkl", unit, unit)


def layer_relation(student: Float[Tensor, "b k e"], teacher: Float[Tensor, "b k f"]) -> Float[Tensor, ""]:
    """mean over samples and k ≠ l of (R_T − R_S)²; invariant to a rotation of either shared space."""
    difference = level_similarity(teacher.detach()) - level_similarity(student)
    size = difference.shape[-1]
    return _off_diagonal(difference).square().sum() / (len(difference) * size * (size - 1))


def _off_diagonal(square: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    """The matrix with zeros on the diagonal; taking the other entries out by a mask would make the host wait."""
    return square.masked_fill(torch.eye(square.shape[-1], dtype=torch.bool, device=square.device), 0.0)
