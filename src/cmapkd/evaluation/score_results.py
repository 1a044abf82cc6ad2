"""`cmapkd score`: a result file from anywhere, in the format of the challenges, against the truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cmapkd.config.suite import ResultData
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.evaluation.evaluate import open_model
from cmapkd.tasks.table import TASKS


def score_results(
    task: str, results: Path, data: ResultData, judge: str | None = None, out: Path | None = None
) -> None:
    """Print the figures of a result file; `out` also keeps them as JSON. judge: a model for CLIPScore.

    Raises DataError in one line for unknown, repeated or missing ids, or invalid numbers.
    """
    if judge is not None and not TASKS[task].judged:
        raise UsageError(f"score {task} --judge: only captions are judged by a model; drop it")
    scorer = TASKS[task].score
    assert scorer is not None, "only tasks with result files are offered"
    score = scorer(results, data, None if judge is None else partial(open_model, judge))
    print(score.line())
    if out is not None:
        fsio.write_json(out, score.to_json())
