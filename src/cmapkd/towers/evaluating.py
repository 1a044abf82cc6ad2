"""Eval mode for the duration of a block."""

from __future__ import annotations

from torch import nn


class evaluating:
    """Context manager: `module` is in eval mode inside the block and in its former mode after it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.was = module, module.training

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.train(self.was)
