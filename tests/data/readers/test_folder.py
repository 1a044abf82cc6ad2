"""Image folders: labels, class names, and the layouts of ImageNet and Tiny ImageNet."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_samples
from pictures import config, picture


def test_a_folder_per_class_gives_labels_and_captions(tmp_path: Path) -> None:
    for name in ("hot_dog/1.png", "cat/2.jpg", "cat/1.JPEG", "cat/notes.txt"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    found = open_samples(str(tmp_path), config(tmp_path), None)
    assert found.classes == ("cat", "hot dog") and found.labels == (0, 0, 1)
    assert found.ids == ("cat/1.JPEG", "cat/2.jpg", "hot_dog/1.png") and found.captions[2] == ("a photo of a hot dog",)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    for wnid in ("n00000002", "n00000001"):
        picture(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG")
    for k in range(2):
        picture(tmp_path / "val" / "images" / f"val_{k}.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn00000002\t0\t0\t1\t1\nval_1.JPEG\tn00000001\t0\t0\t1\t1\n"
    )
    (tmp_path / "words.txt").write_text("n00000001\tfish, Pisces\nn00000002\tred fox\nn00000003\tother\n")
    (tmp_path / "wnids.txt").write_text("n00000002\nn00000001\n")
    return tmp_path


def test_tiny_imagenet_has_the_same_labels_in_train_and_val(tiny: Path) -> None:
    train, val = (open_samples(str(tiny), config(tiny), split) for split in ("train", "val"))
    assert train.classes == val.classes == ("fish", "red fox")
    assert train.labels == (0, 1) and val.labels == (1, 0) and val.captions[0] == ("a photo of a red fox",)
    assert open_samples(str(tiny / "val"), config(tiny), None).ids == val.ids


def test_a_root_of_splits_wants_a_split(tiny: Path) -> None:
    for split, words in ((None, "holds train, val; give one"), ("test", "no split 'test'")):
        with pytest.raises(UsageError, match=words):
            open_samples(str(tiny), config(tiny), split)


def test_labels_of_a_missing_file_leave_with_it(tiny: Path) -> None:
    (tiny / "val" / "images" / "val_0.JPEG").unlink()
    found = open_samples(str(tiny / "val"), config(tiny), None)
    assert found.labels == (0,) and "1 names without a file" in found.notes[0]


def test_a_class_that_the_list_lacks_is_named(tiny: Path) -> None:
    (tiny / "wnids.txt").write_text("n00000001\n")
    with pytest.raises(DataError, match="class n00000002 is not in"):
        open_samples(str(tiny / "val"), config(tiny), None)


def test_an_index_of_wnids_gives_one_class_a_row(tmp_path: Path) -> None:
    rows = ["index\twnid\tname_in_file\tfile", "1\tn2\tgoldfish\timages/n2.jpg", "0\tn1\ttench\timages/n1.jpg"]
    (tmp_path / "wnid_index.tsv").write_text("\n".join(rows) + "\n")
    for name in ("n1", "n2"):
        picture(tmp_path / "images" / f"{name}.jpg")
    found = open_samples(str(tmp_path), config(tmp_path), None)
    assert found.classes == ("tench", "goldfish") and found.labels == (0, 1) and found.paths[1].name == "n2.jpg"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "tabby\nbeagle\n"),
        ("c.json", '["tabby", "beagle"]'),
        ("c.tsv", "dog\tbeagle\ncat\ttabby\n"),
        ("c.json", '{"cat": "tabby", "dog": "beagle"}'),
    ],
)
def test_class_names_may_be_given(tmp_path: Path, name: str, text: str) -> None:
    picture(tmp_path / "d" / "cat" / "1.png"), picture(tmp_path / "d" / "dog" / "1.png")
    (tmp_path / name).write_text(text)
    data = config(tmp_path / "d", classes=tmp_path / name)
    assert open_samples(data.train, data, None).classes == ("tabby", "beagle")


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "cat" / "1.png"), picture(tmp_path / "d" / "dog" / "1.png")
    (tmp_path / "c.txt").write_text("only one\n")
    with pytest.raises(UsageError, match="1 names for 2 classes"):
        open_samples(str(tmp_path / "d"), config(tmp_path, classes=tmp_path / "c.txt"), None)


def test_images_without_class_folders_are_no_labelled_data(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    with pytest.raises(DataError, match="1 images but no class folders; give a captions file"):
        open_samples(str(tmp_path), config(tmp_path, format="folder"), None)
