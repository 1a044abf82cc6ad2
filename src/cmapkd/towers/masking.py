"""Masked images: most patches of each image hidden at random (MFD of CLIP-KD, Yang et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cmapkd.distributed.collectives import own_rows
from cmapkd.distributed.group import world

MASKED = 0.75  # share of an image's patches that are hidden


def draw_noise(images: Tensor, patch: int) -> Float[Tensor, "b n"]:
    """A random number for each patch of each image, of the generator that checkpoints keep.

    It is drawn for the images of all processes, so that an image's numbers do not depend on how many there are.
    """
    side = -(-images.shape[-1] // patch)
    return own_rows(torch.rand(world() * len(images), side * side)).to(images.device)


def hide_patches(
    images: Float[Tensor, "b 3 s s"], patch: int, noise: Float[Tensor, "b n"], ratio: float = MASKED
) -> Float[Tensor, "b 3 s s"]:
    """Normalised images with `ratio` of each one's patch × patch squares, those of least noise, set to 0, the mean colour."""
    side = -(-images.shape[-1] // patch)
    hidden = noise.argsort(1).argsort(1) < round(ratio * side * side)
    mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return images.masked_fill(mask[..., : images.shape[-2], : images.shape[-1]], 0.0)
