"""The score table: models as rows, figures as columns, retention against the teacher; as cells, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["teacher", "scratch", "baseline", "ours"]

# Figure, as logs name it → heading. clip-benchmark calls text→image `image_retrieval`.
COLUMNS = {
    "image_retrieval_recall@1": "T→I R@1",
    "image_retrieval_recall@5": "T→I R@5",
    "image_retrieval_recall@10": "T→I R@10",
    "text_retrieval_recall@1": "I→T R@1",
    "text_retrieval_recall@5": "I→T R@5",
    "text_retrieval_recall@10": "I→T R@10",
    "mean_recall@1": "mean R@1",
    "zeroshot/acc1": "zero-shot top-1",
}
# Figures whose share of the teacher's is shown.
RETAINED = {"mean_recall@1": "R@1 kept", "zeroshot/acc1": "top-1 kept"}


@dataclass(frozen=True)
class ScoreRow:
    """One model. metrics: fractions under the tasks' names; spread: half-widths of 95 % intervals over `seeds` runs."""

    name: str
    role: Role
    metrics: Mapping[str, float]
    params: int | None = None
    megabytes: float | None = None
    seeds: int = 1
    spread: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """Text to show, ± what over seeds, and whether it is the best of its column among the students."""

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """headings: one per cell of a row, the model's name first."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Role, tuple[Cell, ...]], ...]


def retention(row: ScoreRow, rows: Sequence[ScoreRow], metric: str) -> float | None:
    """row's figure over the teacher's; None without a teacher, for the teacher itself, or without the figure."""
    teacher = next((each for each in rows if each.role == "teacher"), None)
    if teacher is None or row.role == "teacher" or metric not in row.metrics or not teacher.metrics.get(metric):
        return None
    return row.metrics[metric] / teacher.metrics[metric]


def score_table(rows: Sequence[ScoreRow]) -> Table:
    """Columns that no model has a figure for are left out; figures in per cent."""
    metrics = [name for name in COLUMNS if any(name in row.metrics for row in rows)]
    kept = [name for name in RETAINED if any(retention(row, rows, name) is not None for row in rows)]
    sizes = {"M params": any(row.params for row in rows), "MB": any(row.megabytes for row in rows)}
    headings = ("model", *(COLUMNS[name] for name in metrics), *(RETAINED[name] for name in kept))
    headings += tuple(name for name, shown in sizes.items() if shown)
    students = [row for row in rows if row.role != "teacher"]
    best = {name: max((row.metrics[name] for row in students if name in row.metrics), default=None) for name in metrics}
    body = []
    for row in rows:
        cells = [Cell(row.name if row.seeds == 1 else f"{row.name} ({row.seeds} seeds)")]
        cells += [_percent(row, name, best[name]) for name in metrics]
        shares = [retention(row, rows, name) for name in kept]
        cells += [Cell("–" if share is None else f"{100 * share:.1f} %") for share in shares]
        if sizes["M params"]:
            cells.append(Cell("–" if row.params is None else f"{row.params / 1e6:.2f}"))
        if sizes["MB"]:
            cells.append(Cell("–" if row.megabytes is None else f"{row.megabytes:.1f}"))
        body.append((row.role, tuple(cells)))
    return Table(headings, tuple(body))


def to_markdown(rows: Sequence[ScoreRow]) -> str:
    """A pipe table; the best student of a column in bold."""
    table = score_table(rows)
    lines = [_pipes(table.headings), _pipes(["---", *["---:"] * (len(table.headings) - 1)])]
    for _, cells in table.rows:
        lines.append(_pipes([_markdown(cell) for cell in cells]))
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[ScoreRow]) -> str:
    """Unrounded: every figure any row has, its spread over seeds, retention, parameters and megabytes."""
    every = {name for row in rows for name in row.metrics}
    metrics = [name for name in COLUMNS if name in every] + sorted(every - set(COLUMNS))
    spreads = [name for name in metrics if any(name in row.spread for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    derived = [*(f"{name} half-width" for name in spreads), *(f"{name} kept" for name in RETAINED)]
    writer.writerow(["name", "role", "seeds", *metrics, *derived, "params", "megabytes"])
    for row in rows:
        figures = [row.metrics.get(name) for name in metrics] + [row.spread.get(name) for name in spreads]
        shares = [retention(row, rows, name) for name in RETAINED]
        writer.writerow([row.name, row.role, row.seeds, *figures, *shares, row.params, row.megabytes])
    return text.getvalue()


def _percent(row: ScoreRow, name: str, best: float | None) -> Cell:
    if name not in row.metrics:
        return Cell("–")
    spread = f"{100 * row.spread[name]:.2f}" if name in row.spread else ""
    return Cell(f"{100 * row.metrics[name]:.2f}", spread, row.role != "teacher" and row.metrics[name] == best)


def _markdown(cell: Cell) -> str:
    text = _plain(cell.text) + (f" ± {cell.spread}" if cell.spread else "")
    return f"**{text}**" if cell.best else text


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
