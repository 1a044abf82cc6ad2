"""The teacher's residual stream: recorded at a module's input, and computed through a block in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.towers.inherit.attention import attend
from cmapkd.towers.inherit.parts import BlockParts

CHUNK = 64


@dataclass(frozen=True)
class Passage:
    """A residual stream before a block, between its attention and its MLP, and after it: [n, L, D] each.

    sums: the stream after the two additions; where norms follow these, `between` and `after` are behind the norms.
    """

    before: Tensor
    between: Tensor
    after: Tensor
    sums: tuple[Tensor, Tensor]

    def mapped(self, fit: Callable[[Tensor], Tensor]) -> Passage:
        """The same at other tokens."""
        between, after = fit(self.between), fit(self.after)
        bare = self.sums[0] is not self.between
        return Passage(
            fit(self.before), between, after, (fit(self.sums[0]), fit(self.sums[1])) if bare else (between, after)
        )


def passage(block: BlockParts, x: Tensor, mask: Tensor | None) -> Passage:
    """The stream x [n, L, D] through a block; mask: as `attend` has it."""
    between, after, first, second = [], [], [], []
    for start in range(0, len(x), CHUNK):
        part, rows = x[start : start + CHUNK], rows_of(mask, slice(start, start + CHUNK))
        first.append(part + attend(block, part if block.post else block.first(part), rows))
        between.append(block.first(first[-1]) if block.post else first[-1])
        written = block.project(block.act(block.fc(between[-1] if block.post else block.second(between[-1]))))
        second.append(between[-1] + (written if block.scales[1] is None else written * block.scales[1]))
        after.append(block.second(second[-1]) if block.post else second[-1])
    ends = torch.cat(between), torch.cat(after)
    return Passage(x, *ends, (torch.cat(first), torch.cat(second)) if block.post else ends)


def rows_of(mask: Tensor | None, rows: slice) -> Tensor | None:
    """The mask of some samples: [L, L] is of all of them."""
    return mask if mask is None or mask.ndim == 2 else mask[rows]


def recorded(
    modules: dict[str, nn.Module], call: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """(input of each module during call(inputs), result of the call), computed in chunks; shorter ones get zeros behind."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_pre_hook(_appending(seen[name]), with_kwargs=True) for name, module in modules.items()
    ]
    try:
        end = torch.cat([call(part) for part in inputs.split(CHUNK)])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _joined(parts) for name, parts in seen.items()}, end


def _appending(parts: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    return lambda _, given, named: parts.append(given[0] if given else named["hidden_states"])


def _joined(parts: list[Tensor]) -> Tensor:
    longest = max(part.shape[1] for part in parts)
    return torch.cat([part if part.ndim < 3 else F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
