"""ImageNet: wnid folders with a mapping somewhere above, and the flat validation folder with its ground truths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_samples
from cmapkd.data.readers.folders.class_names import class_names
from pictures import config, picture

FISH, FOX = "n01440764", "n02119789"
TRUTHS = {
    "LOC_val_solution.csv": f"ImageId,PredictionString\nILSVRC2012_val_00000002,{FISH} 1 2 3 4 \nILSVRC2012_val_00000001,{FOX} 1 2 3 4 {FOX} 5 6 7 8 \n",
    "imagenet_2012_validation_synset_labels.txt": f"{FOX}\n{FISH}\n",
    "val.txt": "ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n",
    "ILSVRC2012_validation_ground_truth.txt": "7\n3\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Kaggle's layout: ILSVRC/Data/CLS-LOC/{train,val}, the mapping at the top."""
    inside = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid in (FISH, FOX):
        picture(inside / "train" / wnid / f"{wnid}_1.JPEG")
    for k in (1, 2):
        picture(inside / "val" / f"ILSVRC2012_val_{k:08d}.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(f"{FISH} tench, Tinca tinca\n{FOX} kit fox, Vulpes macrotis\n")
    return tmp_path


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_every_ground_truth_gives_the_labels_of_train(root: Path, name: str) -> None:
    (root / name).write_text(TRUTHS[name])
    (root / "map_clsloc.txt").write_text(f"{FOX} 7 kit_fox\n{FISH} 3 tench\n")
    train, val = (open_samples(str(root), config(root), split) for split in ("train", "val"))
    assert train.classes == val.classes == ("tench", "kit fox") and train.labels == (0, 1)
    assert val.ids == ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG") and val.labels == (1, 0)
    assert val.captions[0] == ("a photo of a kit fox",)
    assert open_samples(str(root / "ILSVRC/Data/CLS-LOC/val"), config("x")).labels == (1, 0)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "2 validation images without classes; put one of LOC_val_solution.csv"),
        ({"val.txt": "ILSVRC2012_val_00000001.JPEG 1\n"}, "val.txt: has no class for ILSVRC2012_val_00000002.JPEG"),
        (
            {"val.txt": TRUTHS["val.txt"].replace(" 1\n", " 7\n")},
            "class 7 of ILSVRC2012_val_00000001.JPEG is none of the 2",
        ),
        ({"val.txt": "rubbish\n"}, "no row reads"),
        ({"ILSVRC2012_validation_ground_truth.txt": "7\n3\n"}, "not in the order of wnids.*map_clsloc.txt"),
        (
            {"ILSVRC2012_validation_ground_truth.txt": "7\n9\n", "map_clsloc.txt": f"{FOX} 7 kit_fox\n"},
            "map_clsloc.txt: has no number 9",
        ),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_one_line(root: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        open_samples(str(root), config(root), "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", f"{FISH}\ttench, Tinca\n{FOX}\tkit fox\n"),
        ("synset_words.txt", f"{FISH} tench, Tinca\n{FOX} kit fox, Vulpes\n"),
        ("map_clsloc.txt", f"{FOX} 2 kit_fox\n{FISH} 1 tench\n"),
        ("imagenet_class_index.json", json.dumps({"0": [FISH, "tench"], "1": [FOX, "kit_fox"]})),
        ("names.json", json.dumps({"0": "tench", "1": "kit fox"})),
    ],
)
def test_names_come_from_any_of_the_usual_lists(tmp_path: Path, name: str, text: str) -> None:
    for wnid in (FISH, FOX):
        picture(tmp_path / "train" / wnid / "1.JPEG")
    (tmp_path / name).write_text(text)
    known = {} if name != "names.json" else {"classes": tmp_path / name}
    assert open_samples(str(tmp_path / "train"), config("x", **known)).classes == ("tench", "kit fox")
    assert open_samples(str(tmp_path / "train"), config("x", classes=tmp_path / name)).classes == ("tench", "kit fox")


def test_names_that_two_classes_share_are_noted(tmp_path: Path) -> None:
    for wnid in (FISH, FOX):
        picture(tmp_path / wnid / "1.JPEG")
    (tmp_path / "words.txt").write_text(f"{FISH}\tcrane\n{FOX}\tcrane\n")
    assert "1 names stand for several classes (crane)" in open_samples(str(tmp_path), config("x")).notes[-1]


def test_a_list_for_other_classes_is_refused(tmp_path: Path) -> None:
    for wnid in (FISH, FOX):
        picture(tmp_path / "d" / wnid / "1.JPEG")
    for name, text, error in (
        ("c.tsv", "cat\ttabby\n", UsageError),
        ("c.json", '{"a": {"b": 1}}', DataError),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match="names none of the 2 classes|must be a list of names"):
            open_samples(str(tmp_path / "d"), config("x", classes=tmp_path / name))


def test_the_thousand_classes_have_open_clips_names_where_no_list_lies(tmp_path: Path) -> None:
    keys = (FISH, *(f"n{10**7 + k:08d}" for k in range(998)), "n15075141")
    names = class_names(tmp_path, keys, None)
    assert len(names) == 1000 and names[0] == "tench" and names[-1] == "toilet paper"
    assert class_names(tmp_path, keys[:3], None) == keys[:3]
