"""Trees of tensors: map, index, concatenate or move all tensors in nested dataclasses, dictionaries and tuples.

Leaves that are not tensors (numbers, names, None) stay unchanged. A tensor that occurs at two places of a tree remains one
tensor, so that its gradient is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_tensors(tree: Tree, f: Callable[[Tensor], Tensor]) -> Tree:
    """The tree with f applied to every tensor, once for each tensor, in the order of the fields."""
    done: dict[int, Tensor] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in done:
                done[id(node)] = f(node)
            return done[id(node)]
        if is_dataclass(node) and not isinstance(node, type):
            return replace(node, **{field.name: walk(getattr(node, field.name)) for field in fields(node)})
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, tuple):
            return tuple(walk(value) for value in node)
        return node

    return walk(tree)


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of a tree in the order of its fields, each once."""
    found: list[Tensor] = []
    map_tensors(tree, lambda tensor: found.append(tensor) or tensor)
    return found


def rows(tree: Tree, index: Tensor) -> Tree:
    """The tree with every tensor indexed by `index`, int64 [n], along the first axis."""
    return map_tensors(tree, lambda tensor: tensor[index.to(tensor.device)])


def join(parts: Sequence[Tree]) -> Tree:
    """Trees of the same structure concatenated along the first axis of their tensors."""
    joined = iter([torch.cat(column) for column in zip(*(tensors(part) for part in parts), strict=True)])
    return map_tensors(parts[0], lambda _: next(joined))


def move(tree: Tree, device: torch.device) -> Tree:
    """The tree with every tensor on `device`; to a GPU from pinned memory, so that the host need not wait for the copy."""

    def moved(tensor: Tensor) -> Tensor:
        staged = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return staged.to(device, non_blocking=True)

    return map_tensors(tree, moved)
