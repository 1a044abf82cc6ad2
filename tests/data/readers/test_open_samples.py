"""open_samples: the right reader for a path, and one line for a wrong path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmapkd.config.load import load_config
from cmapkd.core.errors import CmapkdError, DataError, DiskError, UsageError
from cmapkd.data.readers import READERS, builtin, open_boxes, open_questions, open_samples
from data.written import instances, vqa
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
    with pytest.raises(UsageError, match="is split 'train' by its name, but split 'trian' is asked for"):
        open_samples(str(path), config(str(path), format=kind), "trian")


@pytest.mark.parametrize("kind", ["vqa", "instances", "listed"])
def test_questions_boxes_and_listed_images_have_the_split_of_their_name_only(tmp_path: Path, kind: str) -> None:
    read, named = {"vqa": open_questions, "instances": open_boxes, "listed": open_samples}[kind], tmp_path / "val"
    if kind == "listed":
        picture(named / "1.png")
        (named / "wnid_index.tsv").write_text("index\twnid\tname_in_file\tfile\n0\tn1\ttench\t1.png\n")
        bare = named.parent / "images"
    else:
        named = vqa(tmp_path) if kind == "vqa" else instances(tmp_path, {})
        bare = named.with_name("questions.json" if kind == "vqa" else "boxes.json")
    for split in (None, "all", "val", "dev"):
        assert len(read(str(named), config(str(named)), split)) > 0
    with pytest.raises(
        UsageError, match="is split 'val' by its name, but split 'train' is asked for.* or drop the split"
    ):
        read(str(named), config(str(named)), "train")
    named.rename(bare)
    with pytest.raises(UsageError, match="holds one split, without a name, but split 'val' is asked for"):
        read(str(bare), config(str(bare)), "val")


def test_a_world_has_the_split_of_its_name_only(world: Path) -> None:
    for location, split in (("scenes:4:val", "dev"), ("scenes:4:7", "7"), ("scenes:4", "all"), ("scenes:4", "val")):
        assert len(open_samples(location, config(location), split)) == 4
    dev, val = open_samples("scenes:4", config("x"), "dev"), open_samples("scenes:4:val", config("x"), None)
    assert dev.fingerprint() == val.fingerprint()
    for location, split, words in (
        ("scenes:4:val", "train", "is of the world 'val', but split 'train' is asked for"),
        ("scenes:4:7", "train", "is of the world '7', but split 'train' is asked for"),
        ("scenes:4", "trian", "has the splits train, val, test, but split 'trian' is asked for"),
    ):
        for read in (open_samples, open_questions, open_boxes):
            with pytest.raises(UsageError, match=words):
                read(location, config(location), split)


def test_a_recipes_splits_fit_files_that_are_named_by_split_and_can_be_dropped_for_others(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(tmp_path, {f"{split}.png": ["one"]}).rename(tmp_path / f"captions_flickr8k_{split}.json")
    places = {split: tmp_path / f"captions_flickr8k_{split}.json" for split in ("train", "val")}
    given = [f"data.{split}={place}" for split, place in places.items()]
    data = load_config(Path("flickr8k"), given).data
    assert open_samples(data.train, data, data.train_split).paths[0].name == "train.png"
    assert open_samples(str(data.val), data, data.val_split).paths[0].name == "val.png"
    plain = str(places["train"].rename(tmp_path / "mine.json"))
    data = load_config(Path("flickr8k"), [f"data.train={plain}"]).data
    with pytest.raises(UsageError, match="data.train_split=null, data.val_split=null over a recipe's"):
        open_samples(plain, data, data.train_split)
    data = load_config(Path("flickr8k"), [f"data.train={plain}", "data.train_split=null"]).data
    assert len(open_samples(plain, data, data.train_split)) == 1
