"""Validation while a run trains: figures into the log, and the best student so far into best/."""

from __future__ import annotations

import time

from cmapkd.distributed.collectives import values_of_all
from cmapkd.distributed.group import alone, is_first
from cmapkd.export.run import export_student
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.state import Run
from cmapkd.train.validation.card_facts import facts
from cmapkd.train.validation.centre import centred
from cmapkd.train.validation.neighbours import BEST


def evaluate(run: Run, step: int, recorder: Recorder) -> None:
    """Validation figures into the log; the best student by the chosen metric is kept in best/, a model folder."""
    started = time.monotonic()
    with run.state.averaged(), centred(run) as share:
        metrics = run.validate()
        recorder.validating += time.monotonic() - started
        recorder.flush()
        recorder.write({"kind": "val", "step": step, "centred": share, **metrics})
        metric = run.config.eval.metric if "text" in run.state.learner.student.shape.sides else BEST
        score = metrics.get(metric, float("-inf"))  # without data.val there is none
        if score > run.state.best:
            run.state.best = score
            best = f"{metric} {score:.4f}, at step {step}"
            if is_first():
                with alone():
                    export_student(
                        run.state.learner.student, run.folder / "best", facts(run, metrics, share, best=best)
                    )
            values_of_all(None)
