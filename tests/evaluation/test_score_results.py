"""`cmapkd score`: what a perfect result file earns, and one clear line for every file that cannot be scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import world
from cmapkd.cli.main import main
from cmapkd.config.schema import DataConfig
from cmapkd.data.holdout import hold_out
from cmapkd.data.readers import open_boxes
from cmapkd.data.readers.builtin import scenes_folder
from data.written import instances, vqa
from pictures import coco


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A folder with captions of two images, two boxes and two questions."""
    coco(tmp_path, {"1.png": ["a red dog", "a dog"], "2.png": ["two cats"]}).rename(tmp_path / "captions_val2017.json")
    instances(tmp_path, {})
    vqa(tmp_path)
    return tmp_path


GOOD = {
    "vqa": [{"question_id": 10, "answer": "yes"}, {"question_id": 20, "answer": "yes"}],
    "captioning": [{"image_id": 0, "caption": "a red dog"}, {"image_id": 1, "caption": "two cats"}],
}
DATA = {"vqa": "v2_OpenEnded_mscoco_val2014_questions.json", "captioning": "captions_val2017.json"}


def scored(task: str, rows: object, truth: Path, *words: str) -> int:
    path = truth / "results.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    if task == "detection":
        where = next((truth / "annotations").glob("instances*.json"))
    else:
        where = truth / DATA[task]
    return main(["score", task, str(path), "--data", str(where), *words])


def boxes(truth: Path) -> list[dict]:
    content = json.loads(next((truth / "annotations").glob("instances*.json")).read_text())
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
    ]


def test_a_perfect_file_earns_everything(truth, capsys):
    out = truth / "score.json"
    assert scored("detection", boxes(truth), truth, "--out", str(out)) == 0
    assert json.loads(out.read_text())["metrics"]["mAP"] == pytest.approx(1)
    assert scored("captioning", GOOD["captioning"], truth) == 0
    assert scored("vqa", GOOD["vqa"], truth) == 0
    line = capsys.readouterr().out
    assert "detection (result file results.json)" in line and "bleu_1 100.00 %" in line and "2 questions" in line


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        ("vqa", [*GOOD["vqa"], GOOD["vqa"][0]], "1 question (10) answered more than once"),
        ("vqa", [*GOOD["vqa"], {"question_id": 7, "answer": "x"}], "1 question (7) not among the questions"),
        ("vqa", GOOD["vqa"][1:], "1 question (10) not answered"),
        ("vqa", [{**GOOD["vqa"][0], "answer": None}], "entry 0: question_id is an integer, answer a string"),
        ("vqa", {"answers": []}, "a result file is a list"),
        ("vqa", "# not JSON", "is not JSON, it begins with '# not JSON'"),
        ("captioning", [*GOOD["captioning"], GOOD["captioning"][0]], "1 ids occur more than once (0)"),
        ("captioning", [*GOOD["captioning"], {"image_id": 9, "caption": "x"}], "1 ids are not images of the split (9)"),
        ("captioning", GOOD["captioning"][1:], "1 ids have no caption (0)"),
        ("captioning", [{"image_id": 0, "caption": None}], "entry 0 is not {image_id, caption}, an id and a text"),
        ("captioning", [{"image_id": [0], "caption": "x"}], "entry 0 is not {image_id, caption}, an id and a text"),
        ("captioning", {"captions": []}, "a result file is a list of {image_id, caption}, this is a dict"),
        ("detection", ["x"], "a result file is a list of {image_id, category_id, bbox, score}"),
    ],
)
def test_a_file_that_cannot_be_scored_is_one_line_that_names_it(task, rows, words, truth, capsys):
    assert scored(task, rows, truth) == 3
    err = capsys.readouterr().err
    assert words in err and "results.json" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 99}, "image_id 99 is not among the"),
        ({"category_id": 12}, "category_id 12 is not among the"),
        ({"image_id": [1]}, "an id is a number"),
        ({"score": float("nan")}, "its score is not finite"),
        ({"bbox": [1, 2, 3]}, "entry 1 bbox [1, 2, 3], score 0.9: a bbox is four numbers"),
        ({"bbox": "x"}, "entry 1 bbox 'x'"),
        ({"score": "high"}, "score 'high': a bbox is four numbers (left, top, width, height) and a score is one"),
    ],
)
def test_a_box_that_cannot_be_scored_is_one_line_with_its_place(change, words, truth, capsys):
    good = boxes(truth)
    assert scored("detection", [*good, {**good[0], **change}], truth) == 3
    err = capsys.readouterr().err
    assert words in err and "results.json" in err and err.count("\n") == 1


@pytest.mark.parametrize("task", ["vqa", "detection", "captioning"])
def test_a_result_file_that_is_not_there_is_said_with_what_is(task, truth, capsys):
    where = next((truth / "annotations").glob("instances*.json")) if task == "detection" else truth / DATA[task]
    assert main(["score", task, str(truth / "gone.json"), "--data", str(where)]) == 3
    assert "gone.json: no such file; check the path; beside it: " in capsys.readouterr().err
    assert main(["score", task, str(truth), "--data", str(where)]) == 3
    assert "is a folder, but a file is needed" in capsys.readouterr().err


