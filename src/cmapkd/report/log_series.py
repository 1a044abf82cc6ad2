"""Series, stage boundaries and the weight balance from the rows of metrics.jsonl.

Rows are {step, loss/<term>, weight/<level>, stage} while training, {kind: val, step, <metric>} or val/<metric> for
validation, and {kind: balance, …} where terms were calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cmapkd.report.metric_names import heading
from cmapkd.report.plots import Series
from cmapkd.report.score_table import COLUMNS
from cmapkd.train.runs.saving import saying

BALANCE = {"step": "step", "term": "term", "share": "share", "norm": "‖∇ term‖", "final_norm": "‖∇ final‖",
           "before": "weight before", "weight": "weight"}  # fmt: skip


def series(metrics: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Series]:
    """The keys that begin with `prefix`: name → (steps, values), in order of first appearance."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in metrics:
        for key, value in row.items():
            if "step" in row and key.startswith(prefix) and _is_number(value):
                steps, values = found.setdefault(key.removeprefix(prefix), ([], []))
                steps.append(row["step"])
                values.append(value)
    return dict(found)


def validation_series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Metrics of the validation rows, marked by `kind: val` or by keys val/<metric>."""
    marked = [
        {"step": row["step"], **{f"val/{key}": value for key, value in row.items() if key not in ("kind", "step")}}
        if row.get("kind") == "val"
        else row
        for row in metrics
    ]
    return series(marked, "val/")


def validation_percent(found: Mapping[str, Series]) -> dict[str, Series]:
    """The metrics at rank 1 in percent, by heading; R@5 and R@10 would only crowd the plot."""
    rank_one = [name for name in COLUMNS if name in found and name.endswith(("recall@1", "acc1"))]
    return {heading(name): (found[name][0], [100 * value for value in found[name][1]]) for name in rank_one}


def stage_boundaries(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """The steps at which a new stage begins."""
    staged = [(row["step"], row["stage"]) for row in metrics if "stage" in row]
    return [step for (_, before), (step, now) in pairwise(staged) if now != before]


def balance_table(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Headings and rows of the table of calibrated term weights; None where none was calibrated."""
    rows = [row for row in metrics if row.get("kind") == "balance"]
    if not rows:
        return None
    cells = [
        [f"{row[key]:.4g}" if _is_number(row.get(key)) else str(row.get(key, "–")) for key in BALANCE] for row in rows
    ]
    return {"headings": list(BALANCE.values()), "rows": cells}


def saved(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the time that sleeping levels save in a step; "" where no level sleeps."""
    found = next((row["saving"] for row in reversed(metrics) if row.get("saving")), None)
    return f"{saying(found)}." if found else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
