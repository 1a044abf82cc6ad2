"""The built-in world is deterministic, its sentences are true, and its files have the formats of COCO and VQA v2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmapkd.data.scenes.captions import captions_of, describe, plural, relation, relations_of
from cmapkd.data.scenes.dataset import SPLITS, world_seed, write_scenes, write_single_objects
from cmapkd.data.scenes.pixels import box_of, paint
from cmapkd.data.scenes.questions import questions_of
from cmapkd.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    SHAPES,
    SIDE,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    draw_scene,
)

SCENES = [draw_scene(np.random.default_rng(k)) for k in range(400)]
THING = (
    rf"(?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<texture>striped|dotted) )?"
    rf"(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
)
RELATION = re.compile(r"^(an? .+?) (?:is )?(to the left of|to the right of|above|below) (an? .+?) \.$")


def said(scene: Scene, text: str) -> list[Thing]:
    """The objects of the scene that a description fits."""
    match = re.search(THING, text)
    assert match, text
    named = {key: value for key, value in match.groupdict().items() if value}
    return [t for t in scene.things if all(getattr(t, key) == value for key, value in named.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "scenes"
    write_scenes(path, 24, 7)
    return path


def test_every_thing_that_a_caption_names_is_there() -> None:
    for k, scene in enumerate(SCENES):
        for caption in captions_of(scene, np.random.default_rng(k)):
            for match in re.finditer(THING, caption):
                assert said(scene, match[0]), (caption, scene)


def test_every_relation_that_a_caption_states_holds() -> None:
    stated = 0
    for k, scene in enumerate(SCENES):
        for caption in captions_of(scene, np.random.default_rng(k)):
            if match := RELATION.match(caption):
                stated += 1
                pairs = [(a, b) for a in said(scene, match[1]) for b in said(scene, match[3]) if a is not b]
                assert any(relation(a, b) == match[2] for a, b in pairs), (caption, scene)
    assert stated > 400


def test_every_count_and_background_that_a_caption_states_is_right() -> None:
    names = "|".join([*SHAPES, *map(plural, SHAPES)])
    counted = 0
    for k, scene in enumerate(SCENES):
        for caption in captions_of(scene, np.random.default_rng(k)):
            for number, noun in re.findall(rf"\b({'|'.join(NUMBERS)}) ({names})\b", caption):
                counted += 1
                assert sum(noun in (t.shape, plural(t.shape)) for t in scene.things) == NUMBERS.index(number), caption
            ground = re.search(rf"\b({'|'.join(BACKGROUNDS)}) background", caption)
            assert ground is None or ground[1] == scene.background
    assert counted > 300


def test_there_are_five_captions_of_different_detail_with_their_articles() -> None:
    for k, scene in enumerate(SCENES):
        captions = captions_of(scene, np.random.default_rng(k))
        assert len(captions) == 5 and len(set(captions)) >= 4
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", " ".join(captions))


def test_scenes_share_their_things_and_differ_in_detail() -> None:
    counts = {n: sum(len(s.things) == n for s in SCENES) for n in (1, 2, 3, 4)}
    assert all(counts.values()) and counts[1] < 80
    assert {t.texture for s in SCENES for t in s.things} == set(TEXTURES) and {
        t.size for s in SCENES for t in s.things
    } == set(SIZES)
    assert len(SHAPES) >= 8 and len(COLOURS) >= 8
    twins = sum(len({t.shape for t in s.things}) < len(s.things) for s in SCENES)
    assert twins > 50


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [(10, 35, "to the left of"), (50, 25, "to the right of"), (35, 10, "above"), (25, 50, "below")],
)
def test_a_relation_is_told_from_the_centres(x: int, y: int, what: str) -> None:
    assert (
        relation(Thing("star", "red", "small", "plain", x, y), Thing("ring", "red", "small", "plain", 30, 30)) == what
    )


def test_relations_are_opposite_from_the_other_end() -> None:
    back = {
        "to the left of": "to the right of",
        "to the right of": "to the left of",
        "above": "below",
        "below": "above",
    }
    for scene in SCENES[:100]:
        found = {(a, b): what for a, what, b in relations_of(scene)}
        assert all(found[b, a] == back[what] for (a, b), what in found.items())


def test_questions_have_true_answers() -> None:
    seen = set()
    for k, scene in enumerate(SCENES):
        for question, answer, answer_type, _ in questions_of(scene, np.random.default_rng(k)):
            seen.add(answer_type)
            if answer_type == "number":
                noun = re.match(r"How many (\w+)", question)
                assert noun
                fitting = [t for t in scene.things if noun[1] in ("objects", t.colour, plural(t.shape))]
                assert int(answer) == len(fitting), question
            elif question.startswith("Is there"):
                assert (answer == "yes") == bool(said(scene, question)), question
            elif answer_type == "yes/no":
                first, what, second = re.split(r" (to the left of|to the right of|above|below) ", question)
                assert (answer == "yes") == (relation(said(scene, first)[0], said(scene, second)[0]) == what), question
            elif "background" in question:
                assert answer == scene.background
            else:
                assert sum(answer in (t.colour, t.shape, t.texture) for t in scene.things) >= 1, question
    assert seen == {"yes/no", "number", "other"}


def test_yes_and_no_are_equally_likely() -> None:
    answers = [questions_of(s, np.random.default_rng(k))[0][1] for k, s in enumerate(SCENES)]
    assert 160 < answers.count("yes") < 240


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_box_fits_what_is_painted(shape: str, size: str) -> None:
    thing = Thing(shape, "red", size, "plain", 30.0, 34.0)
    pixels = np.asarray(paint(Scene("grey", False, (thing,)), np.random.default_rng(0))).astype(int)
    red = pixels[..., 0] - pixels[..., 2] > 70
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    x, y, width, height = box_of(thing)
    drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.array(drawn) - (x, y, x + width, y + height)).max() <= 1


def test_colours_and_textures_can_be_told_apart() -> None:
    def crop(colour: str, texture: str) -> np.ndarray:
        thing = Thing("square", colour, "large", texture, 32.0, 32.0)
        return np.asarray(paint(Scene("grey", False, (thing,)), np.random.default_rng(0)), dtype=int)[24:40, 24:40]

    looks = [crop(c, t) for c in COLOURS for t in TEXTURES]
    distances = [np.abs(a - b).mean() for i, a in enumerate(looks) for b in looks[:i]]
    assert min(distances) > 10


def test_the_same_seed_writes_the_same_bytes_and_image_i_does_not_depend_on_n(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", 24, 7)
    write_scenes(tmp_path / "fewer", 5, 7)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()
    for name, key in (("captions", "annotations"), ("vqa_questions", "questions"), ("instances", "annotations")):
        few, many = (json.loads((f / f"{name}.json").read_text())[key] for f in (tmp_path / "fewer", folder))
        assert few == many[: len(few)]
    for path in (tmp_path / "fewer" / "images").iterdir():
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()


def test_the_splits_are_worlds_apart(tmp_path: Path) -> None:
    assert len({world_seed(name) for name in (*SPLITS, "0", "1", "2", "3")}) == 7
    pictures: set[bytes] = set()
    for name in SPLITS:
        write_scenes(tmp_path / name, 20, world_seed(name))
        pictures |= {p.read_bytes() for p in (tmp_path / name / "images").iterdir()}
    assert len(pictures) == 20 * len(SPLITS)


def test_boxes_and_questions_are_in_the_formats_of_coco_and_vqa(folder: Path) -> None:
    read = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    instances, scenes = read["instances"], read["scenes"]
    names = {c["id"]: c["name"] for c in instances["categories"]}
    assert [names[b["category_id"]] for b in instances["annotations"]] == [
        t["shape"] for s in scenes for t in s["things"]
    ]
    for box in instances["annotations"]:
        x, y, width, height = box["bbox"]
        assert (
            0 <= x < x + width <= SIDE
            and 0 <= y < y + height <= SIDE
            and box["area"] == width * height
            and box["iscrowd"] == 0
        )
    assert len({b["id"] for b in instances["annotations"]}) == len(instances["annotations"])
    asked, answered = read["vqa_questions"]["questions"], read["vqa_annotations"]["annotations"]
    assert [q["question_id"] for q in asked] == [a["question_id"] for a in answered] and len(asked) == 24 * 3
    assert all([x["answer"] for x in a["answers"]] == [a["multiple_choice_answer"]] * 10 for a in answered)
    assert len(read["classes"]) == len(SHAPES) * len(COLOURS)
    assert all(scenes[k]["relations"] for k in range(24) if len(scenes[k]["things"]) > 1)


def test_it_says_that_it_is_synthetic(folder: Path) -> None:
    assert (folder / "README.txt").read_text().startswith("SYNTHETIC")
    assert "SYNTHETIC" in json.loads((folder / "captions.json").read_text())["info"]["description"]


def test_an_interrupted_writer_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        write_scenes(tmp_path / "world", 3, 0)
    assert not (tmp_path / "world").exists()


def test_single_objects_come_as_class_folders(tmp_path: Path) -> None:
    write_single_objects(tmp_path / "objects", 1, 3)
    names = {p.parent.name for p in (tmp_path / "objects").rglob("*.png")}
    assert names == {f"{c} {s}" for c in COLOURS for s in SHAPES}
    red, blue = (
        np.asarray(Image.open(tmp_path / "objects" / f"{c} square" / "0.png")).astype(int) for c in ("red", "blue")
    )
    assert (red[..., 0] - red[..., 2]).max() > 100 and (blue[..., 2] - blue[..., 0]).max() > 100


def test_detail_grows_from_colour_to_size() -> None:
    thing = Thing("star", "orange", "small", "dotted", 10, 10)
    assert [describe(thing, d) for d in (1, 2, 3)] == [
        "an orange star",
        "a dotted orange star",
        "a small dotted orange star",
    ]
