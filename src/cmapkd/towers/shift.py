"""Subtract a constant from every image embedding inside the image tower's own biases, so that any loader gets it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cmapkd.towers.protocols import ImageTower

EXACT = 1e-3  # largest error of the shift, relative to the largest component of the embeddings


@contextmanager
def shifted(image: ImageTower, by: Tensor, probe: Tensor) -> Iterator[bool]:
    """Inside the block `image.encode` gives e − by for every raw embedding e; after it the weights are as before.

    by: [E]; probe: a few normalised images [n, 3, S, S] on which the shift is verified. Yields False, with all weights
    unchanged, where no bias of the tower can hold the shift: everything after that bias has to be linear.
    """
    bias, kept = _shift(image, by, probe)
    try:
        yield bias is not None
    finally:
        if bias is not None:
            bias.data.copy_(kept)


@torch.no_grad()
def _shift(image: ImageTower, by: Tensor, probe: Tensor) -> tuple[Tensor | None, Tensor]:
    """(the bias that now holds the shift, its former value); (None, by) where no bias can."""
    before = image.encode(probe)
    for bias, change in _candidates(image.native, by):
        kept = bias.detach().clone()
        bias.sub_(change.to(bias))
        if (image.encode(probe) - (before - by)).abs().max() <= EXACT * before.abs().max():
            return bias, kept
        bias.copy_(kept)
    return None, by


def _candidates(visual: nn.Module, by: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(bias, amount to subtract from it): the last linear map's, else that of a norm before a last map without bias."""
    linears = [m for m in visual.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in visual.modules() if isinstance(m, nn.LayerNorm) and m.bias is not None]
    if linears and linears[-1].bias is not None and linears[-1].bias.shape == by.shape:
        yield linears[-1].bias, by
    proj = getattr(visual, "proj", None)
    for weight in [proj.T] if isinstance(proj, Tensor) else [m.weight for m in linears[-1:]]:  # [E, width]
        for norm in norms[:-3:-1]:
            if weight.shape == (len(by), len(norm.bias)):
                yield norm.bias, torch.linalg.pinv(weight.float()) @ by.float()
