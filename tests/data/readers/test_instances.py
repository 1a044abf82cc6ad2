"""COCO instances: boxes of every image, at the scale of its file, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_boxes, open_samples
from data.written import instances
from pictures import config, picture


def read(path: Path, **keys: object):
    return open_boxes(str(path), config(path, **keys))


def test_boxes_are_those_of_the_original_and_of_the_file_where_asked(tmp_path: Path) -> None:
    found = read(instances(tmp_path, {}, {"category_id": 3, "iscrowd": 1}))
    assert (
        found.image_ids == (1, 2) and found.sizes == ((80, 60), (20, 10)) and found.categories == {3: "cat", 90: "dog"}
    )
    np.testing.assert_array_equal(found.boxes[0], [[10, 20, 30, 8.5]] * 2)
    np.testing.assert_array_equal(found.in_file(0), [[5, 10, 15, 4.25]] * 2)
    assert found.category_ids[0].tolist() == [90, 3] and found.iscrowd[0].tolist() == [0, 1]
    assert found.area[0].tolist() == [200.5, 200.5] and len(found) == 2
    assert found.boxes[1].shape == (0, 4) and found.in_file(1).shape == (0, 4) and found.area[1].dtype == np.float64


def test_notes_tell_of_bare_images_and_resized_files(tmp_path: Path) -> None:
    notes = read(instances(tmp_path, {})).notes
    assert notes[0].startswith("1 images without a box kept")
    assert notes[1] == "resized files, boxes are scaled to them (1 of 2 probed; 1.png: 80×60 → 40×30)"
    (tmp_path / "val2017" / "1.png").unlink()
    picture(tmp_path / "val2017" / "1.png", size=(40, 40))
    assert any(
        "another shape" in note for note in read(instances(tmp_path / "x", {}), images=tmp_path / "val2017").notes
    )


def test_sizes_that_the_json_lacks_are_the_files(tmp_path: Path) -> None:
    found = read(instances(tmp_path, {}, images=[{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}]))
    assert found.sizes == ((40, 30), (20, 10))
    np.testing.assert_array_equal(found.in_file(0), found.boxes[0])


def test_a_missing_file_and_boxes_of_unlisted_images_are_counted(tmp_path: Path) -> None:
    path = instances(tmp_path, {}, {"image_id": 5})
    (tmp_path / "val2017" / "2.png").unlink()
    found = read(path)
    assert found.image_ids == (1,) and found.notes[:2] == (
        "1 boxes of images that are not listed dropped", "1 names without a file dropped (first: '2.png')",
    )  # fmt: skip


def test_a_subset_keeps_rows_together(tmp_path: Path) -> None:
    part = read(instances(tmp_path, {})).subset(np.array([1, 0]))
    assert part.image_ids == (2, 1) and len(part.boxes[1]) == 1 and part.paths[0].name == "2.png"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 4}, r"annotation 1: category_id 4 is not among the 2 categories.*3 to 90"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\], but must be \[left, top, width, height\]"),
        ({"bbox": [1, 2, -3, 4]}, "width, height ≥ 0"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox is"),
        ({"image_id": 9}, "none of its 1 boxes is of a listed image.*first image_id 9, first image id 1"),
        ({"image_id": "one"}, "image_id is 'one', but must be a whole number"),
        ({"area": None}, "area is None"),
    ],
)
def test_a_box_that_cannot_be_is_one_line(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(instances(tmp_path, change))
    assert "\n" not in str(caught.value) and caught.value.code == 3


def test_captions_are_no_boxes_and_boxes_no_captions(tmp_path: Path) -> None:
    path = instances(tmp_path, annotations=[{"image_id": 1, "caption": "a dog"}])
    with pytest.raises(DataError, match="holds captions; give the instances_"):
        read(path)
    path = instances(tmp_path, {})
    with pytest.raises(DataError, match="holds instances, not captions"):
        open_samples(str(path), config(path))


def test_a_folder_of_splits_wants_one(tmp_path: Path) -> None:
    for name in ("instances_val2017.json", "instances_train2017.json"):
        instances(tmp_path, {}, name=name)
    assert open_boxes(str(tmp_path), config("x"), "val").name == "instances_val2017.json"
    for split, words in ((None, "holds train .*, val .*; give one"), ("test", "no split 'test'")):
        with pytest.raises(UsageError, match=words):
            open_boxes(str(tmp_path), config("x"), split)


def test_the_built_in_world_has_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path))
    found = open_boxes("scenes:4:val", config("x"))
    assert len(found) == 4 and found.notes[0].startswith("SYNTHETIC") and min(map(len, found.boxes)) >= 1
    assert found.name == "scenes:4:val" and all((found.in_file(k) == found.boxes[k]).all() for k in range(4))
    with pytest.raises(UsageError, match="single objects, which have no boxes"):
        open_boxes("scenes:objects:2", config("x"))
