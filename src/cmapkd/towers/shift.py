"""A constant taken from every image embedding, inside the image tower's own biases, so that any loader has it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

EXACT = 1e-3  # of the embeddings' size


@contextmanager
def shifted(clip: Any, by: Tensor, probe: Tensor) -> Iterator[bool]:
    """Inside the block `clip.encode_image` gives e − by for every raw embedding e; after it the weights are as before.

    by: [E]; probe: a few normalised images [n, 3, S, S] on which it is verified. Gives False, and changes nothing, where
    no bias of the tower can take it: what follows the bias has to be linear.
    """
    bias, kept = _shift(clip, by, probe)
    try:
        yield bias is not None
    finally:
        if bias is not None:
            bias.data.copy_(kept)


@torch.no_grad()
def _shift(clip: Any, by: Tensor, probe: Tensor) -> tuple[Tensor | None, Tensor]:
    """(the bias that took it, the bias before); (None, nothing) where none could."""
    before = clip.encode_image(probe)
    for bias, change in _candidates(clip.visual, by):
        kept = bias.detach().clone()
        bias.sub_(change.to(bias))
        if (clip.encode_image(probe) - (before - by)).abs().max() <= EXACT * before.abs().max():
            return bias, kept
        bias.copy_(kept)
    return None, by


def _candidates(visual: nn.Module, by: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(bias, what is to be taken from it): of the last linear map, else of a norm before a last map without bias."""
    linears = [m for m in visual.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in visual.modules() if isinstance(m, nn.LayerNorm) and m.bias is not None]
    if linears and linears[-1].bias is not None and linears[-1].bias.shape == by.shape:
        yield linears[-1].bias, by
    proj = getattr(visual, "proj", None)
    for weight in [proj.T] if isinstance(proj, Tensor) else [m.weight for m in linears[-1:]]:  # [E, width]
        for norm in norms[:-3:-1]:
            if weight.shape == (len(by), len(norm.bias)):
                yield norm.bias, torch.linalg.pinv(weight.float()) @ by.float()
