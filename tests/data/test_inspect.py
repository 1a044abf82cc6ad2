"""`cmapkd data inspect` shows what is there and a config block that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.inspect import inspect, quoted
from cmapkd.data.readers import open_samples
from pictures import coco, picture


def pasted(report: str) -> DataConfig:
    return DataConfig.model_validate(yaml.safe_load(report[report.index("data:\n") :])["data"])


def test_counts_missing_files_and_repeated_captions_are_shown(tmp_path: Path) -> None:
    path = coco(tmp_path, {"a.png": ["one", "two"], "b.png": ["one"], "c.png": ["three"]})
    (tmp_path / "images" / "c.png").unlink()
    report = inspect(str(path))
    for line in (
        "format: coco",
        "images: 2",
        "captions: 3",
        "captions per image: min 1, mean 1.50, max 2",
        "duplicate captions: 1",
        "  0: one",
    ):
        assert line in report.splitlines()
    assert "1 names without a file" in report


def test_the_block_reads_a_table_with_foreign_columns(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.tsv").write_text("image\tcaption\na.png\ta dog\n")
    data = pasted(inspect(str(tmp_path / "t.tsv")))
    assert (data.image_key, data.text_key) == ("image", "caption")
    assert open_samples(data.train, data, data.train_split).captions == (("a dog",),)


def test_the_block_names_both_splits_of_a_flickr_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "Images" / name)
    (tmp_path / "Flickr8k.token.txt").write_text("".join(f"{n}.jpg#0\ta {n}\n" for n in "abc"))
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("c.jpg\n")
    report = inspect(str(tmp_path))
    assert "splits: train (2), val (1)" in report and "images: 2" in report
    data = pasted(report)
    assert data.val and open_samples(data.val, data, data.val_split).ids == ("c.jpg",)


def test_a_class_folder_is_shown_with_its_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "1.png")
    report = inspect(str(tmp_path))
    assert "format: folder" in report and "classes: 2 (cat, dog, …)" in report


def test_the_built_in_world_is_called_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path))
    report = inspect("scenes:3")
    assert "SYNTHETIC" in report and pasted(report).train == "scenes:3"


def test_a_path_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        inspect(str(tmp_path / "gone.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["a: b", "#x", "it's", "-x", "", "true.json", "plain/path.json", "a b", "[x]"])
def test_a_quoted_value_is_read_back_by_yaml(value: str) -> None:
    assert yaml.safe_load(f"k: {quoted(value)}") == {"k": value}
