"""comparison.html: a comparison as one offline page with its tables, paired leads and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from cmapkd.config.schema import DataConfig
from cmapkd.core import fsio
from cmapkd.report.comparison import ArmRow, Comparison, arm_rows, budgets_of
from cmapkd.report.comparison_tables import lead_grid, score_grid
from cmapkd.report.curves import curves
from cmapkd.report.html import SYNTHETIC, PlotSection, fill

SCORES = (
    "In percent, mean over seeds ± half of the 95 % t-interval. Coloured: the lead over every other arm is significant "
    "(paired by seed). Retention: the score divided by the teacher's."
)
LEADS = "Paired differences by seed ± half of the 95 % t-interval; coloured where the interval excludes 0."
CURVES = {
    "samples": ("Accuracy against samples seen", "Each point is a run of its own length."),
    "seconds": ("Accuracy against training time", "Without validation; one machine."),
}


def write_page(found: Comparison, out: Path, models: str, data: DataConfig, config: str) -> Path:
    """Write the page to `out` and return its path. models: for the title; config: the YAML that all runs share."""
    rows = arm_rows(found.results)
    budgets = budgets_of(rows)
    text = fill(
        "comparison.html.j2",
        title=f"Comparison: {models}",
        subtitle=f"{len({row.arm for row in rows})} arms, train {data.train}, scored on {data.val}",
        warnings=(SYNTHETIC,) if data.train.startswith("scenes:") else (),
        budgets=[_budget(part, found) for part in budgets],
        sections=_curve_sections(found) if len(budgets) > 1 else [],
        notes=list(found.notes),
        config=config,
    )
    fsio.write_bytes(out / "comparison.html", text.encode())
    return out / "comparison.html"


def _budget(rows: Sequence[ArmRow], found: Comparison) -> dict[str, object]:
    tables = [(*score_grid(rows, found.teacher, found.base), SCORES)]
    if (leads := lead_grid(rows, found.ours))[1]:
        tables.append((*leads, LEADS))
    shown = [{"header": header, "body": body, "caption": caption} for header, body, caption in tables]
    return {"title": f"{rows[0].steps} steps", "tables": shown}


def _curve_sections(found: Comparison) -> list[PlotSection]:
    return [
        PlotSection(title, Markup(each.svg()), caption)
        for each in curves(found.results)
        for title, caption in [CURVES[each.name]]
    ]
