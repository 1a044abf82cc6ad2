"""A whole run: what its folder holds, which student it keeps as the best, and a task loss in it."""

from typing import get_args

import pytest

import world
from cmapkd.config.schema import EvalConfig, Metric, TowerConfig
from cmapkd.config.tree import read
from cmapkd.core.errors import UsageError
from cmapkd.tasks.validation import merged, open_validation
from cmapkd.towers.load import load_tower
from cmapkd.train.runs.distill import distill


def test_a_run_folder_holds_everything_and_its_config_runs_again(root):
    folder = distill(world.config(root, run=str(root / "whole")))
    for name in ("config.yaml", "metrics.jsonl", "checkpoints", "best", "student/open_clip_config.json"):
        assert (folder / name).exists(), name
    assert world.steps_of(folder) == list(range(1, 9)) and world.steps_of(folder, "val") == [4, 8]


def test_best_can_be_chosen_by_every_metric_that_a_validation_gives_and_by_no_other(root, tmp_path):
    more_is_better = set(get_args(Metric)) - {"head/acc1"}
    tasks = ["retrieval", "zeroshot", "hard_negatives"]
    config = world.config(root, data__val="scenes:64:val", eval__tasks=tasks, eval__zeroshot="scenes:objects:8:val")
    validation = open_validation(config.data, config.eval)
    tower = load_tower(TowerConfig(model=str(root / "student-init")))
    given = merged(validation.scores(tower))
    assert more_is_better == {name for name in given if "medr" not in name}
    for wrong in (
        {"metric": "mean_recal@1"},
        {"metric": "zeroshot/acc1", "every": 2},
        {"tasks": ["zeroshot"], "every": 2},
    ):
        with pytest.raises(UsageError, match="metric"):
            read(EvalConfig, wrong, "eval")


def test_the_best_student_so_far_is_an_open_clip_folder_that_scores_as_it_did(root, tmp_path):
    folder = distill(world.config(root, run=str(tmp_path / "r"), eval__every=1, train__steps=5))
    rows = world.rows(folder)
    best = max((row for row in rows if row["kind"] == "val"), key=lambda row: row["mean_recall@1"])
    config = world.config(root)
    score = open_validation(config.data, config.eval).scores(load_tower(TowerConfig(model=str(folder / "best"))))
    assert merged(score) == {name: best[name] for name in merged(score)}
    card = (folder / "best" / "README.md").read_text()
    assert f"kept: best mean_recall@1 {best['mean_recall@1']:.4f}, at step {best['step']}" in card
    assert "No licence was stated" in card


def test_the_task_loss_trains_on_labelled_folders_and_asks_for_labels(root, tmp_path):
    over = {"method": "scratch", "weights": {"task": 1.0}, "train__steps": 3, "eval__every": None}
    folder = distill(world.config(root, run=str(tmp_path / "a"), data__train="scenes:objects:1:train", **over))
    rows = world.rows(folder)
    assert rows[1]["loss/task"] > 0
    with pytest.raises(UsageError, match="needs labelled data, but .* has captions only"):
        distill(world.config(root, run=str(tmp_path / "b"), **over))
