"""EMA: an exponential moving average of the student's weights, which is validated and written instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM = 10.0  # the average forgets the first weights: its decay at step n is at most (1 + n) / (WARM + n)


class Ema:
    """ā ← d ā + (1 − d) θ of every parameter of `modules` that learns, after each step; statistics of batch norms are not averaged."""

    def __init__(self, modules: list[nn.Module], decay: float) -> None:
        self.decay = decay
        self.parameters: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]

    def restart(self) -> None:
        """Begin again at the weights as they are."""
        for value, p in zip(self.average, self.parameters, strict=True):
            value.copy_(p.detach())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (WARM + step))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the modules have the average, after it their own weights again, to the bit."""
        own = [p.detach().clone() for p in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(own)

    def tensors(self) -> dict[str, Tensor]:
        """The average by place, for a checkpoint."""
        return {str(k): value for k, value in enumerate(self.average)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the average of a checkpoint; one that was written without an average leaves the one at hand."""
        for k, value in tensors.items():
            self.average[int(k)].copy_(value)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value)
