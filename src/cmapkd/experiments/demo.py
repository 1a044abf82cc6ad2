"""`cmapkd demo`: the main job on the built-in world: cache, distil, a student from scratch, scores and a report."""

from __future__ import annotations

import time
from pathlib import Path

from cmapkd.config.load import load_config
from cmapkd.core.log import say
from cmapkd.experiments.compare import compare
from cmapkd.report.run_report import report_comparison
from cmapkd.train.prepare import build_cache

METHODS = ["scratch", "cmapkd"]


def demo(out: Path) -> Path:
    """Run everything under `out` (what is finished is kept) and return the report's path."""
    started = time.time()
    config = load_config(Path("scenes"), [f"run={out / 'cmapkd-0'}", f"cache.path={out / 'cache'}"])
    say(
        "The built-in world is synthetic: rendered scenes with generated captions. Its figures say nothing about photographs."
    )
    say("The student of cmapkd begins from the teacher's weights, the one of scratch at random and without a teacher.")
    build_cache(config)
    compare(config, METHODS, seeds=1, out=out)
    report = report_comparison(config, METHODS, out, f"cmapkd demo --out {out}")
    say(f"report: {report} ({time.time() - started:.0f} s)")
    return report
