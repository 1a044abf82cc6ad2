"""Results of finished runs: the figures of one run as a comparison reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmapkd.core.log import read_rows


@dataclass(frozen=True)
class Result:
    """One finished run. seconds: from start to end; train_seconds: without validation, None where a run was resumed."""

    arm: str
    seed: int
    budget: float
    steps: int
    samples: int
    seconds: float
    train_seconds: float | None
    metrics: dict[str, float]


def final_row(folder: Path) -> dict[str, Any]:
    """The last line of a finished run's metrics; {} while it is not finished."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    rows = read_rows(path)
    return next((row for row in reversed(rows) if row.get("kind") == "final"), {})


def read_result(folder: Path, arm: str, seed: int, budget: float = 1.0) -> Result:
    row = final_row(folder)
    skipped = ("seconds", "train_seconds")
    metrics = {str(name): value for name, value in row.items() if isinstance(value, float) and name not in skipped}
    return Result(
        arm, seed, budget, row["step"], row.get("samples", 0), row["seconds"], row.get("train_seconds"), metrics
    )
