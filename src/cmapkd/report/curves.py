"""Curves of accuracy against samples seen and against training time, one point per training length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.report import plots
from cmapkd.report.comparison import arm_rows, key_metric
from cmapkd.report.metric_names import heading
from cmapkd.report.plots import Series
from cmapkd.report.run_results import RunResult


@dataclass(frozen=True)
class Curves:
    """Arms' curves over one axis. name: of the file and of the SVG's ids; ylabel: the metric, in percent."""

    name: str
    xlabel: str
    ylabel: str
    series: dict[str, Series]

    def svg(self) -> str:
        """The plot as SVG text."""
        return plots.lines(self.series, (), self.ylabel, self.name, self.xlabel)


def curves(results: Sequence[RunResult]) -> list[Curves]:
    """Mean over seeds against samples seen and against training seconds; an axis without data is left out."""
    rows = arm_rows(results)
    key = key_metric(rows)
    by_samples: dict[str, tuple[list[float], list[float]]] = {}
    by_seconds: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if key not in row.values:
            continue
        height = sum(row.values[key]) / len(row.values[key])
        for found, x in ((by_samples, row.samples), (by_seconds, row.train_seconds)):
            if x:
                xs, ys = found.setdefault(row.arm, ([], []))
                xs.append(x)
                ys.append(height)
    label = f"{heading(key)} (%)"
    axes = (("samples", "samples seen", by_samples), ("seconds", "training seconds", by_seconds))
    return [Curves(name, xlabel, label, dict(found)) for name, xlabel, found in axes if found]


def write_curves(results: Sequence[RunResult], out: Path) -> None:
    """Write samples.svg and seconds.svg to `out`."""
    for found in curves(results):
        fsio.write_bytes(out / f"{found.name}.svg", found.svg().replace("currentColor", "#444").encode())
