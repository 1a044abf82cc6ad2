"""Similarity: the learnt scale of the cosine similarity of image and text embeddings, and its bias where there is one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

MAX_SCALE = 100.0


class Similarity:
    """logit = scale · cos(image, text) + bias; the parameters belong to the model, this object refers to them."""

    def __init__(self, native: nn.Module) -> None:
        self._native: Any = native

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), the inverse temperature, clamped at 100 (CLIP)."""
        return self._native.logit_scale.exp().clamp_max(MAX_SCALE)

    @property
    def bias(self) -> Tensor | None:
        """logit_bias of a model trained with the sigmoid loss (SigLIP), else None."""
        return getattr(self._native, "logit_bias", None)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep logit_scale in [0, ln 100], as CLIP does after every step."""
        self._native.logit_scale.clamp_(0, math.log(MAX_SCALE))

    @torch.no_grad()
    def copy_(self, other: Similarity) -> None:
        """Take over the other's logit_scale."""
        self._native.logit_scale.copy_(other._native.logit_scale)
