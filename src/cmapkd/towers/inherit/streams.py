"""The teacher's residual stream: recorded at a module's input, and computed through a block in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 64


@dataclass(frozen=True)
class Passage:
    """A residual stream before a block, between its attention and its MLP, and after it: [n, L, D] each."""

    before: Tensor
    between: Tensor
    after: Tensor


def passage(block: Any, x: Tensor, mask: Tensor | None) -> Passage:
    """The stream x [n, L, D] through an open_clip block."""
    between, after = [], []
    for part in x.split(CHUNK):
        between.append(part + block.ls_1(block.attention(block.ln_1(part), attn_mask=mask)))
        after.append(between[-1] + block.ls_2(block.mlp(block.ln_2(between[-1]))))
    return Passage(x, torch.cat(between), torch.cat(after))


def recorded(
    modules: dict[str, nn.Module], call: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """(input of each module during call(inputs), result of the call), computed in chunks."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [module.register_forward_pre_hook(_appending(seen[name])) for name, module in modules.items()]
    try:
        end = torch.cat([call(part) for part in inputs.split(CHUNK)])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}, end


def _appending(parts: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    return lambda _, given: parts.append(given[0])
