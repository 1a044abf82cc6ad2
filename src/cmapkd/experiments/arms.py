"""Arm: one variant in a comparison, and the runs of arms at equal data order, views, steps and initialisation.

The seed sets the student's initialisation and the data order and nothing else, so runs of one seed pair across arms. Where
the config lets students inherit, all arms but `scratch` start from the teacher's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmapkd.config.schema import Config, PolicyConfig
from cmapkd.config.tree import plain, read
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.experiments.parallel import run_parallel
from cmapkd.methods import METHODS
from cmapkd.report.run_results import RunResult, final_row, read_run_result
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import refuse_other_config


@dataclass(frozen=True)
class Arm:
    """A name and the config values that differ in this arm, by dotted key. about: a note for the tables."""

    name: str
    update: dict[str, Any] = field(default_factory=dict)
    about: str = ""


def method_arm(config: Config, method: str) -> Arm:
    """A method as an arm; the config's weights, gradient ratios, schedule and policy apply to its own method only.

    The user's task is no part of a method: every trained student that needs no served model learns it too.
    """
    if method == config.method:
        return Arm(method)
    alone = METHODS[method].student == "trained" and METHODS[method].served is None
    weights = {"task": config.weights["task"]} if alone and "task" in config.weights else {}
    own = {"method": method, "weights": weights, "share": {}, "options": {}, "schedule": None, "policy": PolicyConfig()}
    return Arm(method, own)


def run_arms(
    config: Config, arms: Sequence[Arm], seeds: Sequence[int], budgets: Sequence[float], out: Path, jobs: int = 1
) -> list[RunResult]:
    """Run every arm × budget × seed under `out`, `jobs` at a time; finished runs are read, interrupted ones resumed.

    Seeds are the outer loop, so that an interrupted comparison has whole pairs.
    """
    return run_all([(config, arm, seed, budget, out) for seed in seeds for budget in budgets for arm in arms], jobs)


def run_all(runs: Sequence[tuple[Config, Arm, int, float, Path]], jobs: int) -> list[RunResult]:
    """`one_run` of each; with several jobs each run writes its output to a log beside its folder."""
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; at least 1 run at a time")
    if jobs == 1:
        return [one_run(*run) for run in runs]
    folders = [run_folder(out, arm.name, seed, budget) for _, arm, seed, budget, out in runs]
    return run_parallel(one_run, runs, [folder.with_name(f"{folder.name}.log") for folder in folders], jobs)


def one_run(config: Config, arm: Arm, seed: int, budget: float, out: Path) -> RunResult:
    """Train, resume or read one run. budget: fraction of the config's training length.

    Raises IntegrityError where `out` holds a run of this name with another config.
    """
    folder = run_folder(out, arm.name, seed, budget)
    own, started = arm_config(config, arm, seed, budget, folder), (folder / "config.yaml").is_file()
    if started:
        refuse_other_config(folder, own, "is another comparison's, ", "give another --out")
    if not final_row(folder):
        say(f"{arm.name} seed {seed}{f' budget {budget:g}' if budget != 1 else ''}{' (resumed)' if started else ''}")
        distill(own, resume=started)
    return read_run_result(folder, arm.name, seed, budget)


def run_folder(out: Path, arm: str, seed: int, budget: float = 1.0) -> Path:
    """The folder of one run: ARM-SEED, or ARM-xBUDGET-SEED for a shortened one."""
    return out / (f"{arm}-{seed}" if budget == 1 else f"{arm}-x{budget:g}-{seed}")


def arm_config(config: Config, arm: Arm, seed: int, budget: float, folder: Path) -> Config:
    """The run's own config: the arm's values over the config, its training length times `budget`."""
    train = config.train
    length = {"steps": max(1, round(train.steps * budget))} if train.steps else {"epochs": train.epochs * budget}  # type: ignore[operator]
    tree = plain(config)
    tree |= {"run": folder, "seed": seed, "train": {**tree["train"], **length}}
    for key, value in arm.update.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[leaf] = plain(value) if isinstance(value, PolicyConfig) else value
    return read(Config, tree, f"arm {arm.name}")
