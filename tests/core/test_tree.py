"""Trees of tensors: mapped, sliced, joined and moved as one thing, with shared tensors staying shared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cmapkd.core.tree import join, map_tensors, move, rows, tensors
from cmapkd.core.types import Pair, StudentOutputs, Tokens


@dataclass(frozen=True)
class Node:
    name: str
    table: dict[str, Tensor]
    pair: tuple[Tensor, Tensor | None]


def tree() -> Node:
    return Node("a", {"x": torch.arange(6.0).view(3, 2)}, (torch.arange(3), None))


def test_a_map_reaches_every_tensor_and_leaves_the_rest():
    found = map_tensors(tree(), lambda t: t + 1)
    assert found.name == "a" and found.pair[1] is None
    assert torch.equal(found.table["x"], tree().table["x"] + 1) and torch.equal(found.pair[0], torch.arange(1, 4))


def test_rows_and_join_are_inverse():
    whole = tree()
    parts = [rows(whole, index) for index in torch.arange(3).split(2)]
    again = join(parts)
    assert torch.equal(again.table["x"], whole.table["x"]) and torch.equal(again.pair[0], whole.pair[0])
    assert torch.equal(rows(whole, torch.tensor([2, 0])).pair[0], torch.tensor([2, 0]))


def test_a_tensor_that_stands_twice_is_mapped_once_and_stays_one():
    final = Pair(torch.ones(4, 2), torch.zeros(4, 2))
    outputs, calls = StudentOutputs(final, final), []
    found = map_tensors(outputs, lambda t: calls.append(1) or t.clone())
    assert len(calls) == 2 and len(tensors(outputs)) == 2
    assert found.projected.image is found.final.image
    joined = join([found, found])
    assert joined.projected.text is joined.final.text and len(joined.final.text) == 8


def test_places_of_key_tokens_are_sliced_with_their_values():
    level = Tokens(torch.randn(4, 5, 2), None, torch.arange(20).view(4, 5), 3)
    part = rows({"P2": level}, torch.tensor([1, 3]))["P2"]
    assert part.side == 3 and torch.equal(part.places, level.places[[1, 3]]) and part.values.shape == (2, 5, 2)


def test_a_tree_moves_to_a_device():
    assert all(t.device.type == "meta" for t in tensors(move(tree(), torch.device("meta"))))
