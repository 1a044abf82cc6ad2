"""COCO captions: names by id, captions by image, and errors for files of every other kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmapkd.core.errors import CmapkdError, DataError
from cmapkd.data.readers import open_samples
from cmapkd.data.readers.coco import read_coco
from pictures import coco, config, picture


def test_captions_are_found_by_image_id_in_file_order(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": ["one", "two"], "b.png": ["three"], "c.png": []})
    found = read_coco(path, config(path))
    assert found.ids == ("0", "1") and found.captions == (("one", "two"), ("three",))
    assert [p.name for p in found.paths] == ["a.png", "b.png"] and found.notes == (
        "1 images without a caption dropped (first: '2')",
    )


@pytest.mark.parametrize("images", ["images", "Images", "train2017", "../val2014", "."])
def test_images_are_found_in_the_usual_places(tmp_path: Path, images: str) -> None:
    (tmp_path / "annotations").mkdir()
    path = coco(tmp_path / "annotations", {"a.png": ["one"]}, images)
    assert read_coco(path, config(path)).paths[0].samefile(tmp_path / "annotations" / images / "a.png")


def test_a_2014_name_is_found_among_2017_files_of_both_splits(tmp_path: Path) -> None:
    path = coco(
        tmp_path, {"COCO_val2014_000000000001.png": ["one"], "COCO_val2014_000000000002.png": ["two"]}, "unused"
    )
    for place, number in (("train2017", 1), ("val2017", 2)):
        picture(tmp_path / place / f"{number:012d}.png")
    assert [p.parent.name for p in read_coco(path, config(path)).paths] == ["train2017", "val2017"]


def test_given_images_win_and_must_hold_the_names(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": ["one"]})
    picture(tmp_path / "elsewhere" / "a.png")
    assert read_coco(path, config(path, images=tmp_path / "elsewhere")).paths == (tmp_path / "elsewhere" / "a.png",)
    (tmp_path / "empty").mkdir()
    for wrong, words in (
        ("empty", r"none of its images, such as 'a.png'.*set data.images"),
        ("gone", "data.images is not a folder"),
    ):
        with pytest.raises(DataError, match=words):
            read_coco(path, config(path, images=tmp_path / wrong))


def test_a_repeated_image_id_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": ["one"]})
    content = json.loads(path.read_text())
    content["images"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="image id 0 occurs twice"):
        read_coco(path, config(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": []}]},
            "holds instances, not captions",
        ),
        ({"questions": []}, "holds VQA questions, not captions"),
        ({"foo": 1, "bar": 2}, "it holds foo, bar"),
        ([1, 2], "it holds a list"),
        ({"images": [3], "annotations": []}, "`images` must be a list of objects"),
        ({"images": [{"id": 1}], "annotations": []}, "no `file_name`; it has: id"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "text": "x"}]},
            "no `caption`; it has: image_id, text",
        ),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_it_holds(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        open_samples(str(path), config(path), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"images": [', "broken JSON at line 1"), ("[" * 100_000, "nested too deeply"), ("\xe9", "not UTF-8")],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words) as caught:
        open_samples(str(path), config(path), None)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(st.one_of(st.none(), st.text(st.characters(), max_size=40)), min_size=1, max_size=5))
def test_odd_captions_are_kept_as_text_or_dropped(tmp_path: Path, captions: list[str | None]) -> None:
    path = coco(tmp_path, {"a.png": captions, "b.png": ["sure"]})  # type: ignore[dict-item]
    for caption in read_coco(path, config(path)).flat_captions():
        assert caption.encode() and caption == " ".join(caption.split())


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "images",
                    "annotations",
                    "id",
                    "file_name",
                    "image_id",
                    "caption",
                    "sentences",
                    "filename",
                    "split",
                    "raw",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=json_values)
def test_no_json_whatever_it_holds_ends_in_a_traceback(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CmapkdError) as caught:
        open_samples(str(path), config(path), "train")
    assert "\n" not in str(caught.value)


def test_captions_of_other_images_are_refused_with_both_ids(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": ["one"]})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": [{"image_id": "0", "caption": "one"}]}))
    with pytest.raises(
        DataError, match="none of its 1 captions is of a listed image .first image_id '0', first image id 0"
    ):
        read_coco(path, config(path))


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    for name, year in (("train", 2014), ("train", 2017), ("val", 2014)):
        coco(tmp_path, {f"{name}{year}.png": [f"{name} {year}"]}).rename(tmp_path / f"captions_{name}{year}.json")
    for split, caption in (("val", "val 2014"), ("dev", "val 2014"), ("train2017", "train 2017")):
        assert open_samples(str(tmp_path), config(tmp_path), split).captions == ((caption,),)
    with pytest.raises(CmapkdError, match="holds train2014 .*train2017 .*val"):
        open_samples(str(tmp_path), config(tmp_path), None)


@pytest.mark.parametrize(("part", "key"), [("images", "id"), ("annotations", "image_id")])
def test_an_id_that_is_a_list_is_refused(tmp_path: Path, part: str, key: str) -> None:
    path = coco(tmp_path, {"a.png": ["one"]})
    content = json.loads(path.read_text())
    content[part][0][key] = [1]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"{part}: {key} is \[1\], but must be a number or text"):
        read_coco(path, config(path))
