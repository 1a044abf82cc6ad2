"""`cmapkd compare`: methods × budgets × seeds at equal terms, as tables, curves and a page; resumable as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core.errors import UsageError
from cmapkd.experiments.arms import Arm, method_arm, run_arms
from cmapkd.experiments.plan import RunPlan
from cmapkd.experiments.tune import tune
from cmapkd.methods import METHODS, resolve
from cmapkd.report.comparison import Comparison
from cmapkd.report.comparison_page import write_page
from cmapkd.report.comparison_tables import write_tables
from cmapkd.report.curves import write_curves
from cmapkd.train.runs.teacher_score import teacher_metrics


def compare(config: Config, methods: Sequence[str], plan: RunPlan, out: Path) -> Path:
    """Compare methods with each other; returns the path of the Markdown table."""
    methods = list(dict.fromkeys(methods))  # a method named twice runs once
    for method in methods:
        resolve(method, {}, {})
    base = "scratch" if "scratch" in methods else None
    return compare_arms(config, [method_arm(config, method) for method in methods], plan, out, out, base)


def compare_arms(config: Config, arms: Sequence[Arm], plan: RunPlan, out: Path, tables: Path, base: str | None) -> Path:
    """Run the arms under `out` and write their tables, curves and page to `tables`; base: differences are taken from it."""
    if config.data.val is None:
        raise UsageError("no data to compare runs on: data.val is not set; set it, or data.val: holdout")
    tables.mkdir(parents=True, exist_ok=True)
    teacher = teacher_metrics(config)  # before the runs, which find it beside the cache
    if plan.tune:  # at the full length: the best strength of a short run may be wrong for a long one
        arms = tune(config, arms, max(plan.budgets), out, plan.jobs)
    results = run_arms(config, arms, range(plan.seeds), sorted(plan.budgets), out, plan.jobs)
    ours = config.method if any(arm.name == config.method for arm in arms) else base
    found = Comparison(results, teacher, base, ours, _notes(arms, plan.tune))
    print(write_tables(found, tables).rstrip(), flush=True)
    if len(set(plan.budgets)) > 1:
        write_curves(results, tables)
    models = config.student.model + (f" from {config.teacher.model}" if config.teacher else "")
    write_page(found, tables, models, config.data, dump_config(config))
    return tables / "table.md"


def _notes(arms: Sequence[Arm], tuned: bool) -> list[str]:
    served = [a.name for a in arms if (m := METHODS.get(a.update.get("method", a.name))) and m.served is not None]
    notes = [f"{', '.join(served)}: scored with the teacher's own text tower; see docs/methods."] if served else []
    return notes + [f"{arm.name}: {arm.about} (tuned on a slice of the train split)" for arm in arms if tuned]
