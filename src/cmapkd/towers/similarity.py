"""Similarity of image and text embeddings: softmax with a learnt scale (CLIP), or sigmoid with scale and bias (SigLIP)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmapkd.core.types import LogitScale

MAX_SCALE = {"softmax": 100.0, "sigmoid": 1000.0}  # CLIP's bound; SigLIP has none, and its models end near 117


class Similarity:
    """logit = scale · cos(image, text) + bias; the parameters belong to the model, this object refers to them.

    The kind is the model's: sigmoid where it has a `logit_bias`, else softmax.
    """

    def __init__(self, native: nn.Module) -> None:
        self._native: Any = native

    @property
    def kind(self) -> Literal["softmax", "sigmoid"]:
        return "softmax" if self.bias is None else "sigmoid"

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), the inverse temperature, at most 100 (CLIP) or 1000 (sigmoid)."""
        return self._native.logit_scale.exp().clamp_max(MAX_SCALE[self.kind]).reshape(())

    @property
    def bias(self) -> Tensor | None:
        """logit_bias of a model trained with the sigmoid loss (SigLIP), else None."""
        bias = getattr(self._native, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    def learnt(self) -> LogitScale:
        """Scale and bias with their graph."""
        return LogitScale(self.scale, self.bias)

    def fixed(self) -> LogitScale:
        """Scale and bias as plain numbers."""
        bias = self.bias
        return LogitScale(float(self.scale.detach()), None if bias is None else float(bias.detach()))

    @torch.no_grad()
    def set_bias_(self, value: float) -> None:
        """Set the bias of a sigmoid model."""
        assert self.bias is not None
        self._native.logit_bias.fill_(value)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep logit_scale in [0, ln of the largest scale], as CLIP does after every step.

        A bias stays within ± the largest scale: then any cosine can be the one that the sigmoid calls even.
        """
        most = MAX_SCALE[self.kind]
        self._native.logit_scale.clamp_(0, math.log(most))
        if self.kind == "sigmoid":
            self._native.logit_bias.clamp_(-most, most)

    @torch.no_grad()
    def copy_(self, other: Similarity) -> None:
        """Take over the other's scale, and its bias where both have one."""
        for name in ("logit_scale", "logit_bias"):
            mine, theirs = (getattr(each._native, name, None) for each in (self, other))
            if mine is not None and theirs is not None:
                mine.copy_(theirs.reshape(mine.shape))
