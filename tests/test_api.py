"""The Python entry: plain values, whole sections, and the same one-line errors as the command line."""

import open_clip
import pytest

import world
from cmapkd import distill
from cmapkd.config.load import load_config
from cmapkd.core.errors import UsageError

TRAIN = {"precision": "fp32", "threads": 1}


def test_a_run_from_keywords_writes_its_cache_trains_and_loads_in_open_clip(root, tmp_path):
    folder = distill(
        teacher={"model": f"local-dir:{root / 'teacher'}"},
        student=str(root / "student-init"),
        data={"train": "scenes:48:train", "views": 2},
        val="scenes:16:val",
        run=tmp_path / "r",
        steps=2,
        batch=8,
        cache={"path": str(tmp_path / "cache"), "rank": 32, "calibration_samples": 48, "words": 12},
        train=TRAIN,
    )
    assert folder == tmp_path / "r" and (tmp_path / "cache" / "teacher.json").is_file()
    config = load_config(folder / "config.yaml")
    assert (config.train.steps, config.train.batch, config.train.threads) == (2, 8, 1)
    assert (config.data.views, config.data.val, config.cache.rank) == (2, "scenes:16:val", 32)
    assert world.rows(folder)[-1]["kind"] == "final"
    open_clip.create_model_and_transforms(f"local-dir:{folder / 'student'}")


def test_scratch_needs_no_teacher_and_epochs_stand_for_steps(root, tmp_path):
    folder = distill(None, str(root / "student-init"), "scenes:48:train", run=tmp_path / "r", method="scratch", batch=16,
                     train={**TRAIN, "epochs": 1})  # fmt: skip
    rows = world.rows(folder)
    assert rows[0]["steps"] == 3


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"metod": "kd"}, r"unknown key 'metod' \(did you mean 'method'\?\)"),
        ({"train": {"bach": 3}}, r"unknown key 'train.bach' \(did you mean 'train.batch'\?\)"),
        ({"train": 5}, "train is 5; must be a section"),
        ({"steps": "many"}, "train.steps is 'many'"),
        ({"data": ["a.json"]}, "data.train is"),
        ({"steps": 3, "train": {"epochs": 1}}, "exactly one of steps and epochs"),
        ({"teacher": None}, "method 'cmapkd' needs a teacher"),
    ],
)
def test_wrong_arguments_are_one_line_each_and_leave_no_folder(root, tmp_path, over, words):
    arguments = {"teacher": str(root / "teacher"), "student": str(root / "student-init"), "data": "scenes:48:train"}
    with pytest.raises(UsageError, match=words) as caught:
        distill(**{**arguments, "run": tmp_path / "r", **over})
    assert "\n" not in str(caught.value) and not (tmp_path / "r").exists()