def test_boxes_and_answers_are_scored_without_the_images(truth, capsys):
    rows, where = boxes(truth), str(next((truth / "annotations").glob("instances*.json")))
    assert scored("detection", rows, truth) == 0
    assert open_boxes(where, DataConfig(train=where)).fingerprint()[:12] in capsys.readouterr().out
    (truth / "val2017" / "2.png").unlink()
    assert scored("detection", rows, truth) == 0 and "· 2 images ·" in capsys.readouterr().out
    shutil.rmtree(truth / "val2017"), shutil.rmtree(truth / "val2014")
    assert scored("detection", rows, truth) == 0 and "mAP 100.00 %" in capsys.readouterr().out
    assert scored("vqa", GOOD["vqa"], truth) == 0


def test_a_truth_without_boxes_is_not_scored(truth, capsys):
    rows = boxes(truth)
    instances(truth)
    assert scored("detection", rows, truth) == 3 and "holds no box" in capsys.readouterr().err


def test_a_caption_of_an_image_that_was_dropped_comes_with_the_reason(truth, capsys):
    path = truth / DATA["captioning"]
    content = json.loads(path.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 0]
    path.write_text(json.dumps(content))
    assert scored("captioning", GOOD["captioning"], truth) == 3
    assert (
        "not images of the split (0); give one caption for each of the 1 images; 1 images without a caption dropped"
        in (capsys.readouterr().err)
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Captions, questions and boxes of 16 scenes, of which one has no file, and a teacher."""
    root = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAPKD_DATA", str(root / "data"))
        folder, _ = scenes_folder("scenes:16:train", DataConfig(train="scenes:16:train"), None)
    next(folder.rglob("*.png")).unlink()
    world.teacher_folder(root / "teacher", seed=0, width=32)
    return folder.rename(root / "files").parent


FILES = {"vqa": "vqa_questions.json", "detection": "instances.json", "captioning": "captions.json"}


@pytest.mark.parametrize("task", ["vqa", "detection", "captioning"])
def test_the_held_out_share_that_a_head_was_scored_on_is_scored_again_to_the_same_figures(
    scenes, task, capsys, monkeypatch
):
    monkeypatch.setattr("cmapkd.tasks.captioning.java.shutil.which", lambda name: None)  # Java takes its time
    where, out = str(scenes / "files" / FILES[task]), scenes / task
    words = ["--train", where, "--val", "holdout", "--holdout", "0.4", "--epochs", "3", "--batch", "4"]
    small = ["--width", "64"] if task == "detection" else []
    assert main(["train-head", task, str(scenes / "teacher"), *words, *small, "--out", str(out)]) == 0
    result, again = str(out / "results.json"), out / "again.json"
    capsys.readouterr()
    assert main(["score", task, result, "--data", where, "--holdout", "0.4", "--out", str(again)]) == 0
    first, second = (json.loads((out / name).read_text()) for name in ("scores.json", "again.json"))
    known = {name: value for name, value in first["metrics"].items() if value is not None}
    known.pop("ceiling", None)  # of the head's vocabulary, not of the answers
    assert known and known == second["metrics"]
    line = capsys.readouterr().out
    assert (
        f"· {FILES[task]}, held-out 40% of the images · 6 images · " in line
        and "of the images · 6 images · " in first["said"]
    )
    for rest in ([], ["--holdout", "0.2"]):  # all of it, or another share
        assert main(["score", task, result, "--data", where, *rest]) == (0 if task == "detection" and not rest else 3)


def test_a_share_needs_no_images_either(truth, capsys):
    where = instances(truth, {}, {"id": 2, "image_id": 2})
    kept = hold_out(open_boxes(str(where), DataConfig(train=str(where)), pictures=False), 0.5)[1].image_ids
    shutil.rmtree(truth / "val2017"), shutil.rmtree(truth / "val2014")
    rows = [row for row in boxes(truth) if row["image_id"] in kept]
    assert scored("detection", rows, truth, "--holdout", "0.5") == 0
    assert "held-out 50% of the images · 1 images" in (out := capsys.readouterr().out) and "mAP 100.00 %" in out
    codes = [scored("vqa", [row], truth, "--holdout", "0.5") for row in GOOD["vqa"]]
    assert sorted(codes) == [0, 3] and "not among the questions" in capsys.readouterr().err


def test_a_share_that_cannot_be_is_one_line(truth, capsys):
    assert scored("vqa", GOOD["vqa"], truth, "--holdout", "1.5") == 2
    assert capsys.readouterr().err == "error: score: holdout is 1.5; must be less than 1\n"


def test_a_judge_is_for_captions_alone(truth, capsys):
    assert scored("vqa", GOOD["vqa"], truth, "--judge", "x") == 2 and "only captions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [("captions_val2017.json", "holds captions, no questions"), ("README.md", "is not JSON, it begins with '# Notes'")],
)
def test_questions_that_are_none_are_said(given, words, truth, capsys):
    (truth / "README.md").write_text("# Notes\nof mine\n")
    (truth / "r.json").write_text("[]")
    assert main(["score", "vqa", str(truth / "r.json"), "--data", str(truth / given)]) == 3
    assert words in capsys.readouterr().err
