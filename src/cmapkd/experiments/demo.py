"""`cmapkd demo`: the whole pipeline on the built-in world: cache, two students, scores and a report."""

from __future__ import annotations

import time
from pathlib import Path

from cmapkd.config.load import load_config
from cmapkd.core.log import say
from cmapkd.experiments.compare import compare
from cmapkd.experiments.plan import RunPlan
from cmapkd.report.run_report import report_comparison
from cmapkd.train.setup.prepare import build_cache

METHODS = ["scratch", "cmapkd"]


def demo(out: Path) -> Path:
    """Run everything under `out` and return the report's path; finished parts are kept."""
    started = time.time()
    config = load_config(Path("scenes"), [f"run={out / 'cmapkd-0'}", f"cache.path={out / 'cache'}"])
    say(
        "The built-in world is synthetic: rendered scenes with generated captions. Its scores say nothing about photographs."
    )
    say(
        "The cmapkd student starts from the teacher's weights, the scratch student from random weights without a teacher."
    )
    build_cache(config)
    compare(config, METHODS, RunPlan(seeds=1), out)
    report = report_comparison(config.method, METHODS, out, f"cmapkd demo --out {out}")
    say(f"report: {report} ({time.time() - started:.0f} s)")
    return report
