"""Prompts: learnt tokens beside the patches in the first blocks of a ViT (VPT-deep, Jia et al. 2022, arXiv 2203.12119)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

STD = 0.02


class Prompts(nn.Module):
    """tokens [depth, n, width]: block k < depth reads the n tokens of row k; each later block reads the prompt tokens
    that the block before it gave out."""

    def __init__(self, tokens: int, depth: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(depth, tokens, width) * STD)

    @contextmanager
    def around(self, visual: Any) -> Iterator[None]:
        """Inside the block, `visual` (an open_clip ViT) runs with the prompts; after it, as before.

        Prompts stand after the patches. They are appended right before each block and removed right after it, so that
        pooling and intermediates see the usual tokens. The first row passes the tower's own first norm.
        """
        depth, count = self.tokens.shape[:2]
        carried: list[Tensor] = []

        def append(index: int, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, *rest = args
            row = self.tokens[index] if index < depth else carried.pop()
            row = visual.ln_pre(row) if index == 0 else row
            return torch.cat([x, row.to(x.dtype).expand(len(x), -1, -1)], 1), *rest

        def remove(index: int, x: Tensor) -> Tensor:
            if depth - 1 <= index < len(blocks) - 1:
                carried.append(x[:, -count:])
            return x[:, :-count]

        blocks, hooks = visual.transformer.resblocks, []
        try:
            for k, block in enumerate(blocks):
                hooks.append(block.register_forward_pre_hook(lambda _, args, k=k: append(k, args)))
                hooks.append(block.register_forward_hook(lambda _, args, x, k=k: remove(k, x)))
            yield
        finally:
            for hook in hooks:
                hook.remove()
