"""Trees of tensors: dataclasses, dictionaries and tuples of tensors mapped, sliced, joined and moved as one thing.

What is no tensor (a number, a name, None) stays as it is. A tensor that stands at two places of a tree is one tensor, and
stays one: its gradient is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_tensors(tree: Tree, f: Callable[[Tensor], Tensor]) -> Tree:
    """The tree with f of every tensor; f is called once a tensor, in the order of the fields."""
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
    """The rows `index` (int64 [n]) of every tensor."""
    return map_tensors(tree, lambda tensor: tensor[index.to(tensor.device)])


def join(parts: Sequence[Tree]) -> Tree:
    """Trees of one structure, their tensors concatenated along the first axis."""
    joined = iter([torch.cat(column) for column in zip(*(tensors(part) for part in parts), strict=True)])
    return map_tensors(parts[0], lambda _: next(joined))


def move(tree: Tree, device: torch.device) -> Tree:
    """The tree on `device`."""
    return map_tensors(tree, lambda tensor: tensor.to(device, non_blocking=True))
