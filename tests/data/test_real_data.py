"""The readers on real data sets; skipped where these are not on the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmapkd.core.errors import DataError
from cmapkd.data.boxes import file_size
from cmapkd.data.holdout import hold_out
from cmapkd.data.inspect.look import inspect
from cmapkd.data.loader import read_images
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from cmapkd.data.samples import Samples
from cmapkd.tasks.retrieval.protocols import check_split
from pictures import config

SHARED = Path(os.environ.get("CMAPKD_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; set CMAPKD_SHARED_DATA")
FLICKR = SHARED / "flickr8k" / "annotations"


def read(path: Path, split: str | None = None) -> Samples:
    return open_samples(str(path), config(path), split)


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "dataset_flickr8k.json"])
def test_flickr8k_has_its_splits_in_every_format(name: str) -> None:
    train, val = read(FLICKR / name, "train"), read(FLICKR / name, "val")
    assert (len(train), train.n_captions, len(val), val.n_captions) == (5999, 29995, 1000, 5000)
    assert not set(train.ids) & set(val.ids)


def test_flickr8k_says_the_same_in_coco_format() -> None:
    one, other = read(FLICKR / "captions_flickr8k_val.json"), read(FLICKR / "Flickr8k.token.txt", "dev")
    assert {p.name: c for p, c in zip(one.paths, one.captions, strict=True)} == dict(
        zip(other.ids, other.captions, strict=True)
    )


def test_the_bogus_name_of_the_token_file_is_dropped_and_named() -> None:
    assert "2258277193_586949ec62.jpg.1" in read(FLICKR / "Flickr8k.token.txt").notes[0]


def test_real_photographs_decode() -> None:
    assert read_images(read(FLICKR / "captions_flickr8k_val.json"), range(0, 1000, 100), 32).float().std() > 30


def test_coco_captions_are_read_and_instances_refused() -> None:
    folder = SHARED / "coco_mini" / "annotations"
    val, train = (read(folder / f"captions_{split}2017.json") for split in ("val", "train"))
    assert len(val) + len(train) == 517 and not val.notes and max(map(len, val.captions)) > 5
    with pytest.raises(DataError, match="not captions"):
        read(folder / "instances_val2017.json")


def test_tiny_imagenet_is_whole() -> None:
    train, val = (read(SHARED / "tiny-imagenet-200", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (5000, 10000) and train.classes == val.classes and train.classes is not None
    assert len(train.classes) == 200 and train.labels is not None and val.labels is not None
    assert sorted(set(train.labels)) == sorted(set(val.labels)) == list(range(200))


def test_the_imagenet_sample_has_a_class_an_image() -> None:
    found = read(SHARED / "imagenet_sample")
    assert (
        found.labels == tuple(range(1000)) and found.classes is not None and found.classes[:2] == ("tench", "goldfish")
    )


def test_coco_boxes_fit_their_resized_files() -> None:
    found = open_boxes(str(SHARED / "coco_mini"), config("x"), "val")
    assert (len(found), sum(map(len, found.boxes)), len(found.categories)) == (310, 2550, 80)
    assert sum(int(crowd.sum()) for crowd in found.iscrowd) == 24
    for image in range(0, len(found), 40):
        boxes, (width, height) = found.in_file(image), file_size(found.paths[image])
        assert (width, height) != found.sizes[image]
        assert (boxes[:, 0] + boxes[:, 2] <= width + 1).all() and (boxes[:, 1] + boxes[:, 3] <= height + 1).all()


def test_vqa_questions_have_ten_answers_and_an_image() -> None:
    found = open_questions(str(SHARED / "coco_mini"), config("x"))
    assert len(found) == 546 and len(set(found.image_ids)) == 373 and {len(a) for a in found.answers} == {10}
    assert set(found.answer_types) == {"yes/no", "number", "other"} and not found.notes
    text = open_questions(str(SHARED / "vqa_v2_60k"), config("x"), "val", pictures=False)
    assert len(text) == 8977 and text.answered and text.paths == ()


def test_real_questions_are_held_out_by_image() -> None:
    whole = open_questions(str(SHARED / "coco_mini"), config("x"))
    rest, held = hold_out(whole, 0.3)
    assert len(set(held.image_ids)) == round(0.3 * 373) and len(rest) + len(held) == 546
    assert not set(rest.image_ids) & set(held.image_ids) and held.answered


def test_flickr8k_is_not_taken_for_flickr30k() -> None:
    val = read(FLICKR / "Flickr8k.token.txt", "val")
    (doubt,) = check_split("flickr30k-1k", [path.name for path in val.paths], val.n_captions, val.name)
    assert "not named as its are" in doubt


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("flickr8k", "splits: train (5999), val (1000)"),
        ("flickr8k/annotations/dataset_flickr8k.json", "images of val that train has too: 0 of 1000"),
        ("coco_mini", "also here, boxes: annotations/instances_train2017.json, annotations/instances_val2017.json"),
        ("coco_mini/annotations/instances_val2017.json", "boxes: 2550 (24 crowds)"),
        (
            "coco_mini/annotations/v2_mscoco_train2014_annotations.json",
            "answer types: number 204, yes/no 182, other 160",
        ),
        ("vqa_v2_60k", "questions: 48061"),
        ("coco_mini/annotations/instances_val2017.json", "missing files: 0"),
        ("coco_mini/annotations/instances_val2017.json", "detection:"),
        ("coco_mini/annotations/v2_OpenEnded_mscoco_train2014_questions.json", "  val: holdout"),
        ("imagenet_sample", "zeroshot:"),
        ("tiny-imagenet-200", "splits: train, val"),
        ("imagenet_sample", "classes: 1000 (tench, goldfish, great white shark, …)"),
    ],
)
def test_every_data_set_is_inspected(place: str, line: str) -> None:
    assert line in inspect(str(SHARED / place)).splitlines()
