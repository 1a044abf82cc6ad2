"""Accuracy against samples seen and against training time, as figures; methods differ most in how fast they learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.report import figures
from cmapkd.report.figures import Series
from cmapkd.report.results import Result
from cmapkd.report.tables import key_of, rows_of, short


def curves(results: Sequence[Result]) -> tuple[dict[str, Series], dict[str, Series]]:
    """Arm → (samples seen, mean of the deciding metric) and arm → (training seconds, the same), budgets ascending."""
    rows = rows_of(results)
    key = key_of(rows)
    size = {(r.arm, r.budget): r.samples for r in results}
    by_samples: dict[str, tuple[list[float], list[float]]] = {}
    by_seconds: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if key not in row.values:
            continue
        height = sum(row.values[key]) / len(row.values[key])
        for found, x in ((by_samples, size[row.arm, row.budget]), (by_seconds, row.train_seconds)):
            if x:
                xs, ys = found.setdefault(row.arm, ([], []))
                xs.append(x)
                ys.append(height)
    return dict(by_samples), dict(by_seconds)


def write_curves(results: Sequence[Result], out: Path) -> None:
    """samples.svg and seconds.svg in `out`."""
    label = f"{short(key_of(rows_of(results)))} (%)"
    for name, series, x in zip(
        ("samples", "seconds"), curves(results), ("samples seen", "training seconds"), strict=True
    ):
        if series:
            svg = figures.lines(series, (), label, name, x)
            fsio.write_bytes(out / f"{name}.svg", svg.replace("currentColor", "#444").encode())
