"""Masked images: most patches of each image hidden at random (MFD of CLIP-KD, Yang et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MASKED = 0.75  # share of an image's patches that are hidden


def hide_patches(images: Float[Tensor, "b 3 s s"], patch: int, ratio: float = MASKED) -> Float[Tensor, "b 3 s s"]:
    """Normalised images with a random `ratio` of each one's patch × patch squares set to 0, the mean colour."""
    side = -(-images.shape[-1] // patch)
    noise = torch.rand(len(images), side * side).to(images.device)  # of the generator that checkpoints keep
    hidden = noise.argsort(1).argsort(1) < round(ratio * side * side)
    mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return images.masked_fill(mask[..., : images.shape[-2], : images.shape[-1]], 0.0)
