"""What the lines of metrics.jsonl hold for a page: series by step, where stages change, calibrated terms, what is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cmapkd.report.figures import Series
from cmapkd.report.scores import COLUMNS
from cmapkd.train.saving import saying

CALIBRATION = {"step": "step", "term": "term", "share": "share", "norm": "‖∇ term‖", "final_norm": "‖∇ final‖",
               "before": "weight before", "weight": "weight"}  # fmt: skip


def series(metrics: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Series]:
    """name → (steps, values) of the keys that begin with `prefix`, in order of first appearance."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in metrics:
        for key, value in row.items():
            if "step" in row and key.startswith(prefix) and _is_number(value):
                steps, values = found.setdefault(key.removeprefix(prefix), ([], []))
                steps.append(row["step"])
                values.append(value)
    return dict(found)


def validation_series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Figures of validation lines, whether marked by `kind: val` or by keys val/<metric>."""
    marked = [
        {"step": row["step"], **{f"val/{key}": value for key, value in row.items() if key not in ("kind", "step")}}
        if row.get("kind") == "val"
        else row
        for row in metrics
    ]
    return series(marked, "val/")


def shown_validation(found: Mapping[str, Series]) -> dict[str, Series]:
    """The figures at rank 1 in per cent, under their headings; R@5 and R@10 would only crowd the plot."""
    rank_one = [name for name in COLUMNS if name in found and name.endswith(("recall@1", "acc1"))]
    return {COLUMNS[name]: (found[name][0], [100 * value for value in found[name][1]]) for name in rank_one}


def stage_boundaries(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """Steps at which the stage differs from that of the line before."""
    staged = [(row["step"], row["stage"]) for row in metrics if "stage" in row]
    return [step for (_, before), (step, now) in pairwise(staged) if now != before]


def calibration(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Headings and rows of the lines that the balance of terms wrote; None without any."""
    rows = [row for row in metrics if row.get("kind") == "balance"]
    if not rows:
        return None
    cells = [
        [f"{row[key]:.4g}" if _is_number(row.get(key)) else str(row.get(key, "–")) for key in CALIBRATION]
        for row in rows
    ]
    return {"headings": list(CALIBRATION.values()), "rows": cells}


def saved(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What the levels that sleep at the end save of a step; "" where none does."""
    found = next((row["saving"] for row in reversed(metrics) if row.get("saving")), None)
    return f"{saying(found)}." if found else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
