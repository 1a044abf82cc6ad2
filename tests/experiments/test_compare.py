"""Comparisons: arms at equal terms, budgets, tuning that never sees the reported split, tables that bold with reason."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from msgspec import structs

import world
from cmapkd.config.load import dump_config
from cmapkd.core.errors import DataError, IntegrityError, PeerLostError, UsageError
from cmapkd.experiments.ablate import ablate
from cmapkd.experiments.ablation_groups import DESIGN, GROUPS, group_arms
from cmapkd.experiments.arms import Arm, arm_config, method_arm, run_arms
from cmapkd.experiments.compare import compare
from cmapkd.experiments.parallel import run_parallel
from cmapkd.experiments.plan import RunPlan
from cmapkd.experiments.tune import FACTORS, RATES, trials, tune
from cmapkd.methods import METHODS, resolve
from cmapkd.policy import POLICIES
from cmapkd.report.comparison import Comparison, arm_rows, significant
from cmapkd.report.comparison_page import write_page
from cmapkd.report.comparison_tables import lead_grid, write_tables
from cmapkd.report.curves import curves
from cmapkd.report.run_results import RunResult, final_row
from cmapkd.report.stats import differ, interval, paired
from cmapkd.train.schedule import resolve_schedule


def result(arm, seed, value, budget=1.0, seconds=5.0):
    return RunResult(
        arm, seed, budget, round(100 * budget), round(12800 * budget), 9.0, seconds, {"mean_recall@1": value}
    )


def test_the_interval_is_students_t():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and abs(half - 4.303 / 3**0.5) < 1e-3
    assert paired([2.0, 3.0], [1.0, 2.0]) == (1.0, 0.0)


def test_a_difference_counts_only_when_its_paired_interval_excludes_zero():
    assert differ([1.0, 2.0, 3.0], [0.0, 1.1, 2.0])
    assert not differ([1.0, 2.0, 3.0], [0.0, 3.0, 2.0])
    assert not differ([1.0], [0.0])


def test_only_a_lead_over_every_other_arm_is_bold():
    clear = [result("a", s, 0.5 + s / 100) for s in range(3)] + [result("b", s, 0.4 + s / 100) for s in range(3)]
    assert significant(arm_rows(clear), "mean_recall@1") == {"a"}
    third = [result("c", s, 0.5 + (s - 1) / 50) for s in range(3)]
    assert significant(arm_rows(clear + third), "mean_recall@1") == set()
    assert significant(arm_rows([result("a", 0, 0.9), result("b", 0, 0.1)]), "mean_recall@1") == set()


def test_tables_are_written_in_four_forms(tmp_path):
    runs = [
        result(arm, s, v + s / 100, b)
        for arm, v in (("kd", 0.2), ("our_own", 0.4))
        for s in range(3)
        for b in (0.5, 1.0)
    ]
    text = write_tables(Comparison(runs, {"mean_recall@1": 0.5}, "kd"), tmp_path)
    assert "50 steps" in text and "**41.0 ± 2.5**" in text and "+20.0 ± 0.0" in text and "82.0" in text
    assert r"our\_own" in (tmp_path / "table.tex").read_text() and r"\toprule" in (tmp_path / "table.tex").read_text()
    assert "**" not in (tmp_path / "table.csv").read_text()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + len(runs) and lines[0]["arm"] == "teacher"


def test_leads_pair_by_seed_and_are_bold_only_where_the_interval_excludes_zero():
    ours = [result("cmapkd", s, v) for s, v in enumerate((0.30, 0.32, 0.34))]
    near = [result("near", s, v) for s, v in enumerate((0.29, 0.33, 0.33))]
    far = [result("far", s, v) for s, v in enumerate((0.20, 0.221, 0.239))]
    once = [result("once", 0, 0.1)]
    header, body = lead_grid(arm_rows(ours + near + far + once), "cmapkd")
    assert header == ["cmapkd minus", "mean R@1"]
    assert body == [["near", "+0.3 ± 2.9"], ["far", "**+10.0 ± 0.2**"]], "an arm of other seeds does not pair"
    assert lead_grid(arm_rows(near), "cmapkd") == ([], [])


def test_a_comparison_becomes_one_offline_page(root):
    runs = [
        result(arm, s, v + s / 50, b, 3.0)
        for arm, v in (("kd", 0.2), ("cmapkd", 0.3))
        for s in range(2)
        for b in (0.5, 1)
    ]
    config = world.config(root)
    found = Comparison(runs, {"mean_recall@1": 0.5}, None, "cmapkd", ["a <note>"])
    path = write_page(found, root, "a student", config.data, dump_config(config))
    text = path.read_text()
    assert "50 steps" in text and "100 steps" in text and text.count("<svg") == 2 and "cmapkd minus" in text
    assert (
        "a &lt;note&gt;" in text
        and "Synthetic data" in text
        and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    )


def test_curves_follow_samples_and_training_seconds():
    runs = [result("kd", s, 0.2 * b, b, 10 * b) for s in range(2) for b in (1.0, 0.5)]
    by_samples, by_seconds = curves(runs)
    assert by_samples.series == {"kd": ([6400, 12800], [10.0, 20.0])}
    assert by_seconds.series == {"kd": ([5.0, 10.0], [10.0, 20.0])}


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


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "all"])
def test_every_arm_of_every_ablation_is_a_valid_config(root, group):
    config = world.config(root)
    for arm in group_arms(group, config.cache.path):
        changed = arm_config(config, arm, 0, 1.0, root / "x")
        method = resolve(changed.method, changed.weights, changed.share)
        assert resolve_schedule(changed.schedule, method) and changed.policy.name in POLICIES


def test_sparse_matching_is_compared_with_caches_of_its_own(root):
    config = world.config(root, train__steps=2, eval__every=None)
    arms = world.arms_of(ablate(config, "sparse", RunPlan(1), root / "sparse"))[1:]
    assert arms == ["whole", "pooled", "key_tokens", "top_tokens"]
    kept = [json.loads((root / f"cache-{arm}" / "image" / "manifest.json").read_text()) for arm in arms]
    assert len({json.dumps(manifest, sort_keys=True) for manifest in kept}) == 4, "each arm reads a cache of its own"


def test_the_policy_arms_all_train_on_the_same_images(root):
    arms = group_arms("policy", None)
    held_out = {arm_config(world.config(root), arm, 0, 1.0, root / "x").data.holdout for arm in arms}
    assert len(held_out) == 1 and held_out.pop() > 0


@pytest.mark.parametrize("group", ["policy", "robust"])
def test_what_the_config_says_of_the_policy_holds_in_every_arm_of_it(root, group):
    config = world.config(root, policy__every=3, policy__cost=0.1)
    arms = {arm.name: arm_config(config, arm, 0, 1.0, root / "x") for arm in group_arms(group, None)}
    assert {(own.policy.every, own.policy.cost) for own in arms.values()} == {(3, 0.1)}
    assert arms["uniform"].policy.name == "uniform" and arms["rl"].policy.name == "rl"
    faults = {name: own.corrupt.level for name, own in arms.items()}
    assert set(faults.values()) == ({None} if group == "policy" else {None, "P3"}) and faults.get("clean") is None


def test_ablations_are_of_cmapkd_and_of_known_groups(root):
    with pytest.raises(UsageError, match="ablations are of cmapkd"):
        ablate(world.config(root, method="kd"), "losses", RunPlan(1), root / "no")
    with pytest.raises(UsageError, match="no such group"):
        ablate(world.config(root), "loss", RunPlan(1), root / "no")
    with pytest.raises(UsageError, match="budgets are"):
        RunPlan(1, [2.0])
    with pytest.raises(UsageError, match="seeds is 0"):
        RunPlan(0)


def test_an_ablation_runs_and_pairs_with_the_full_method(root):
    config = world.config(root, train__steps=2, eval__every=None)
    path = ablate(config, "pyramid", RunPlan(1), root / "ablate")
    assert world.arms_of(path) == ["teacher", "recipe", "no_visual", "no_language", "no_cross"]


def test_all_ablations_keep_their_own_first_arms(root, monkeypatch):
    monkeypatch.setattr(
        "cmapkd.experiments.compare.run_arms", lambda config, arms, *_: [result(a.name, 0, 0.5) for a in arms]
    )
    text = ablate(world.config(root), "all", RunPlan(3), root / "every").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {group}" for group in DESIGN]
    assert {"vs recipe", "vs uniform", "vs all_on"} <= {cell.strip() for cell in text.split("|")}
    assert all((root / "every" / group / "table.tex").is_file() for group in DESIGN)


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


def test_parallel_runs_equal_runs_one_after_the_other(root):
    config = world.config(root, train__steps=2, eval__every=None)
    alone = run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "alone")
    beside = run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "beside", jobs=2)
    assert [run.metrics for run in beside] == [run.metrics for run in alone]
    assert "student:" in (root / "beside" / "cmapkd-1.log").read_text()


def test_a_run_that_fails_beside_others_ends_the_comparison_with_its_own_line(root):
    config = world.config(root, train__steps=2, eval__every=None, data__val="nowhere.json")
    with pytest.raises(DataError, match=r"nowhere\.json"):
        run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "nowhere", jobs=2)


def test_a_process_that_dies_is_told_and_not_waited_for(tmp_path):
    with pytest.raises(PeerLostError, match="--jobs 2"):
        run_parallel(os._exit, [(1,), (1,)], [tmp_path / "a.log", tmp_path / "b.log"], 2)


def test_a_comparison_without_anything_to_compare_by_is_refused_and_a_method_named_twice_runs_once(root, tmp_path):
    with pytest.raises(UsageError, match="data.val is not set"):
        compare(world.config(root, data__val=None), ["scratch"], RunPlan(1), tmp_path)
    table = compare(world.config(root, train__steps=1), ["scratch", "scratch"], RunPlan(1), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("scratch-*")] == ["scratch-0"]
    assert "| scratch | 1 |" in table.read_text()


SCRIPT = """
import sys
from pathlib import Path
from cmapkd.experiments.arms import Arm, run_arms
from cmapkd.config.load import load_config
if __name__ == "__main__":
    run_arms(load_config(Path(sys.argv[1])), [Arm("cmapkd")], range(2), [1.0], Path(sys.argv[2]), jobs=2)
"""


def test_a_killed_comparison_leaves_no_run_behind_but_each_at_a_checkpoint(root, tmp_path):
    config = world.config(root, train__steps=2000, eval__every=None, train__checkpoint_every=5)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml"), str(out)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        started = [out / f"cmapkd-{seed}" / "checkpoints" for seed in range(2)]
        assert until(
            lambda: all(any(folder.glob("step-*")) for folder in started if folder.is_dir()) and started[0].is_dir()
        )
        process.kill()
    assert until(lambda: "stopped by signal" in (out / "cmapkd-0.log").read_text())


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.2)
    return true()
