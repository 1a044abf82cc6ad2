"""`cmapkd compare` and `cmapkd ablate`: arms × budgets × seeds, one table and its figures; resumable as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.experiments.ablation import DESIGN, GROUPS, ablation
from cmapkd.experiments.arms import Arm, arm_config, method_arm, run_arms
from cmapkd.experiments.tune import tune
from cmapkd.methods import METHODS, resolve
from cmapkd.report.comparison_page import write_page
from cmapkd.report.curves import write_curves
from cmapkd.report.tables import write_tables
from cmapkd.train.prepare import build_cache
from cmapkd.train.teacher_score import teacher_metrics

__all__ = ["GROUPS", "ablate", "compare"]


def compare(
    config: Config,
    methods: Sequence[str],
    seeds: int,
    out: Path,
    budgets: Sequence[float] = (1.0,),
    tuned: bool = False,
    jobs: int = 1,
) -> Path:
    """Methods against each other, `jobs` runs at a time. Returns the Markdown table's path."""
    methods = list(dict.fromkeys(methods))  # a method named twice is not twice as many seeds
    for method in methods:
        resolve(method, {}, {})
    base = "scratch" if "scratch" in methods else None
    return _run(config, [method_arm(config, m) for m in methods], seeds, out, budgets, tuned, jobs, base)


def ablate(
    config: Config,
    group: str,
    seeds: int,
    out: Path,
    budgets: Sequence[float] = (1.0,),
    tuned: bool = False,
    jobs: int = 1,
) -> Path:
    """CMAPKD against itself with one thing changed; the table of a group lies in a folder of its name.

    Differences are taken from the group's first arm: the full method, or the plainest policy or order. Group `all` runs
    the design's four, each against its own first arm, and joins their tables.
    """
    if group == "all":
        parts = {each: ablate(config, each, seeds, out, budgets, tuned, jobs).read_text() for each in DESIGN}
        text = "\n".join(f"## {each}\n\n{table}" for each, table in parts.items())
        fsio.write_bytes(out / "table.md", text.encode())
        return out / "table.md"
    arms = ablation(config, group)
    for arm in arms:
        if "cache.path" in arm.update:  # a cache of its own; a finished one is only checked
            build_cache(arm_config(config, arm, 0, 1.0, out))
    return _run(config, arms, seeds, out, budgets, tuned, jobs, arms[0].name, out / group)


def _run(
    config: Config,
    arms: list[Arm],
    seeds: int,
    out: Path,
    budgets: Sequence[float],
    tuned: bool,
    jobs: int,
    base: str | None,
    tables: Path | None = None,
) -> Path:
    """Runs under `out`, tables in `tables` (default: the same folder)."""
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; at least 1, and 3 for an interval worth reading")
    if not budgets or min(budgets) <= 0 or max(budgets) > 1:
        raise UsageError(f"budgets are {list(budgets)}; give shares of the config's length, above 0 and at most 1")
    if config.data.val is None:
        raise UsageError("there is nothing to compare runs by: data.val is not set; set it, or data.val: holdout")
    tables = tables or out
    tables.mkdir(parents=True, exist_ok=True)
    teacher = teacher_metrics(config)  # before the runs, which find it beside the cache
    if tuned:
        arms = tune(config, arms, max(budgets), out, jobs)  # what suits a short run may not suit a long one
    results = run_arms(config, arms, range(seeds), sorted(budgets), out, jobs)
    served = [a.name for a in arms if (m := METHODS.get(a.update.get("method", a.name))) and m.served is not None]
    notes = [f"{', '.join(served)}: scored with the teacher's own text tower; see docs/methods."] if served else []
    notes += [f"{arm.name}: {arm.about} (tuned on a slice of the train split)" for arm in arms if tuned]
    ours = config.method if any(arm.name == config.method for arm in arms) else base
    print(write_tables(results, tables, teacher, base, notes, ours).rstrip(), flush=True)
    if len(set(budgets)) > 1:
        write_curves(results, tables)
    write_page(results, tables, config, teacher, base, ours, notes)
    return tables / "table.md"
