"""One table of tasks and metrics: what config reads from the source is what the packages hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmapkd.config import names
from cmapkd.config.suite import HeadData, SuiteConfig, read_suite
from cmapkd.core.errors import UsageError
from cmapkd.data.scenes.negatives import KINDS
from cmapkd.evaluation.train_head import refuse_options
from cmapkd.tasks.table import LOSSES, TASKS

ROOT = Path(__file__).parents[2]
CAPABILITIES = ("evaluate", "probe", "score", "loss")


def test_the_names_in_the_source_are_those_of_the_table():
    assert names.tasks() == tuple(TASKS) and names.task_losses() == tuple(LOSSES)
    for capability in CAPABILITIES:
        having = tuple(name for name, task in TASKS.items() if getattr(task, capability) is not None)
        assert names.tasks(capability) == having
    for facts in names.task_names():
        metrics = TASKS[facts.name].metrics
        assert list(facts.metrics) == list(metrics) and facts.place == TASKS[facts.name].place
        worse = {name for name, metric in metrics.items() if not metric.more_is_better}
        assert {name for name, given in facts.metrics.items() if not given.get("more_is_better", True)} == worse


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_scored_somehow_has_a_main_metric_and_says_what_it_is(name):
    task = TASKS[name]
    assert task.about and (task.evaluate or task.probe)
    assert [metric.main for metric in task.metrics.values()].count(True) == 1
    assert all(metric.about for metric in task.metrics.values())
    assert bool(task.protocols) == (task.evaluate is not None)


def test_the_kinds_of_hard_negatives_are_all_in_the_table():
    assert list(TASKS["hard_negatives"].metrics) == ["accuracy", *(f"accuracy/{kind}" for kind in KINDS)]


def test_a_folder_with_a_task_is_all_that_a_new_task_needs(tmp_path, monkeypatch):
    (tmp_path / "tasks" / "counting").mkdir(parents=True)
    (tmp_path / "tasks" / "counting" / "task.py").write_text(
        'import torch\n\nMETRICS = {"error": Metric("mean error", more_is_better=False), "exact": Metric("share", main=True)}\n'
        'TASK = Task(name="counting", about="a", metrics=METRICS, evaluate=count, loss=LOSS, loss_name="count")\n'
    )
    monkeypatch.setattr(names, "PACKAGE", tmp_path)
    names.task_names.cache_clear()
    try:
        assert names.tasks() == names.tasks("evaluate") == ("counting",) and names.tasks("probe") == ()
        assert names.task_losses() == ("count",) and names.metrics() == {"counting/exact": "counting"}
        assert names.main_metric("counting") == "counting/exact"
    finally:
        names.task_names.cache_clear()


def test_a_suite_has_a_key_of_every_task_with_the_data_that_it_takes():
    assert SuiteConfig.__struct_fields__ == tuple(TASKS)
    suite = read_suite({"vqa": {"train": "x", "val": "y"}, "zeroshot": {"data": "z"}}, "suite")
    assert suite.vqa[0].train == "x" and suite.zeroshot[0].data == "z"
    with pytest.raises(UsageError, match="vqa.0.train"):
        read_suite({"vqa": {"data": "x"}}, "suite")


def test_an_option_of_another_tasks_head_is_refused():
    refuse_options("vqa", HeadData(train="x", val="y", head="fusion"))
    with pytest.raises(UsageError, match="detection: head is a choice of vqa; drop it"):
        refuse_options("detection", HeadData(train="x", val="y", head="fusion"))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["distill", "--config", "scenes", "task.name=vqq"], "did you mean 'vqa'?"),
        (["distill", "--config", "scenes", "eval.metric=mean_recal@1"], "did you mean 'mean_recall@1'?"),
        (["distill", "--config", "scenes", "eval.metric=image_retrieval_medr"], "did you mean 'image_retrieval_recall"),
        (["distill", "--config", "scenes", "eval.tasks=[retrival]"], "did you mean 'retrieval'?"),
        (["eval", "m", "--data", "scenes:8", "--tasks", "zero_shot"], "did you mean 'zeroshot'?"),
        (["train-head", "vqaa", "m", "--train", "a", "--val", "b"], "vqa"),
        (["score", "captoning", "r.json", "--data", "d"], "captioning"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_right_one_before_torch_is_imported(words, hint):
    code = (
        f"import sys; from cmapkd.cli.main import main; code = main({words!r})\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and hint in done.stderr
