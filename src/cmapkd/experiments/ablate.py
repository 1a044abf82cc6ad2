"""`cmapkd ablate`: CMAPKD against itself with one thing changed, one group of arms at a time."""

from __future__ import annotations

from pathlib import Path

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.experiments.ablation_groups import DESIGN, group_arms
from cmapkd.experiments.arms import arm_config
from cmapkd.experiments.compare import compare_arms
from cmapkd.experiments.plan import RunPlan
from cmapkd.train.setup.prepare import build_cache


def ablate(config: Config, group: str, plan: RunPlan, out: Path) -> Path:
    """Compare the arms of a group; returns the path of the Markdown table, in a folder of the group's name.

    Differences are taken from the group's first arm: the full method, or the plainest policy or schedule. Group `all` runs
    the design's four, each against its own first arm, and joins their tables.
    """
    if config.method != "cmapkd":
        raise UsageError(
            f"ablate: the config's method is '{config.method}'; ablations are of cmapkd, set method: cmapkd"
        )
    if group == "all":
        parts = {name: ablate(config, name, plan, out).read_text() for name in DESIGN}
        text = "\n".join(f"## {name}\n\n{table}" for name, table in parts.items())
        fsio.write_bytes(out / "table.md", text.encode())
        return out / "table.md"
    arms = group_arms(group, config.cache.path)
    for arm in arms:
        if "cache.path" in arm.update:  # a cache of its own; a finished one is only checked
            build_cache(arm_config(config, arm, 0, 1.0, out))
    return compare_arms(config, arms, plan, out, out / group, arms[0].name)
