"""Visual Genome: phrases of an image, regions as samples, images that are COCO's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmapkd.core.errors import DataError
from cmapkd.data.images import decode
from cmapkd.data.readers import open_samples
from pictures import config, picture

REGION = {"region_id": 1, "x": 10, "y": 0, "width": 20, "height": 20, "image_id": 7, "phrase": "a red\nwall"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    picture(tmp_path / "VG_100K" / "7.jpg", size=(30, 20)), picture(tmp_path / "VG_100K_2" / "8.jpg", size=(30, 20))
    regions = [REGION, REGION | {"region_id": 2, "phrase": "a door", "width": 0}]
    images = [{"id": 7, "regions": regions}, {"id": 8, "regions": [REGION | {"region_id": 3, "phrase": ""}]}]
    (tmp_path / "image_data.json").write_text(
        json.dumps([{"image_id": k, "width": 60, "height": 40, "coco_id": 9 if k == 7 else None} for k in (7, 8)])
    )
    (tmp_path / "region_descriptions.json").write_text(json.dumps(images))
    return tmp_path / "region_descriptions.json"


def test_phrases_are_captions_and_shared_images_are_noted(path: Path) -> None:
    for place in (path, path.parent):
        found = open_samples(str(place), config(place))
        assert found.ids == ("7",) and found.captions == (("a red wall", "a door"),)
        assert found.notes[0].startswith("1 of 2 images are COCO's too")
        assert "1 images without a caption dropped (first: '8')" in found.notes


def test_regions_are_cut_out_at_the_scale_of_the_file(path: Path) -> None:
    found = open_samples(str(path), config(path, regions=True))
    assert found.ids == ("7/1",) and found.captions == (("a red wall",),)
    assert decode(found.paths[0]).size == (10, 10)  # 20×20 of an original twice as large
    assert "1 regions without width or height dropped" in found.notes


def test_without_image_data_boxes_are_taken_as_they_are(path: Path) -> None:
    (path.parent / "image_data.json").unlink()
    found = open_samples(str(path), config(path, regions=True))
    assert decode(found.paths[0]).size == (20, 20) and "no image_data.json" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"regions": [{"phrase": "x"}]}], "neither `id` nor `image_id`"),
        ([{"id": 7, "regions": [REGION]}] * 2, "image 7 occurs twice"),
        ([{"id": 7, "regions": [{"phrase": "x", "x": 1}]}], "has no `y`"),
        ({"a": 1}, "must be a list of images"),
        ([{"id": 7, "regions": [REGION | {"x": "wide"}]}], "x is 'wide'"),
        ([{"id": 70, "regions": [REGION]}], "none of its images, such as '70.jpg'.*data.images"),
    ],
)
def test_wrong_files_end_in_one_line(path: Path, content: object, words: str) -> None:
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=words) as caught:
        open_samples(str(path), config(path, regions=True, format="visual_genome"))
    assert "\n" not in str(caught.value)
