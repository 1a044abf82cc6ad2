"""The final metrics of a finished run, read from its metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmapkd.core.log import read_rows


@dataclass(frozen=True)
class RunResult:
    """One finished run of an arm. seconds: wall clock; train_seconds: without validation, None where a run was resumed."""

    arm: str
    seed: int
    budget: float
    steps: int
    samples: int
    seconds: float
    train_seconds: float | None
    metrics: dict[str, float]


def final_row(folder: Path) -> dict[str, Any]:
    """The last row of a finished run's metrics; {} while it is not finished."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    return next((row for row in reversed(read_rows(path)) if row.get("kind") == "final"), {})


def read_run_result(folder: Path, arm: str, seed: int, budget: float = 1.0) -> RunResult:
    """The result of a finished run in `folder`."""
    row = final_row(folder)
    skipped = ("seconds", "train_seconds")
    metrics = {str(name): value for name, value in row.items() if isinstance(value, float) and name not in skipped}
    return RunResult(
        arm, seed, budget, row["step"], row.get("samples", 0), row["seconds"], row.get("train_seconds"), metrics
    )
