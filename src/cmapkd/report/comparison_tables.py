"""A comparison as tables in Markdown, CSV, LaTeX and JSON lines; bold marks a significant lead."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.report.comparison import ArmRow, Comparison, arm_rows, budgets_of, key_metric, significant
from cmapkd.report.metric_names import METRICS, heading
from cmapkd.report.stats import differ, interval, paired

LEAD_METRICS = (
    "image_retrieval_recall@1", "text_retrieval_recall@1", "mean_recall@1", "mean_recall", "zeroshot/acc1", "head/acc1",
)  # fmt: skip
Grid = tuple[list[str], list[list[str]]]  # the header and the body of a table


def score_grid(rows: Sequence[ArmRow], teacher: dict[str, float], base: str | None) -> Grid:
    """The scores of one training length, the teacher first; `base`: the arm that differences are taken from."""
    metrics = [name for name in METRICS if any(name in row.values for row in rows)]
    key = key_metric(rows)
    reference = next((row for row in rows if row.arm == base), None)
    versus = [f"vs {base}"] if reference else []
    header = ["arm", "seeds", *map(heading, metrics), "retention %", *versus, "train s"]
    body = []
    if teacher:
        scores = [f"{100 * teacher[name]:.1f}" if name in teacher else "" for name in metrics]
        body.append(["teacher", "", *scores, "100.0", *("" for _ in versus), ""])
    bold = {name: significant(rows, name) for name in metrics}
    for row in rows:
        line = [row.arm, str(len(row.seeds))]
        for name in metrics:
            score = _plus_minus(*interval(row.values[name])) if name in row.values else ""
            line.append(f"**{score}**" if row.arm in bold[name] else score)
        own = row.values.get(key)
        line.append(f"{100 * interval(own)[0] / (100 * teacher[key]):.1f}" if own and teacher.get(key) else "")
        if reference:
            pairs = own and row is not reference and row.seeds == reference.seeds and key in reference.values
            line.append(_plus_minus(*paired(own, reference.values[key]), sign=True) if pairs and own else "")
        body.append([*line, f"{row.train_seconds:.0f}" if row.train_seconds else ""])
    return header, body


def lead_grid(rows: Sequence[ArmRow], arm: str | None) -> Grid:
    """`arm` minus each other arm of one training length, paired by seed; bold where the interval excludes 0."""
    own = next((row for row in rows if row.arm == arm), None)
    others = [] if own is None else [row for row in rows if row is not own and row.seeds == own.seeds]
    if own is None or not others:
        return [], []
    metrics = [name for name in LEAD_METRICS if name in own.values and any(name in row.values for row in others)]
    body = []
    for row in others:
        line = [row.arm]
        for name in metrics:
            if name not in row.values:
                line.append("")
                continue
            lead = _plus_minus(*paired(own.values[name], row.values[name]), sign=True)
            line.append(f"**{lead}**" if differ(own.values[name], row.values[name]) else lead)
        body.append(line)
    return [f"{own.arm} minus", *map(heading, metrics)], body


def write_tables(found: Comparison, out: Path) -> str:
    """Write table.md, table.csv, table.tex and results.jsonl to `out`; returns the Markdown."""
    markdown, lines, tex = [], [], []
    parts = budgets_of(arm_rows(found.results))
    for part in parts:
        steps = f"{part[0].steps} steps"
        header, body = score_grid(part, found.teacher, found.base)
        if len(parts) > 1:
            markdown.append(f"{steps}\n")
        markdown.append(as_markdown(header, body))
        if (leads := lead_grid(part, found.ours))[1]:
            markdown.append(as_markdown(*leads))
        lines += [["steps", *header], *([str(part[0].steps), *line] for line in body)]
        tex.append(as_latex(header, body, steps))
    text = "\n".join([*markdown, *(f"{note}\n" for note in found.notes)])
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[cell.strip("*") for cell in line] for line in lines])
    rows = [json.dumps({"arm": "teacher", "metrics": found.teacher})] if found.teacher else []
    rows += [json.dumps(asdict(result)) for result in found.results]
    files = {
        "table.md": text, "table.csv": buffer.getvalue(), "table.tex": "\n".join(tex),
        "results.jsonl": "\n".join(rows) + "\n",
    }  # fmt: skip
    for name, content in files.items():
        fsio.write_bytes(out / name, content.encode())
    return text


def as_markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are Markdown already."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]) + "\n"


def as_latex(header: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    """A booktabs table; the caption is a comment above it."""

    def line(row: Sequence[str]) -> str:
        return " & ".join(_tex(cell) for cell in row) + r" \\"

    return "\n".join(
        [rf"% {caption}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", line(header), r"\midrule",
         *(line(row) for row in body), r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _tex(cell: str) -> str:
    if cell.startswith("**"):
        return rf"\textbf{{{_tex(cell.strip('*'))}}}"
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("→", r"$\to$")):
        cell = cell.replace(plain, escaped)
    return cell


def _plus_minus(value: float, half: float, sign: bool = False) -> str:
    shown = f"{value:+.1f}" if sign else f"{value:.1f}"
    return shown if math.isnan(half) else f"{shown} ± {half:.1f}"
