"""A comparison as tables: Markdown, CSV, LaTeX and JSON lines. Bold is only what beats the next best significantly."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.report.results import Result
from cmapkd.report.stats import differ, interval, paired

COLUMNS = (
    "image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10",
    "text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10", "mean_recall@1", "mean_recall",
    "zeroshot/acc1", "zeroshot/acc5", "head/acc1",
)  # fmt: skip
KEY = "mean_recall@1"
LEADS = ("image_retrieval_recall@1", "text_retrieval_recall@1", KEY, "mean_recall", "zeroshot/acc1", "head/acc1")
SHORT = (
    ("image_retrieval_recall", "T→I R"), ("text_retrieval_recall", "I→T R"), ("mean_recall@1", "mean R@1"),
    ("mean_recall", "mean R"), ("zeroshot/acc", "zero-shot top-"), ("head/acc", "head top-"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One arm at one budget: metric → one value a seed, in percent, in the order of seeds."""

    arm: str
    budget: float
    steps: int
    seeds: tuple[int, ...]
    values: dict[str, list[float]]
    seconds: float
    train_seconds: float | None


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Arms in order of first appearance, budgets from small to large."""
    groups: dict[tuple[float, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.budget, result.arm), []).append(result)
    rows = []
    for (budget, arm), runs in sorted(groups.items(), key=lambda item: item[0][0]):
        runs = sorted(runs, key=lambda run: run.seed)
        names = [name for name in COLUMNS if all(name in run.metrics for run in runs)]
        times = [run.train_seconds for run in runs if run.train_seconds is not None]
        rows.append(
            Row(
                arm, budget, runs[0].steps, tuple(run.seed for run in runs),
                {name: [100 * run.metrics[name] for run in runs] for name in names},
                sum(run.seconds for run in runs) / len(runs), sum(times) / len(times) if times else None,
            )
        )  # fmt: skip
    return rows


def key_of(rows: Sequence[Row]) -> str:
    """The metric that decides: mean R@1 where there is retrieval, else the first that all arms have."""
    shared = [name for name in COLUMNS if all(name in row.values for row in rows)]
    return KEY if KEY in shared or not shared else shared[0]


def significant(rows: Sequence[Row], key: str) -> set[str]:
    """The best arm's name, if the paired interval of its lead over every other arm excludes 0; else nothing."""
    known = [row for row in rows if key in row.values]
    if len(known) < 2:
        return set()
    best = max(known, key=lambda row: sum(row.values[key]) / len(row.values[key]))
    others = [row for row in known if row is not best and row.seeds == best.seeds]
    return {best.arm} if others and all(differ(best.values[key], row.values[key]) for row in others) else set()


def cells(rows: Sequence[Row], teacher: dict[str, float], base: str | None) -> tuple[list[str], list[list[str]]]:
    """(header, body) of one budget. `base`: the arm that differences are taken from; the teacher stands first."""
    columns = [c for c in COLUMNS if any(c in row.values for row in rows)]
    key = key_of(rows)
    reference = next((row for row in rows if row.arm == base), None)
    header = [
        "arm",
        "seeds",
        *(short(c) for c in columns),
        "retention %",
        *([f"vs {base}"] if reference else []),
        "train s",
    ]
    body = []
    if teacher:
        said = [f"{100 * teacher[c]:.1f}" if c in teacher else "" for c in columns]
        body.append(["teacher", "", *said, "100.0", *([""] if reference else []), ""])
    bold = {column: significant(rows, column) for column in columns}
    for row in rows:
        line = [row.arm, str(len(row.seeds))]
        for column in columns:
            said = _pm(*interval(row.values[column])) if column in row.values else ""
            line.append(f"**{said}**" if row.arm in bold[column] else said)
        own = row.values.get(key)
        line.append(f"{100 * interval(own)[0] / (100 * teacher[key]):.1f}" if own and teacher.get(key) else "")
        if reference:
            fair = own and row is not reference and row.seeds == reference.seeds and key in reference.values
            line.append(_pm(*paired(own, reference.values[key]), sign=True) if fair and own else "")
        body.append([*line, f"{row.train_seconds:.0f}" if row.train_seconds else ""])
    return header, body


def leads(rows: Sequence[Row], arm: str | None) -> tuple[list[str], list[list[str]]]:
    """(header, body): `arm` minus each other arm of one budget, paired by seed; bold where the interval excludes 0."""
    own = next((row for row in rows if row.arm == arm), None)
    others = [] if own is None else [row for row in rows if row is not own and row.seeds == own.seeds]
    if own is None or not others:
        return [], []
    columns = [c for c in LEADS if c in own.values and any(c in row.values for row in others)]
    body = []
    for row in others:
        line = [row.arm]
        for column in columns:
            if column not in row.values:
                line.append("")
                continue
            said = _pm(*paired(own.values[column], row.values[column]), sign=True)
            line.append(f"**{said}**" if differ(own.values[column], row.values[column]) else said)
        body.append(line)
    return [f"{own.arm} minus", *(short(c) for c in columns)], body


def write_tables(
    results: Sequence[Result],
    out: Path,
    teacher: dict[str, float],
    base: str | None,
    notes: Sequence[str] = (),
    ours: str | None = None,
) -> str:
    """table.md, table.csv, table.tex and results.jsonl in `out`; returns the Markdown.

    ours: the arm whose leads over the others stand below each table.
    """
    markdown, lines, tex = [], [], []
    rows = rows_of(results)
    for budget in sorted({row.budget for row in rows}):
        part = [row for row in rows if row.budget == budget]
        header, body = cells(part, teacher, base)
        if len({row.budget for row in rows}) > 1:
            markdown.append(f"{part[0].steps} steps\n")
        markdown.append(as_markdown(header, body))
        if (lead := leads(part, ours))[1]:
            markdown.append(as_markdown(*lead))
        lines += [["steps", *header], *([str(part[0].steps), *line] for line in body)]
        tex.append(latex(header, body, f"{part[0].steps} steps"))
    text = "\n".join([*markdown, *(f"{note}\n" for note in notes)])
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[cell.strip("*") for cell in line] for line in lines])
    found = [json.dumps({"arm": "teacher", "metrics": teacher})] if teacher else []
    found += [json.dumps(asdict(result)) for result in results]
    for name, content in (
        ("table.md", text), ("table.csv", buffer.getvalue()), ("table.tex", "\n".join(tex)),
        ("results.jsonl", "\n".join(found) + "\n"),
    ):  # fmt: skip
        fsio.write_bytes(out / name, content.encode())
    return text


def as_markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]) + "\n"


def latex(header: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    """A booktabs table."""

    def line(row: Sequence[str]) -> str:
        return " & ".join(_tex(cell) for cell in row) + r" \\"

    return "\n".join(
        [rf"% {caption}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", line(header), r"\midrule",
         *(line(row) for row in body), r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def short(column: str) -> str:
    """`image_retrieval_recall@1` (text→image) as T→I R@1."""
    for long, brief in SHORT:
        if column.startswith(long):
            return brief + column.removeprefix(long)
    return column


def _tex(cell: str) -> str:
    if cell.startswith("**"):
        return rf"\textbf{{{_tex(cell.strip('*'))}}}"
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("→", r"$\to$")):
        cell = cell.replace(plain, escaped)
    return cell


def _pm(value: float, half: float, sign: bool = False) -> str:
    shown = f"{value:+.1f}" if sign else f"{value:.1f}"
    return shown if math.isnan(half) else f"{shown} ± {half:.1f}"
