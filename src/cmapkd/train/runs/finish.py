"""The end of a run: the student validated, centred and written, the final row of the log, and whatever belongs beside it."""

from __future__ import annotations

from typing import Any

from cmapkd.config.tree import plain
from cmapkd.core.log import say
from cmapkd.distributed.group import alone, is_first
from cmapkd.export.run import export_student
from cmapkd.methods import served_term
from cmapkd.tasks.trained_head import TrainedHead, write_head
from cmapkd.train.records.ledgers import ledger_of_all
from cmapkd.train.runs.saving import measure_saving, saying
from cmapkd.train.state import Run
from cmapkd.train.validation.card_facts import facts
from cmapkd.train.validation.centre import centred
from cmapkd.train.validation.served import write_method_tensors


def finish(run: Run) -> dict[str, Any]:
    """Validate and write the student; gives the figures of the final row. The first process writes, all validate."""
    with run.state.averaged():
        return _finish(run)


def _finish(run: Run) -> dict[str, Any]:
    uncentred = run.validate()
    with centred(run) as share:
        metrics = run.validate() if share else uncentred
        done = None
        if is_first():
            with alone():
                done = write(run, metrics, share)
    saving = measure_saving(run)
    if saving:
        say(saying(saving))
    seen, quarantined = ledger_of_all(run)
    return {
        **metrics, **figures_of(run, done), "centred": share,
        **({f"plain/{k}": v for k, v in uncentred.items()} if share else {}),
        "ledger": {"seen": seen, "quarantined": len(quarantined)},
        **({"saving": saving} if saving else {}),
        **({} if run.task is None else {"task_unreadable": run.task.unreadable}),
    }  # fmt: skip


def write(run: Run, metrics: dict[str, float], share: float) -> TrainedHead | None:
    """Write the student and what belongs beside it; gives the task's head."""
    student, folder = run.state.learner.student, run.folder
    done = None if run.task is None else run.task.result(student)
    export_student(student, folder / "student", facts(run, metrics, share, done))
    say(f"student: {folder / 'student'} (folder of {student.package.library})")
    if done is not None:
        keep_head(run, done)
    keep_method_tensors(run)
    return done


def figures_of(run: Run, done: TrainedHead | None) -> dict[str, float]:
    """The figures of the task's head."""
    return {} if done is None else {f"{run.config.task.name}/{k}": v for k, v in done.metrics.items() if v is not None}


def keep_head(run: Run, done: TrainedHead) -> None:
    """Write the task's head beside the student, and say its figures in a line."""
    if done.said:
        say(done.said)
    if done.head is not None:
        write_head(run.config.task.name, done, plain(run.config.task), run.folder / "head")
        say(f"head: {run.folder / 'head'}")


def keep_method_tensors(run: Run) -> None:
    """Write the tensors that a method's result needs beside the student, where the student alone is not the result."""
    served = served_term(run.objective.method)
    if served is None:
        return
    texts = run.objective.facts.class_texts
    known = 0 if texts is None else len(texts)
    tensors = write_method_tensors(run.state.learner, run.folder / "student", run.loader.samples, known)
    say(f"the scores belong to {served.says}, not to the student alone; what that takes beside it: {tensors}")
