"""The runs of a comparison, grouped by arm and training length: one value of each metric per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cmapkd.report.metric_names import KEY_METRIC, METRICS
from cmapkd.report.run_results import RunResult
from cmapkd.report.stats import differ


@dataclass(frozen=True)
class Comparison:
    """Finished runs and how to present them.

    teacher: its metrics, {} without one. base: the arm that differences are taken from. ours: the arm whose leads over
    the others are shown. notes: sentences below the tables.
    """

    results: Sequence[RunResult]
    teacher: dict[str, float] = field(default_factory=dict)
    base: str | None = None
    ours: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ArmRow:
    """One arm at one training length. values: metric → percent per seed, in the order of `seeds`."""

    arm: str
    budget: float
    steps: int
    samples: int
    seeds: tuple[int, ...]
    values: dict[str, list[float]]
    train_seconds: float | None


def arm_rows(results: Sequence[RunResult]) -> list[ArmRow]:
    """Arms in order of first appearance, budgets from small to large."""
    groups: dict[tuple[float, str], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result.budget, result.arm), []).append(result)
    rows = []
    for (budget, arm), runs in sorted(groups.items(), key=lambda item: item[0][0]):
        runs = sorted(runs, key=lambda run: run.seed)
        names = [name for name in METRICS if all(name in run.metrics for run in runs)]
        times = [run.train_seconds for run in runs if run.train_seconds is not None]
        rows.append(
            ArmRow(
                arm, budget, runs[0].steps, runs[0].samples, tuple(run.seed for run in runs),
                {name: [100 * run.metrics[name] for run in runs] for name in names},
                sum(times) / len(times) if times else None,
            )
        )  # fmt: skip
    return rows


def budgets_of(rows: Sequence[ArmRow]) -> list[list[ArmRow]]:
    """The rows of each training length, from short to long."""
    return [[row for row in rows if row.budget == budget] for budget in sorted({row.budget for row in rows})]


def key_metric(rows: Sequence[ArmRow]) -> str:
    """The metric that ranks the arms: mean R@1 where there is retrieval, else the first that all arms have."""
    shared = [name for name in METRICS if all(name in row.values for row in rows)]
    return KEY_METRIC if KEY_METRIC in shared or not shared else shared[0]


def significant(rows: Sequence[ArmRow], metric: str) -> set[str]:
    """The best arm's name if the paired 95 % interval of its lead over every other arm excludes 0, else nothing."""
    known = [row for row in rows if metric in row.values]
    if len(known) < 2:
        return set()
    best = max(known, key=lambda row: sum(row.values[metric]) / len(row.values[metric]))
    others = [row for row in known if row is not best and row.seeds == best.seeds]
    return {best.arm} if others and all(differ(best.values[metric], row.values[metric]) for row in others) else set()
