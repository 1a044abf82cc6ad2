"""`cmapkd compare`: methods × seeds at equal data order, steps, views and student initialisation; one table, resumable.

The seed sets the student's initialisation and the data order and nothing else, so runs of one seed pair across methods.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.methods import resolve
from cmapkd.train.run import distill
from cmapkd.train.teacher_score import teacher_metrics

COLUMNS = (
    "image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10",
    "text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10", "mean_recall@1", "mean_recall",
)  # fmt: skip
# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Arm:
    """One method's figures: metric name → one value a seed."""

    method: str
    values: dict[str, list[float]]
    seconds: list[float]


def compare(config: Config, methods: list[str], seeds: int, out: Path) -> Path:
    """Run every method with every seed under `out`, skip what is finished, resume what was cut off, write the table."""
    for method in methods:
        resolve(method, {}, {})
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; at least 1, and 3 for an interval worth reading")
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for method in methods:
            one_run(config, method, seed, out / f"{method}-{seed}")
    arms = [read_arm(method, [out / f"{method}-{seed}" for seed in range(seeds)]) for method in methods]
    write_tables(arms, out, teacher_metrics(config))
    return out / "table.md"


def one_run(config: Config, method: str, seed: int, folder: Path) -> None:
    """Finish one run; weights and shares of the config belong to its own method and are not lent to others."""
    if finished(folder):
        return
    own = method == config.method
    update: dict[str, object] = {"run": folder, "seed": seed, "method": method}
    if not own:
        update |= {"weights": {}, "share": {}, "schedule": None, "policy": type(config.policy)()}
    started = (folder / "config.yaml").is_file()
    say(f"{method} seed {seed}{' (resumed)' if started else ''}")
    distill(config.model_copy(update=update), resume=started)


def finished(folder: Path) -> bool:
    return bool(final_row(folder))


def final_row(folder: Path) -> dict:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return next((row for row in reversed(rows) if row.get("kind") == "final"), {})


def read_arm(method: str, folders: list[Path]) -> Arm:
    rows = [final_row(folder) for folder in folders]
    names = [name for name in rows[0] if isinstance(rows[0][name], float) and name != "seconds"]
    return Arm(method, {name: [row[name] for row in rows] for name in names}, [row["seconds"] for row in rows])


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half-width of the 95 % t-interval); the half-width of one value is NaN."""
    if len(values) < 2:
        return values[0], math.nan
    quantile = T95[min(len(values) - 2, len(T95) - 1)]
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def paired(a: list[float], b: list[float]) -> tuple[float, float]:
    """Mean difference a − b over paired seeds and its 95 % half-width."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


def write_tables(arms: list[Arm], out: Path, teacher: dict[str, float]) -> None:
    """table.md, table.csv and results.jsonl; values in percent, mean ± half-width of the 95 % interval over seeds."""
    columns = [c for c in (*COLUMNS, "zeroshot/acc1", "zeroshot/acc5") if all(c in arm.values for arm in arms)]
    header = ["method", "seeds", *(short(c) for c in columns), "retention %", "vs scratch", "s/run"]
    rows = (
        [["teacher", "", *(f"{100 * teacher[c]:.1f}" if c in teacher else "" for c in columns), "100.0", "", ""]]
        if teacher
        else []
    )
    base = next((arm for arm in arms if arm.method == "scratch"), None)
    key = "mean_recall@1"
    for arm in arms:
        cells = [_pm(*interval([100 * v for v in arm.values[c]])) for c in columns]
        kept = f"{100 * mean(arm.values[key]) / teacher[key]:.1f}" if teacher.get(key) else ""
        gain = (
            _pm(*paired([100 * v for v in arm.values[key]], [100 * v for v in base.values[key]]), sign=True)
            if base and base is not arm
            else ""
        )
        rows.append([arm.method, str(len(arm.seconds)), *cells, kept, gain, f"{mean(arm.seconds):.0f}"])
    markdown = "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]) + "\n"
    fsio.write_bytes(out / "table.md", markdown.encode())
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    fsio.write_bytes(out / "table.csv", buffer.getvalue().encode())
    lines = [json.dumps({"method": "teacher", "metrics": teacher})] if teacher else []
    for arm in arms:
        for seed in range(len(arm.seconds)):
            lines.append(json.dumps({"method": arm.method, "seed": seed, "seconds": arm.seconds[seed],
                                     "metrics": {k: v[seed] for k, v in arm.values.items()}}))  # fmt: skip
    fsio.write_bytes(out / "results.jsonl", ("\n".join(lines) + "\n").encode())
    print(markdown.rstrip(), flush=True)


def short(column: str) -> str:
    """`image_retrieval_recall@1` (text→image) as T→I R@1."""
    for long, brief in (
        ("image_retrieval_recall", "T→I R"),
        ("text_retrieval_recall", "I→T R"),
        ("mean_recall@1", "mean R@1"),
        ("mean_recall", "mean R"),
    ):
        if column.startswith(long):
            return brief + column.removeprefix(long)
    return column


def _pm(value: float, half: float, sign: bool = False) -> str:
    shown = f"{value:+.1f}" if sign else f"{value:.1f}"
    return shown if math.isnan(half) else f"{shown} ± {half:.1f}"
