"""comparison.html: a comparison as one offline page: a table a budget, paired leads, accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.report import figures
from cmapkd.report.curves import curves
from cmapkd.report.page import SYNTHETIC, Section, page
from cmapkd.report.results import Result
from cmapkd.report.tables import Row, cells, key_of, leads, rows_of, short

SCORES = (
    "In per cent, mean over seeds ± half of the 95 % t-interval. Coloured: the lead over every other arm is significant "
    "(paired by seed). Retention is the share of the teacher's figure."
)
LEADS = "Paired differences by seed ± half of the 95 % t-interval; coloured where it excludes 0."


def write_page(
    results: Sequence[Result],
    out: Path,
    config: Config,
    teacher: dict[str, float],
    base: str | None,
    ours: str | None,
    notes: Sequence[str],
) -> Path:
    """The page of finished runs in `out`; returns its path."""
    rows = rows_of(results)
    budgets = sorted({row.budget for row in rows})
    text = page(
        "comparison.html.j2",
        title="Comparison: " + (config.student.model + (f" from {config.teacher.model}" if config.teacher else "")),
        subtitle=f"{len({row.arm for row in rows})} arms, train {config.data.train}, scored on {config.data.val}",
        warnings=(SYNTHETIC,) if config.data.train.startswith("scenes:") else (),
        budgets=[_budget([row for row in rows if row.budget == budget], teacher, base, ours) for budget in budgets],
        sections=_sections(results) if len(budgets) > 1 else [],
        notes=list(notes),
        config=dump_config(config),
    )
    fsio.write_bytes(out / "comparison.html", text.encode())
    return out / "comparison.html"


def _budget(rows: Sequence[Row], teacher: dict[str, float], base: str | None, ours: str | None) -> dict[str, object]:
    tables = [(*cells(rows, teacher, base), SCORES)]
    if (lead := leads(rows, ours))[1]:
        tables.append((*lead, LEADS))
    shown = [{"header": header, "body": body, "caption": caption} for header, body, caption in tables]
    return {"title": f"{rows[0].steps} steps", "tables": shown}


def _sections(results: Sequence[Result]) -> list[Section]:
    label = f"{short(key_of(rows_of(results)))} (%)"
    by_samples, by_seconds = curves(results)
    found = []
    for name, title, series, x, caption in (
        ("samples", "Accuracy against samples seen", by_samples, "samples seen", "Each point is a run of its own length."),
        ("seconds", "Accuracy against training time", by_seconds, "training seconds", "Without validation; one machine."),
    ):  # fmt: skip
        if series:
            found.append(Section(title, Markup(figures.lines(series, (), label, name, x)), caption))
    return found
