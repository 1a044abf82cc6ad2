"""Comparisons: arms at equal terms, budgets, and tuning that never sees the reported split."""

import json

import pytest
from msgspec import structs

import world
from cmapkd.config.load import dump_config
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.experiments.arms import Arm, arm_config, method_arm, run_arms
from cmapkd.experiments.compare import compare
from cmapkd.experiments.plan import RunPlan
from cmapkd.experiments.tune import FACTORS, RATES, trials, tune
from cmapkd.methods import METHODS
from cmapkd.report.run_results import final_row


def test_a_methods_own_numbers_are_not_lent_to_another(root):
    config = world.config(root, weights={"fd": 3.0}, policy__name="random", schedule="design")
    own, other = (arm_config(config, method_arm(config, m), 5, 1.0, root / "x") for m in ("cmapkd", "kd"))
    assert own.weights == {"fd": 3.0} and own.policy.name == "random" and own.schedule == "design" and own.seed == 5
    assert other.weights == {} and other.policy.name == "uniform" and other.schedule is None and other.method == "kd"


def test_the_users_task_goes_with_every_student_that_stands_alone(root):
    config = world.config(root, weights={"task": 0.5, "fd": 3.0})
    weights = {m: arm_config(config, method_arm(config, m), 0, 1.0, root / "x").weights for m in ("kd", "promptkd")}
    assert weights == {"kd": {"task": 0.5}, "promptkd": {}}


def test_a_budget_scales_the_length_and_nothing_else(root):
    config = world.config(root)
    full, half = (arm_config(config, Arm("cmapkd"), 0, b, root / "x") for b in (1.0, 0.5))
    assert (full.train.steps, half.train.steps) == (8, 4)
    assert structs.replace(full, train=half.train) == half


def test_a_finished_run_of_other_settings_is_refused_and_kept(root):
    config = world.config(root, train__steps=2, eval__every=None, method="kd")
    compare(config, ["kd"], RunPlan(1), root / "once")
    row = final_row(root / "once" / "kd-0")
    longer = world.config(root, train__steps=3, eval__every=None, method="kd")
    with pytest.raises(IntegrityError, match=r"'train.steps' is now 3 but was 2; give another --out"):
        compare(longer, ["kd"], RunPlan(1), root / "once")
    compare(config, ["kd"], RunPlan(1), root / "once")
    assert final_row(root / "once" / "kd-0") == row


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gets_as_many_trials(root, method):
    config = world.config(root)
    found = trials(config, method_arm(config, method))
    assert len({arm.name for arm in found}) == len(FACTORS) == len(RATES)
    configs = [arm_config(config, arm, 0, 1.0, root / "x") for arm in found]
    assert len({dump_config(c) for c in configs}) == len(found), "the trials must differ"


def test_tuning_never_reads_the_reported_split(root, monkeypatch):
    config = world.config(root, train__steps=2, data__val="nowhere.json", eval__every=None)
    (arm,) = tune(config, [method_arm(config, "kd")], 1.0, root / "tuned")
    assert arm.name == "kd" and arm.about.startswith("strength")
    lines = [json.loads(line) for line in (root / "tuned" / "tune.jsonl").read_text().splitlines()]
    assert len(lines) == len(FACTORS) + 1 and lines[-1]["chosen"] == arm.about


def test_seconds_of_training_leave_validation_out(root):
    (run,) = run_arms(world.config(root, train__steps=2), [Arm("cmapkd")], [0], [1.0], root / "timed")
    assert run.samples == 16 and run.train_seconds is not None and run.train_seconds <= run.seconds


def test_a_comparison_without_anything_to_compare_by_is_refused_and_a_method_named_twice_runs_once(root, tmp_path):
    with pytest.raises(UsageError, match="data.val is not set"):
        compare(world.config(root, data__val=None), ["scratch"], RunPlan(1), tmp_path)
    table = compare(world.config(root, train__steps=1), ["scratch", "scratch"], RunPlan(1), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("scratch-*")] == ["scratch-0"]
    assert "| scratch | 1 |" in table.read_text()
