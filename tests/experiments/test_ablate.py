"""Ablations: valid arms, equal data, groups with a first arm that the others are compared with."""

import json

import pytest

import world
from cmapkd.config.schedules import resolve_schedule
from cmapkd.core.errors import UsageError
from cmapkd.experiments.ablate import ablate
from cmapkd.experiments.ablation_groups import DESIGN, GROUPS, group_arms
from cmapkd.experiments.arms import arm_config
from cmapkd.experiments.plan import RunPlan
from cmapkd.methods import resolve
from cmapkd.policy import POLICIES
from cmapkd.report.run_results import RunResult


def result(arm):
    """A finished run of an arm."""
    return RunResult(arm, 0, 1.0, 100, 12800, 9.0, 5.0, {"mean_recall@1": 0.5})


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "all"])
def test_every_arm_of_every_ablation_is_a_valid_config(root, group):
    config = world.config(root)
    for arm in group_arms(group, config.cache.path):
        changed = arm_config(config, arm, 0, 1.0, root / "x")
        method = resolve(changed.method, changed.weights, changed.share)
        assert resolve_schedule(changed.schedule, method.stages) and changed.policy.name in POLICIES


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
    monkeypatch.setattr("cmapkd.experiments.compare.run_arms", lambda config, arms, *_: [result(a.name) for a in arms])
    text = ablate(world.config(root), "all", RunPlan(3), root / "every").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {group}" for group in DESIGN]
    assert {"vs recipe", "vs uniform", "vs all_on"} <= {cell.strip() for cell in text.split("|")}
    assert all((root / "every" / group / "table.tex").is_file() for group in DESIGN)
