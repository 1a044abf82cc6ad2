"""Held-out shares are split by image: disjoint, complete, and the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import DataError
from cmapkd.core.order import permute
from cmapkd.data.boxes import Boxes
from cmapkd.data.holdout import Pool, hold_out, split_holdout
from cmapkd.data.questions import Questions


def questions(n: int) -> Questions:
    """n questions, three per image."""
    ids, words = tuple(range(n)), ("",) * n
    images = tuple(k // 3 for k in ids)
    return Questions("q.json", ids, images, tuple(Path(f"{k}.jpg") for k in images), words, words, words, (("a",),) * n)


def boxes(n: int) -> Boxes:
    column = tuple(np.full((1, 4), float(k)) for k in range(n))
    flat = tuple(np.array([k]) for k in range(n))
    return Boxes("b.json", tuple(range(n)), tuple(Path(f"{k}.jpg") for k in range(n)), ((1, 1),) * n, column, flat, flat, flat, {1: "x"})  # fmt: skip


def test_the_split_keeps_its_share_out_and_loses_nothing() -> None:
    pool, held = split_holdout(48, 0.2)
    assert len(held) == 10 and not set(pool) & set(held) and len(set(pool) | set(held)) == 48


@pytest.mark.parametrize("without", [[], [0], [4], [0, 1, 4], [1, 2], [0, 1, 2, 3, 4]])
def test_a_pool_is_the_numbers_that_are_not_left_out(without: list[int]) -> None:
    pool, rest = Pool(5, np.array(without, np.int64)), sorted(set(range(5)) - set(without))
    assert list(pool) == rest and len(pool) == len(rest)
    assert pool[np.arange(len(rest))[::-1]].tolist() == rest[::-1]


def test_the_split_is_that_of_a_sorted_permutation() -> None:
    order = permute(np.arange(101), 101, 0, 0)
    pool, held = split_holdout(101, 0.3)
    assert list(pool) == sorted(order[:71].tolist()) and held.tolist() == sorted(order[71:].tolist())


def test_questions_of_one_image_stay_together_and_none_is_lost() -> None:
    rest, held = hold_out(questions(90), 0.3)
    assert len(set(held.image_ids)) == 9 and len(held) == 27
    assert not set(rest.image_ids) & set(held.image_ids)
    assert sorted((*rest.ids, *held.ids)) == list(range(90))
    assert "held-out 30%" in held.name and held.name != rest.name


def test_the_slice_is_the_same_every_time() -> None:
    assert hold_out(questions(90), 0.3)[1].ids == hold_out(questions(90), 0.3)[1].ids
    assert hold_out(boxes(20), 0.25)[1].image_ids == hold_out(boxes(20), 0.25)[1].image_ids


def test_boxes_follow_their_image() -> None:
    rest, held = hold_out(boxes(20), 0.25)
    assert len(held) == 5 and len(rest) == 15
    assert all(float(box[0, 0]) == key for key, box in zip(held.image_ids, held.boxes, strict=True))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="leaves nothing to train on or to score"):
        hold_out(questions(9), share)
