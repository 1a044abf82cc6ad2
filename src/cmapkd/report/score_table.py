"""The score table of a run page: models as rows, metrics and retention as columns; also as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cmapkd.report.metric_names import heading

Role = Literal["teacher", "scratch", "baseline", "ours"]

COLUMNS = (
    "image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10",
    "text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10", "mean_recall@1", "zeroshot/acc1",
)  # fmt: skip
RETAINED = {"mean_recall@1": "R@1 kept", "zeroshot/acc1": "top-1 kept"}  # metric → heading of its retention


@dataclass(frozen=True)
class ScoreRow:
    """One model. metrics: fractions by name; spread: half-widths of 95 % intervals over `seeds` runs."""

    name: str
    role: Role
    metrics: Mapping[str, float]
    params: int | None = None
    megabytes: float | None = None
    seeds: int = 1
    spread: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreCell:
    """One cell: its text, its ± over seeds, and whether it is the best of its column among the students."""

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Headings, the model's name first, and a role with as many cells per row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Role, tuple[ScoreCell, ...]], ...]


def retention(row: ScoreRow, rows: Sequence[ScoreRow], metric: str) -> float | None:
    """The row's score divided by the teacher's; None for the teacher itself and where either score is missing."""
    teacher = next((each for each in rows if each.role == "teacher"), None)
    if teacher is None or row.role == "teacher" or metric not in row.metrics or not teacher.metrics.get(metric):
        return None
    return row.metrics[metric] / teacher.metrics[metric]


def score_table(rows: Sequence[ScoreRow]) -> ScoreTable:
    """The table in percent, without the columns that no model has a score for."""
    metrics = [name for name in COLUMNS if any(name in row.metrics for row in rows)]
    kept = [name for name in RETAINED if any(retention(row, rows, name) is not None for row in rows)]
    sizes = {"M params": any(row.params for row in rows), "MB": any(row.megabytes for row in rows)}
    headings = ("model", *(heading(name) for name in metrics), *(RETAINED[name] for name in kept))
    headings += tuple(name for name, shown in sizes.items() if shown)
    students = [row for row in rows if row.role != "teacher"]
    best = {name: max((row.metrics[name] for row in students if name in row.metrics), default=None) for name in metrics}
    body = []
    for row in rows:
        cells = [ScoreCell(row.name if row.seeds == 1 else f"{row.name} ({row.seeds} seeds)")]
        cells += [_percent(row, name, best[name]) for name in metrics]
        ratios = [retention(row, rows, name) for name in kept]
        cells += [ScoreCell("–" if ratio is None else f"{100 * ratio:.1f} %") for ratio in ratios]
        if sizes["M params"]:
            cells.append(ScoreCell("–" if row.params is None else f"{row.params / 1e6:.2f}"))
        if sizes["MB"]:
            cells.append(ScoreCell("–" if row.megabytes is None else f"{row.megabytes:.1f}"))
        body.append((row.role, tuple(cells)))
    return ScoreTable(headings, tuple(body))


def to_markdown(rows: Sequence[ScoreRow]) -> str:
    """The table in Markdown, the best student of each column in bold."""
    table = score_table(rows)
    lines = [_pipes(table.headings), _pipes(["---", *["---:"] * (len(table.headings) - 1)])]
    for _, cells in table.rows:
        lines.append(_pipes([_markdown(cell) for cell in cells]))
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[ScoreRow]) -> str:
    """All scores unrounded, with their spread over seeds, retention, parameters and megabytes."""
    every = {name for row in rows for name in row.metrics}
    metrics = [name for name in COLUMNS if name in every] + sorted(every - set(COLUMNS))
    spreads = [name for name in metrics if any(name in row.spread for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    derived = [*(f"{name} half-width" for name in spreads), *(f"{name} kept" for name in RETAINED)]
    writer.writerow(["name", "role", "seeds", *metrics, *derived, "params", "megabytes"])
    for row in rows:
        scores = [row.metrics.get(name) for name in metrics] + [row.spread.get(name) for name in spreads]
        ratios = [retention(row, rows, name) for name in RETAINED]
        writer.writerow([row.name, row.role, row.seeds, *scores, *ratios, row.params, row.megabytes])
    return text.getvalue()


def _percent(row: ScoreRow, name: str, best: float | None) -> ScoreCell:
    if name not in row.metrics:
        return ScoreCell("–")
    spread = f"{100 * row.spread[name]:.2f}" if name in row.spread else ""
    return ScoreCell(f"{100 * row.metrics[name]:.2f}", spread, row.role != "teacher" and row.metrics[name] == best)


def _markdown(cell: ScoreCell) -> str:
    text = _plain(cell.text) + (f" ± {cell.spread}" if cell.spread else "")
    return f"**{text}**" if cell.best else text


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
