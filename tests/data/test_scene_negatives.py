"""Hard negatives: the true sentence holds, the false one does not, and they differ only in their kind."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from cmapkd.core.errors import DataError
from cmapkd.data.readers import open_samples
from cmapkd.data.scenes.captions import plural, relation
from cmapkd.data.scenes.negatives import ATTRIBUTES, KINDS, contrasts, contrasts_of
from cmapkd.data.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, SHAPES, SIZES, Scene, Thing, draw_scene
from pictures import config, picture

SCENES = [draw_scene(np.random.default_rng(k)) for k in range(300)]
FOUND = [(scene, *row) for k, scene in enumerate(SCENES) for row in contrasts_of(scene, np.random.default_rng(k))]
THING = re.compile(
    rf"an? (?P<size>{'|'.join(SIZES)}) (?:(?P<texture>striped|dotted) )?(?P<colour>{'|'.join(COLOURS)}) "
    rf"(?P<shape>{'|'.join(SHAPES)})"
)
SINGULAR = {plural(shape): shape for shape in SHAPES} | {shape: shape for shape in SHAPES}


def fitting(scene: Scene, text: str) -> list[Thing]:
    """The objects that a description fits, parsed from its words alone."""
    match = THING.fullmatch(text)
    assert match, text
    named = {key: value for key, value in match.groupdict().items() if value}
    return [t for t in scene.things if all(getattr(t, key) == value for key, value in named.items())]


def is_true(scene: Scene, text: str) -> bool:
    """Whether a sentence of any kind describes the scene."""
    text = text.removesuffix(" .")
    if text.startswith("there "):
        counts = Counter()
        for number, name in re.findall(rf"\b({'|'.join(NUMBERS)}) (\w+)", text):
            counts[SINGULAR[name]] += NUMBERS.index(number)
        return counts == Counter(thing.shape for thing in scene.things)
    if match := re.fullmatch(r"(.+) on an? (\w+) background", text):
        return bool(fitting(scene, match[1])) and match[2] == scene.background
    if match := re.fullmatch(r"(.+) (to the left of|to the right of|above|below) (.+)", text):
        firsts, seconds = fitting(scene, match[1]), fitting(scene, match[3])
        return any(relation(a, b) == match[2] for a in firsts for b in seconds if a is not b)
    return bool(fitting(scene, text))


def test_only_the_true_sentence_describes_its_scene() -> None:
    assert {kind for _, kind, *_ in FOUND} == set(KINDS)
    for scene, kind, true, false in FOUND:
        assert is_true(scene, true) and not is_true(scene, false), (kind, true, false, scene)


def test_the_two_differ_in_one_word_or_in_order_alone() -> None:
    for _, kind, true, false in FOUND:
        a, b = (
            Counter(text.replace(" an ", " a ").removeprefix("an ").removeprefix("a ").split())
            for text in (true, false)
        )
        if kind == "swap":
            assert sorted(true.split()) == sorted(false.split()) and true != false
        elif kind == "relation":
            assert {*(a - b), *(b - a)} in ({"left", "right"}, {"above", "below"})
        elif kind == "background":
            assert {*(a - b), *(b - a)} <= set(BACKGROUNDS)
        elif kind in ("colour", "shape", "size"):
            assert len(a - b) == len(b - a) == 1 and {*(a - b), *(b - a)} <= set(ATTRIBUTES[kind])


def test_a_wrong_count_is_one_off_and_of_a_scene_that_could_be() -> None:
    for scene, kind, _, false in FOUND:
        if kind == "count":
            said = sum(NUMBERS.index(word) for word in false.split() if word in NUMBERS)
            assert abs(said - len(scene.things)) == 1 and 1 <= said <= 4


def test_one_object_has_no_relation() -> None:
    alone = draw_scene(np.random.default_rng(0), count=1)
    kinds = {kind for kind, *_ in contrasts_of(alone, np.random.default_rng(0))}
    assert not kinds & {"relation", "swap"} and {"colour", "shape", "background"} <= kinds


def test_they_are_the_same_every_time_and_follow_a_subset(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path))
    samples = open_samples("scenes:6:val", config("x"))
    found = contrasts(samples)
    assert found == contrasts(samples)
    of_last = [(c.kind, c.true, c.false) for c in found if c.image == 5]
    assert [(c.kind, c.true, c.false) for c in contrasts(samples.subset(np.array([5])))] == of_last


def test_other_data_is_refused_in_one_line(tmp_path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(DataError, match=r"not of the built-in world.*give scenes:N"):
        contrasts(open_samples(str(tmp_path), config(tmp_path)))
