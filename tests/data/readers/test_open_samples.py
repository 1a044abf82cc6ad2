"""open_samples: the right reader for a path, and one line for a path that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmapkd.core.errors import CmapkdError, DataError, DiskError, UsageError
from cmapkd.data.readers import READERS, builtin, open_samples
from pictures import coco, config, picture


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path / "worlds"))
    return tmp_path / "worlds"


def test_a_folder_with_a_known_captions_file_is_read_through_it(tmp_path: Path) -> None:
    coco(tmp_path, {"a.png": ["one"]})
    assert open_samples(str(tmp_path), config(tmp_path), None).captions == (("one",),)


def test_a_folder_of_images_alone_is_not_a_class(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "a.png")
    (tmp_path / "odd_captions.json").write_text("{}")
    with pytest.raises(DataError, match="odd_captions.json; give the captions file"):
        open_samples(str(tmp_path), config(tmp_path), None)


def test_a_missing_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "captions_train.json").write_text("{}")
    with pytest.raises(DataError, match="no such file or folder.*beside it: captions_train.json"):
        open_samples(str(tmp_path / "captions.json"), config("x", format="coco"), None)


@pytest.mark.parametrize("kind", sorted(READERS))
def test_no_reader_ends_in_a_traceback_on_a_folder_an_image_or_an_empty_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    places = [tmp_path / "folder", picture(tmp_path / "x.png"), tmp_path / "empty.txt"]
    places[0].mkdir()
    for place in places:
        with pytest.raises(CmapkdError) as caught:
            open_samples(str(place), config(place, format=kind), None)
        assert "\n" not in str(caught.value) and str(place) in str(caught.value)


def test_a_picture_is_no_captions_file(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    with pytest.raises(DataError, match="binary file, not captions"):
        open_samples(str(path), config(path), None)


def test_scenes_are_rendered_once_and_read_as_coco_captions(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_samples("scenes:6:val", config("x"), None)
    assert len(found) == 6 and found.n_captions == 30 and found.notes[0].startswith("SYNTHETIC")
    monkeypatch.setattr(builtin, "write_scenes", lambda *_: pytest.fail("it was rendered again"))
    assert open_samples("scenes:6:val", config("x"), None).fingerprint() == found.fingerprint()


def test_a_bare_world_is_train_and_the_val_of_a_config_is_another(world: Path) -> None:
    data = config("scenes:4", val="scenes:3")
    train, val = open_samples(data.train, data, None), open_samples(str(data.val), data, None)
    assert train.fingerprint() == open_samples("scenes:4:train", data, None).fingerprint()
    assert val.fingerprint() == open_samples("scenes:3:val", data, None).fingerprint()
    assert not {p.read_bytes() for p in train.paths} & {p.read_bytes() for p in val.paths}
    assert open_samples("scenes:4:7", data, None).fingerprint() != train.fingerprint()


def test_single_objects_are_labelled(world: Path) -> None:
    found = open_samples("scenes:objects:1:val", config("x"), None)
    assert found.labels is not None and found.classes is not None and len(found) == len(found.classes) == 64
    assert all(found.classes[label] == path.parent.name for label, path in zip(found.labels, found.paths, strict=True))


@pytest.mark.parametrize(
    "location", ["scenes:", "scenes:0", "scenes:-3", "scenes:4:foo", "scenes:4:val:1", "scenes:objects", "scenes:4.5"]
)
def test_a_wrong_world_says_how_one_is_written(world: Path, location: str) -> None:
    with pytest.raises(UsageError, match=r"is not scenes:N\[:WORLD\]"):
        open_samples(location, config("x"), None)
    assert not world.exists()


def test_a_world_that_cannot_be_written_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path / "file"))
    with pytest.raises(DiskError):
        open_samples("scenes:2", config("x"), None)


@pytest.mark.parametrize("kind", ["coco", "csv", "folder", "visual_genome"])
def test_a_split_of_data_that_has_only_one_is_refused_and_its_own_name_is_not(tmp_path, kind) -> None:
    for name in ("a.png", "train/ant/x.png", "train/bee/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / name)
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "an ant"}]}
    genome = [{"id": 1, "regions": [{"image_id": 1, "phrase": "an ant", "x": 0, "y": 0, "width": 4, "height": 4}]}]
    files = {"coco": ("captions_train2017.json", json.dumps(coco)), "csv": ("train.csv", "filepath,title\na.png,an ant\n"),
             "visual_genome": ("region_descriptions_train.json", json.dumps(genome))}  # fmt: skip
    if kind == "visual_genome":
        picture(tmp_path / "1.jpg")
    path = tmp_path / "train"
    if kind != "folder":
        path = tmp_path / files[kind][0]
        path.write_text(files[kind][1])
    for split in (None, "all", "train"):
        assert len(open_samples(str(path), config(str(path), format=kind), split)) > 0
    with pytest.raises(UsageError, match="holds one split, without a name, but split 'trian' is asked for"):
        open_samples(str(path), config(str(path), format=kind), "trian")
