"""Karpathy's files: splits, restval, odd sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_samples
from pictures import config, picture


def dataset(folder: Path, splits: list[str], **extra: str) -> Path:
    images = []
    for k, split in enumerate(splits):
        name = f"{k}.png"
        picture(folder / extra.get("filepath", "images") / name)
        images.append(
            {"filename": name, "split": split, "sentences": [{"raw": f"caption\n{k}"}, {"raw": None}], **extra}
        )
    path = folder / "dataset_x.json"
    path.write_text(json.dumps({"images": images}))
    return path


def test_train_is_train_and_restval(tmp_path: Path) -> None:
    path = dataset(tmp_path, ["train", "val", "restval", "test", "train"])
    for split, ids in (
        ("train", ["0.png", "2.png", "4.png"]),
        ("val", ["1.png"]),
        ("dev", ["1.png"]),
        ("test", ["3.png"]),
    ):
        assert list(open_samples(str(path), config(path), split).ids) == ids
    assert len(open_samples(str(path), config(path), "all")) == 5


def test_newlines_in_a_sentence_become_spaces_and_empty_ones_are_counted(tmp_path: Path) -> None:
    path = dataset(tmp_path, ["train"])
    found = open_samples(str(path), config(path), "train")
    assert found.captions == (("caption 0",),) and found.notes == ("1 empty captions dropped",)


def test_a_folder_beside_the_name_is_used(tmp_path: Path) -> None:
    path = dataset(tmp_path, ["train"], filepath="val2014")
    found = open_samples(str(path), config(path), None)
    assert found.ids == ("0.png",) and found.paths[0] == tmp_path / "val2014" / "0.png"


@pytest.mark.parametrize(
    ("split", "words"),
    [(None, r"holds the splits train \(1\), val \(2\); name one"), ("foo", "no split 'foo'; it holds train")],
)
def test_a_split_must_be_named_and_known(tmp_path: Path, split: str | None, words: str) -> None:
    path = dataset(tmp_path, ["train", "val", "val"])
    with pytest.raises(UsageError, match=words):
        open_samples(str(path), config(path), split)


def test_a_name_listed_twice_is_refused(tmp_path: Path) -> None:
    path = dataset(tmp_path, ["train"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"images": content["images"] * 2}))
    with pytest.raises(DataError, match="'0.png' is listed twice"):
        open_samples(str(path), config(path), "train")


def test_restval_can_be_had_alone(tmp_path: Path) -> None:
    path = dataset(tmp_path, ["train", "restval"])
    assert open_samples(str(path), config(path), "restval").ids == ("1.png",)
