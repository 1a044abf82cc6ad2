"""`cmapkd data inspect` reports on a data set and prints a config block that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cmapkd.config.schema import DataConfig
from cmapkd.config.suite import SuiteConfig, read_suite
from cmapkd.config.tree import read
from cmapkd.core.errors import DataError
from cmapkd.data.inspect.blocks import quoted
from cmapkd.data.inspect.look import inspect
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from data.written import cut, instances, shard, vqa
from pictures import coco, picture


def pasted(report: str) -> DataConfig:
    block = report.split("to paste into a config:\n")[1].split("\n\n")[0]
    return read(DataConfig, yaml.safe_load(block)["data"], "data")


def pasted_suite(report: str) -> SuiteConfig:
    return read_suite(yaml.safe_load(report.split("MODEL …):\n")[1]), "suite")


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
        "duplicate images: 1 (same bytes), such as a.png and b.png",
        "missing files: 1",
        "splits: one, without a name",
        "  0: one",
    ):
        assert line in report.splitlines()
    assert "1 names without a file" in report
    assert (pasted(report).val, pasted(report).holdout) == ("holdout", 0.1)  # one split, so that a slice is kept
    suite = pasted_suite(report)
    assert suite.retrieval[0].data == str(path) and suite.captioning[0].val == "holdout" and not suite.zeroshot


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
    suite = pasted_suite(report)
    assert suite.retrieval[0].split == "val" and suite.captioning[0].val_split == "val"


def test_a_class_folder_is_shown_with_its_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "1.png")
    report = inspect(str(tmp_path))
    assert "format: folder" in report and "classes: 2 (cat, dog, …)" in report
    assert pasted_suite(report).zeroshot[0].data == str(tmp_path)


def test_the_built_in_world_is_called_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path))
    report = inspect("scenes:3")
    assert "SYNTHETIC" in report and pasted(report).train == "scenes:3"


def test_a_path_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        inspect(str(tmp_path / "gone.json"))
    assert "\n" not in str(caught.value)


def test_shards_are_shown_even_when_too_many_are_cut_off(tmp_path: Path) -> None:
    for k in range(2):
        shard(tmp_path / f"0000{k}.tar", [f"{k}{c}" for c in "abcd"])
    cut(tmp_path / "00001.tar", 0.1)
    for location in (str(tmp_path), str(tmp_path / "{00000..00001}.tar")):
        report = inspect(location)
        assert "format: webdataset" in report and "images: 4" in report and "  00000/0a: caption 0a" in report
        assert "duplicate images: 0 (same bytes)" in report and "1 shards missing or cut off" in report
        assert pasted(report).train == location


def test_boxes_are_counted_and_read_by_the_block(tmp_path: Path) -> None:
    path = instances(tmp_path, {}, {"category_id": 3, "iscrowd": 1})
    report = inspect(str(path))
    for line in (
        "format: instances",
        "boxes: 2 (1 crowds)",
        "boxes per image: min 0, mean 1.00, max 2",
        "duplicate boxes: 0 (same image, category and place)",
        "areas: small 2, medium 0, large 0",
        "categories: 2 (cat, dog, …), ids 3 to 90",
        "  1.png (80×60): dog 1, cat 1",
        "  2.png (20×10): no box",
    ):
        assert line in report.splitlines()
    assert "missing files: 0" in report and "fingerprint: " in report and "into a config" not in report
    (entry,) = pasted_suite(report).detection
    assert len(open_boxes(entry.train, DataConfig(train=entry.train))) == 2 and entry.val == "holdout"


def test_questions_are_counted_with_and_without_answers_or_images(tmp_path: Path) -> None:
    path = vqa(tmp_path)
    report = inspect(str(tmp_path / "v2_mscoco_val2014_annotations.json"))
    for line in ("questions: 2", "images: 2", "all answers alike: 0", "answer types: yes/no 2", "  10: Is it 1? → Yes"):
        assert line in report.splitlines()
    (entry,) = pasted_suite(report).vqa
    assert open_questions(entry.train, DataConfig(train=entry.train)).ids == (10, 20) and "missing files: 0" in report
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    (tmp_path / "val2014").rename(tmp_path / "elsewhere")
    report = inspect(str(path))
    assert "answers: none beside it" in report and "missing files: all 2 images; " in report
    assert "to paste" not in report  # nothing can be trained or scored without answers


def test_questions_far_from_their_images_get_a_block_that_asks_for_the_folder(tmp_path: Path) -> None:
    vqa(tmp_path / "a"), (tmp_path / "a" / "val2014").rename(tmp_path / "elsewhere")
    (entry,) = pasted_suite(inspect(str(tmp_path / "a"))).vqa
    assert str(entry.images) == "FOLDER-OF-THE-IMAGES"
    (entry,) = pasted_suite(inspect(str(tmp_path / "a"), tmp_path / "elsewhere")).vqa
    assert entry.images == tmp_path / "elsewhere"


def test_a_test_split_without_answers_is_not_what_is_scored(tmp_path: Path) -> None:
    asked = vqa(tmp_path).rename(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json")
    assert vqa(tmp_path).exists() and asked.exists()
    (entry,) = pasted_suite(inspect(str(tmp_path))).vqa
    assert (entry.val, entry.train_split) == ("holdout", "val")


def test_a_box_that_stands_twice_is_counted(tmp_path: Path) -> None:
    report = inspect(str(instances(tmp_path, {}, {"id": 2}, {"id": 3, "category_id": 3})))
    assert "duplicate boxes: 1 (same image, category and place)" in report


def test_instances_without_any_annotation_are_boxes_all_the_same(tmp_path: Path) -> None:
    assert "format: instances" in inspect(str(instances(tmp_path)))


def test_a_folder_of_coco_names_its_splits_and_what_else_is_there(tmp_path: Path) -> None:
    for split, name in (("train", "a.png"), ("val", "b.png")):
        path = coco(tmp_path / split, {name: ["one"]})
        (tmp_path / "annotations").mkdir(exist_ok=True)
        path.rename(tmp_path / "annotations" / f"captions_{split}2017.json")
        (tmp_path / split / "images").rename(tmp_path / f"{split}2017")
    instances(tmp_path, {}), vqa(tmp_path)
    report = inspect(str(tmp_path))
    assert "splits: train, val" in report and "images of val that train has too: 0 of 1" in report
    assert "also here, boxes: annotations/instances_val2017.json" in report
    data = pasted(report)
    assert data.val and open_samples(data.val, data, data.val_split).paths[0].name == "b.png"
    suite = pasted_suite(report)
    assert (suite.captioning[0].val, suite.detection[0].val, suite.vqa[0].val) == (str(tmp_path), "holdout", "holdout")
    assert len(open_boxes(suite.detection[0].train, DataConfig(train=""))) == 2


def test_a_folder_of_data_sets_names_them(tmp_path: Path) -> None:
    coco(tmp_path / "mine", {"a.png": ["one"]})
    with pytest.raises(DataError, match=r"data sets in it: mine \(coco\); give .* or one of its data sets"):
        inspect(str(tmp_path))


def test_a_text_that_is_no_data_is_one_line_with_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Notes on my project\n\nNothing here, with commas.\n")
    with pytest.raises(
        DataError, match=r"README.md: no table.* first line is '# Notes on my project'\. Give captions as COCO"
    ):
        inspect(str(tmp_path / "README.md"))


@pytest.mark.parametrize("value", ["a: b", "#x", "it's", "-x", "", "true.json", "plain/path.json", "a b", "[x]"])
def test_a_quoted_value_is_read_back_by_yaml(value: str) -> None:
    assert yaml.safe_load(f"k: {quoted(value)}") == {"k": value}
